"""Images that the package carries, as OCI layouts beside this file: hello-world, written by tools/make_hello.py.

In wherryd. What is read here is the package's own data, but its digests are verified all the same: a damaged installation should say so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from wherry.errors import DataLoss
from wherry.spec.ids import Digest
from wherry.spec.image import Descriptor, Index, Manifest, digest_of, host_platform, parse_document, select
from wherry.spec.reference import Reference, parse

_NAMES = ("hello-world",)


@dataclass(frozen=True, slots=True)
class Layout:
    """One image for this machine. `blobs`: all of its content. `layers`: lowest first."""

    target: Descriptor
    config: Digest
    layers: tuple[Digest, ...]
    blobs: Mapping[Digest, bytes]


def find(reference: Reference) -> Layout | None:
    """The embedded image of that name (tag "latest", from Docker Hub's official ones), if there is one."""
    for name in _NAMES:
        if reference.tagged() == parse(name).tagged():
            return _read(os.path.join(os.path.dirname(__file__), name))
    return None


def _read(root: str) -> Layout:
    with open(os.path.join(root, "index.json"), "rb") as file:
        index = parse_document(file.read())
    assert isinstance(index, Index)
    target = select(index, host_platform())
    blobs: dict[Digest, bytes] = {}

    def blob(digest: Digest) -> bytes:
        with open(os.path.join(root, "blobs", *digest.split(":")), "rb") as file:
            blobs[digest] = file.read()
        if digest_of(blobs[digest]) != digest:
            raise DataLoss(f"{root}: the blob {digest} is damaged; install wherry again")
        return blobs[digest]

    manifest = parse_document(blob(target.digest), target.media_type)
    assert isinstance(manifest, Manifest)
    for descriptor in (manifest.config, *manifest.layers):
        blob(descriptor.digest)
    return Layout(target, manifest.config.digest, tuple(layer.digest for layer in manifest.layers), blobs)
