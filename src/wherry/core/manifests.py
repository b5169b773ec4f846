"""What hangs on a target (what a name stands for: a manifest, or an index of manifests), as far as it is in the content store.

Blocking: call from threads. **Invariant**: every document is verified and bounded when it is read; one that is missing belongs to a platform
that was not asked for, and is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wherry.core.content import Content
from wherry.errors import NotFound
from wherry.spec.ids import Digest
from wherry.spec.image import MAX_DOCUMENT, Descriptor, Index, Manifest, parse_document

MAX_DEPTH = 3
"""How deep indexes may be nested."""


@dataclass(frozen=True, slots=True)
class Node:
    """One document below a target. `descriptor` is as the index above says it, `document` None when it is not here."""

    descriptor: Descriptor
    document: Manifest | Index | None


def walk(content: Content, target: Descriptor, depth: int = MAX_DEPTH) -> Iterator[Node]:
    """The target itself, then what its indexes list, in their order."""
    document = None
    if (target.is_manifest or target.is_index) and content.has(target.digest):
        document = parse_document(content.read(target.digest, MAX_DOCUMENT), target.media_type)
    yield Node(target, document)
    if isinstance(document, Index) and depth > 1:
        for entry in document.manifests:
            yield from walk(content, entry, depth - 1)


def manifest_of(content: Content, target: Descriptor, config: str) -> tuple[Descriptor, Manifest]:
    """The manifest below `target` of the image with that config. NotFound."""
    for node in walk(content, target):
        if isinstance(node.document, Manifest) and node.document.config.digest == config:
            return node.descriptor, node.document
    raise NotFound(f"image {config}: its manifest is not below {target.digest}")


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
