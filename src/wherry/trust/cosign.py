"""cosign's format of signatures: the signed document, and the manifests that carry it in a registry. Pure.

Sources: sigstore's "Cosign Signature Specification" and containers/image's "atomic signature" (the document, called simple signing); OCI
distribution-spec 1.1 (referrers).

    <repository>:sha256-<hex>.sig     a manifest whose layers are signed documents, each with its signature as an annotation
    a referrer of the image           the same, with one layer, `subject` and `artifactType`

**Invariant**: everything here is hostile: it proves nothing until a key has verified the document's bytes, as they came.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.errors import InvalidArgument
from wherry.spec.ids import Digest, is_digest
from wherry.spec.image import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest, decode, digest_of

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
MAX_PAYLOAD = 64 << 10
MAX_SIGNATURES = 64
"""How many of one manifest are looked at."""
_DOCUMENT_TYPE = "cosign container image signature"
EMPTY = b"{}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a document says: that `digest` is an image of the repository `repository`."""

    repository: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Carried:
    """A signature in a manifest: where the document is, and its signature's bytes."""

    payload: Descriptor
    signature: bytes


def tag_of(digest: Digest) -> str:
    """Under which the signatures of an image are kept: "sha256-….sig"."""
    return f"{digest.replace(':', '-')}.sig"


def payload(claim: Claim) -> bytes:
    document = {
        "critical": {
            "identity": {"docker-reference": claim.repository},
            "image": {"docker-manifest-digest": claim.digest},
            "type": _DOCUMENT_TYPE,
        },
        "optional": None,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def parse_payload(data: bytes) -> Claim:
    """InvalidArgument when it is not such a document."""
    critical = decode(data, "signed document").get("critical")
    try:
        assert isinstance(critical, dict)
        repository, digest = critical["identity"]["docker-reference"], critical["image"]["docker-manifest-digest"]
        if critical["type"] != _DOCUMENT_TYPE or not isinstance(repository, str) or not is_digest(digest):
            raise ValueError
    except (AssertionError, KeyError, TypeError, ValueError):
        raise InvalidArgument("signed document: not a container image signature") from None
    return Claim(repository, Digest(digest))


def carried_by(manifest: Manifest) -> list[Carried]:
    """The signatures in a manifest; what is none of cosign's is left out."""
    found = []
    for layer in manifest.layers[:MAX_SIGNATURES]:
        encoded = layer.annotations.get(SIGNATURE, "")
        if layer.media_type != PAYLOAD_TYPE or not encoded or layer.size > MAX_PAYLOAD:
            continue
        try:
            found.append(Carried(layer, base64.b64decode(encoded, validate=True)))
        except binascii.Error:
            continue
    return found


def layer(document: bytes, signature: bytes) -> dict[str, Any]:
    return {
        "mediaType": PAYLOAD_TYPE,
        "digest": digest_of(document),
        "size": len(document),
        "annotations": {SIGNATURE: base64.b64encode(signature).decode()},
    }


def tagged_manifest(layers: Sequence[Mapping[str, Any]]) -> tuple[bytes, bytes]:
    """→ (manifest, its config) of the tag scheme."""
    config = _encode(
        {
            "architecture": "",
            "created": "0001-01-01T00:00:00Z",
            "history": [{"created": "0001-01-01T00:00:00Z"} for _ in layers],
            "os": "",
            "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
            "config": {},
        }
    )
    return _manifest({"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)}, layers), config


def referring_manifest(one: dict[str, Any], subject: Descriptor) -> bytes:
    """A referrer of `subject`; its config is EMPTY."""
    config = {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)}
    about = {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size}
    return _manifest(config, [one], artifactType=ARTIFACT_TYPE, subject=about)


def _manifest(config: dict[str, Any], layers: Sequence[Mapping[str, Any]], **more: Any) -> bytes:
    return _encode({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **more, "config": config, "layers": list(layers)})


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
