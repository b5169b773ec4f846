"""cosign's documents and manifests: ours are as cosign's, hostile ones prove nothing and break nothing."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.spec.ids import Digest
from wherry.spec.image import OCI_MANIFEST, Descriptor, Manifest, digest_of, parse_document
from wherry.trust import cosign
from wherry.trust.cosign import Claim

DIGEST = Digest("sha256:" + "a" * 64)
CLAIM = Claim("registry.example/team/app", DIGEST)


def test_a_document_says_what_it_was_made_of() -> None:
    data = cosign.payload(CLAIM)
    assert json.loads(data)["critical"] == {
        "identity": {"docker-reference": "registry.example/team/app"},
        "image": {"docker-manifest-digest": DIGEST},
        "type": "cosign container image signature",
    }
    assert cosign.parse_payload(data) == CLAIM


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"critical": 5}',
        b'{"critical": {"identity": [], "image": {}, "type": ""}}',
        cosign.payload(CLAIM).replace(b"cosign container", b"atomic container"),
        cosign.payload(CLAIM).replace(b"sha256:", b"md5:"),
        cosign.payload(CLAIM).replace(b'"optional"', b'"critical"'),
    ],
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        cosign.parse_payload(data)


@given(st.binary(max_size=200))
def test_no_document_is_a_surprise(data: bytes) -> None:
    try:
        cosign.parse_payload(data)
    except InvalidArgument:
        pass


def test_a_manifest_carries_signatures() -> None:
    layers = [cosign.layer(b"one", b"\x01"), cosign.layer(b"two", b"\x02")]
    manifest, config = cosign.tagged_manifest(layers)
    parsed = parse_document(manifest, OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert parsed.config.digest == digest_of(config)
    found = cosign.carried_by(parsed)
    assert [(one.payload.digest, one.signature) for one in found] == [
        (digest_of(b"one"), b"\x01"),
        (digest_of(b"two"), b"\x02"),
    ]


def test_a_referrer_names_its_image() -> None:
    image = Descriptor(OCI_MANIFEST, DIGEST, 5)
    document = json.loads(cosign.referring_manifest(cosign.layer(b"one", b"\x01"), image))
    assert document["subject"] == {"mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 5}
    assert document["artifactType"] == cosign.ARTIFACT_TYPE


def test_what_is_none_of_cosigns_is_left_out() -> None:
    good = cosign.layer(b"good", b"\x01")
    layers = [
        {**good, "mediaType": "text/plain"},
        {**good, "annotations": {}},
        {**good, "annotations": {cosign.SIGNATURE: "not base64!"}},
        {**good, "size": cosign.MAX_PAYLOAD + 1},
        good,
    ]
    parsed = parse_document(cosign.tagged_manifest(layers)[0], OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert [one.signature for one in cosign.carried_by(parsed)] == [b"\x01"]


def test_the_tag_is_cosigns() -> None:
    assert cosign.tag_of(DIGEST) == f"sha256-{'a' * 64}.sig"
    assert base64.b64decode(cosign.layer(b"", b"\x00")["annotations"][cosign.SIGNATURE]) == b"\x00"
