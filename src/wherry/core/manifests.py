"""What hangs on a target (what a name stands for: a manifest, or an index of manifests), as far as it is in the content store.

Blocking: call from threads. **Invariant**: every document is verified and bounded when it is read; one that is missing belongs to a platform
that was not asked for, and is passed over; one that is damaged counts as missing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from wherry.core.content import Content
from wherry.errors import DataLoss, InvalidArgument, NotFound
from wherry.spec.ids import Digest
from wherry.spec.image import (
    DOCKER_CONFIG,
    MAX_DOCUMENT,
    OCI_CONFIG,
    Descriptor,
    Index,
    Manifest,
    is_layer_type,
    parse_document,
)

MAX_DEPTH = 3
"""How deep indexes may be nested."""


ATTESTATION = "attestation-manifest"
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
_IMAGE_CONFIGS = (OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", "text/html", "")
"""The last three are what old registries and builders wrote by mistake; the config itself is checked."""


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index marks it as BuildKit marks attestations (provenance, SBOM) of another of its manifests."""
    return descriptor.annotations.get(REFERENCE_TYPE) == ATTESTATION


def is_attached(descriptor: Descriptor, manifest: Manifest) -> bool:
    """Whether it is no image, but something that belongs to one, or an artifact of another kind."""
    return (
        is_attestation(descriptor)
        or is_artifact(manifest)
        or manifest.raw.get("subject") is not None
        or bool(manifest.raw.get("artifactType"))
    )


def is_artifact(manifest: Manifest) -> bool:
    """Whether it is no container image: its config is of another kind, or of its layers not one is a file system's (cosign's signatures)."""
    if manifest.config.media_type not in _IMAGE_CONFIGS:
        return True
    return bool(manifest.layers) and not any(is_layer_type(layer.media_type) for layer in manifest.layers)


@dataclass(frozen=True, slots=True)
class Node:
    """One document below a target. `descriptor` is as the index above says it, `document` None when it is not here."""

    descriptor: Descriptor
    document: Manifest | Index | None


def walk(content: Content, target: Descriptor, depth: int = MAX_DEPTH) -> Iterator[Node]:
    """The target itself, then what its indexes list, in their order."""
    document = None
    if (target.is_manifest or target.is_index) and content.has(target.digest):
        with suppress(DataLoss):
            document = parse_document(content.read(target.digest, MAX_DOCUMENT), target.media_type)
    yield Node(target, document)
    if isinstance(document, Index) and depth > 1:
        for entry in document.manifests:
            yield from walk(content, entry, depth - 1)


def manifest_of(content: Content, target: Descriptor, image_id: str) -> tuple[Descriptor, Manifest]:
    """The manifest below `target` of the image or artifact with that id. NotFound."""
    for node in walk(content, target):
        if isinstance(node.document, Manifest) and image_id in (node.document.config.digest, node.descriptor.digest):
            return node.descriptor, node.document
    raise NotFound(f"image {image_id}: its manifest is not below {target.digest}")


def referrers(content: Content, blobs: Iterable[Digest], known: Container[Digest]) -> list[Descriptor]:
    """Of an image's `blobs` those that are no part of it (`known`) but refer to one: signatures and the like, kept beside it."""
    found = []
    for digest in sorted(blobs):
        if digest in known or not content.has(digest) or content.size(digest) > MAX_DOCUMENT:
            continue
        try:
            document = parse_document(content.read(digest, MAX_DOCUMENT))
        except InvalidArgument:
            continue
        subject = document.raw.get("subject")
        if isinstance(document, Manifest) and isinstance(subject, dict) and subject.get("digest") in known:
            kind = document.raw.get("artifactType")
            kind = kind if isinstance(kind, str) and kind else document.config.media_type
            found.append(Descriptor(document.media_type, digest, content.size(digest), artifact_type=kind))
    return found


def blobs_of(content: Content, target: Descriptor) -> set[Digest]:
    """The digests of everything below `target` that is here."""
    found = set()
    for node in walk(content, target):
        if node.document is not None:
            found.add(node.descriptor.digest)
        if isinstance(node.document, Manifest):
            parts = (node.document.config, *node.document.layers)
            found |= {part.digest for part in parts if content.has(part.digest)}
    return found
