"""Manifests and indexes as the registry must understand them: what they need, what they are about. Pure.

Source: OCI image-spec 1.1 (manifest.md, image-index.md), distribution-spec 1.1 ("Listing Referrers"), Docker's manifest v2, schema 2.

**Invariants**: a document that could be read both as a manifest and as an index, or whose type contradicts its header, is refused (CVE-2021-41190).
Fields that are not known are kept, because the bytes are kept. Deliberately absent: limits that only a container engine has, and schema 1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from wherry.errors import InvalidArgument
from wherry.registry.errors import Code, Refused
from wherry.spec.ids import Digest
from wherry.spec.image import (
    DOCUMENT_MEMBERS,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    check_spelling,
    decode,
    descriptor,
)

MAX_MANIFEST = 4 << 20
"""Bytes. The specification wants at least 4 MB to be possible."""


@dataclass(frozen=True, slots=True)
class Document:
    media_type: str
    blobs: tuple[Digest, ...]
    """Config and layers: must be in the repository."""
    elsewhere: tuple[Digest, ...]
    """Layers that may be fetched from other places ("non-distributable", "foreign"): needed if they are here."""
    manifests: tuple[Digest, ...]
    """An index's manifests: must be in the repository."""
    listed: tuple[Digest, ...]
    """What else an index lists (those of BuildKit's caches list layers): must be in the repository, whatever it is."""
    subject: Digest | None
    artifact_type: str
    annotations: dict[str, Any]

    @property
    def needs(self) -> tuple[Digest, ...]:
        return (*self.blobs, *self.elsewhere, *self.manifests, *self.listed)

    def descriptor(self, digest: Digest, size: int) -> str:
        """As a referrers list shows it, in JSON."""
        members: dict[str, Any] = {"mediaType": self.media_type, "digest": digest, "size": size}
        if self.artifact_type:
            members["artifactType"] = self.artifact_type
        if self.annotations:
            members["annotations"] = self.annotations
        return json.dumps(members, separators=(",", ":"))


def parse(data: bytes, content_type: str) -> Document:
    """`content_type` is the request's header; one that names no format (application/json) leaves that to the document.

    Refused (MANIFEST_INVALID) when it is no document that can be kept.
    """
    named = content_type.partition(";")[0].strip()
    try:
        return _parse(data, named if named.startswith("application/vnd.") else "")
    except InvalidArgument as error:
        raise Refused(Code.MANIFEST_INVALID, str(error)) from None


def _parse(data: bytes, named: str) -> Document:
    raw = decode(data, "manifest")
    check_spelling(raw, DOCUMENT_MEMBERS, "manifest")
    if raw.get("schemaVersion") != 2:
        raise InvalidArgument("manifest: schemaVersion is not 2: other versions are not supported")
    inner = raw.get("mediaType", "")
    if not isinstance(inner, str):
        raise InvalidArgument("manifest: mediaType is not a string")
    if "manifests" in raw and ("layers" in raw or "config" in raw or "fsLayers" in raw):
        raise InvalidArgument("manifest is ambiguous: it has the members of a manifest and of an index")
    is_index = "manifests" in raw
    media_type = named or inner or (OCI_INDEX if is_index else OCI_MANIFEST)
    if inner and inner != media_type:
        raise InvalidArgument(f"manifest says that it is {inner}, but was sent as {media_type}")
    if media_type not in (INDEX_TYPES if is_index else MANIFEST_TYPES):
        raise InvalidArgument(f"{'an index' if is_index else 'a manifest'} of type {media_type} is not supported")
    subject = raw.get("subject")
    artifact_type = _text(raw, "artifactType")
    annotations = raw.get("annotations")
    if annotations is not None and not (
        isinstance(annotations, dict) and all(isinstance(value, str) for value in annotations.values())
    ):  # they are shown in lists of referrers, which one of another kind would make unreadable for others
        raise InvalidArgument("manifest: annotations are not a map of strings")
    blobs: list[Descriptor] = []
    manifests: list[Descriptor] = []
    if is_index:
        manifests = _descriptors(raw, "manifests")
    else:
        config = descriptor(raw.get("config"), "manifest: config")
        blobs = [config, *_descriptors(raw, "layers")]
        artifact_type = artifact_type or config.media_type
    return Document(
        media_type,
        tuple(blob.digest for blob in blobs if not _is_elsewhere(blob)),
        tuple(blob.digest for blob in blobs if _is_elsewhere(blob)),
        tuple(entry.digest for entry in manifests if entry.is_manifest or entry.is_index),
        tuple(entry.digest for entry in manifests if not (entry.is_manifest or entry.is_index)),
        descriptor(subject, "manifest: subject").digest if subject is not None else None,
        artifact_type,
        annotations or {},
    )


def _descriptors(raw: dict[str, Any], key: str) -> list[Descriptor]:
    items = raw.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise InvalidArgument(f"manifest: {key} is not a list")
    return [descriptor(item, f"manifest: {key}[{n}]") for n, item in enumerate(items)]


def _text(raw: dict[str, Any], key: str) -> str:
    value = raw.get(key, "")
    if not isinstance(value, str):
        raise InvalidArgument(f"manifest: {key} is not a string")
    return value


def _is_elsewhere(blob: Descriptor) -> bool:
    return ".nondistributable." in blob.media_type or ".foreign." in blob.media_type
