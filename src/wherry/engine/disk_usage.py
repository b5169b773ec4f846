"""What the store takes on disk, and what of it each image takes: for `docker system df`, and for what a prune has gained. In wherryd.

Everything is in blocks, as `du` counts: compressed blobs, unpacked layers with what the storage driver has made of them, downloads that were
interrupted, directories. So the sums are those of the file system, and no sizes of files: those are what `docker images` and `docker ps -s` show
(docs/decisions/image-targets.md). dockerd with containerd's store counts blobs and snapshots alike.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from wherry.core.cancellation import thread_to_the_end
from wherry.core.images import Image, Images
from wherry.core.snapshots import Layer
from wherry.linux.usage import BLOCK, disk_usage
from wherry.spec.ids import ChainId, Digest, ImageId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pieces:
    """What images are made of: each may be part of several."""

    blobs: frozenset[Digest] = frozenset()
    layers: frozenset[ChainId] = frozenset()

    def __or__(self, other: Pieces) -> Pieces:
        return Pieces(self.blobs | other.blobs, self.layers | other.layers)

    def __and__(self, other: Pieces) -> Pieces:
        return Pieces(self.blobs & other.blobs, self.layers & other.layers)

    def __sub__(self, other: Pieces) -> Pieces:
        return Pieces(self.blobs - other.blobs, self.layers - other.layers)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of pieces, in bytes on disk."""

    blobs: Mapping[Digest, int]
    layers: Mapping[ChainId, int]

    def of(self, pieces: Pieces) -> int:
        return sum(self.blobs.get(digest, 0) for digest in pieces.blobs) + sum(
            self.layers.get(chain_id, 0) for chain_id in pieces.layers
        )


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """`shared`: of `size`, what other images have as well."""

    size: int
    shared: int


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """`total`: of content and layers. `reclaimable`: what of it pruning all unused images frees. `layers`: each with its driver's base."""

    total: int
    reclaimable: int
    images: Mapping[ImageId, ImageUsage]
    layers: Mapping[ChainId, int]


def pieces_of(images: Iterable[Image]) -> Pieces:
    """All that any of them needs."""
    found = Pieces()
    for image in images:
        found |= Pieces(image.blobs, frozenset(image.layers))
    return found


async def measure(images: Images, pieces: Pieces) -> Sizes:
    """A layer that was not measured before is walked through, in a thread."""
    layers = [layer for layer in images.snapshots.layers() if layer.chain_id in pieces.layers]
    return await thread_to_the_end(_measure, images, pieces.blobs, layers)


def _measure(images: Images, blobs: Iterable[Digest], layers: Iterable[Layer]) -> Sizes:
    found = {}
    for digest in blobs:
        with suppress(FileNotFoundError):
            found[digest] = os.stat(images.content.path(digest)).st_blocks * BLOCK
    return Sizes(found, {layer.chain_id: images.snapshots.layer_disk_usage(layer) for layer in layers})


def missing(images: Images, pieces: Pieces) -> Pieces:
    """Those that are in the store no more."""
    return Pieces(
        frozenset(digest for digest in pieces.blobs if not images.content.has(digest)),
        frozenset(chain_id for chain_id in pieces.layers if images.snapshots.layer(chain_id) is None),
    )


async def measure_store(images: Images, is_used: Callable[[Image], bool]) -> StoreUsage:
    """`is_used`: whether a container was made from the image."""
    variants = {image.id: images.variants(image) for image in images.list()}
    pieces = {image_id: pieces_of(found) for image_id, found in variants.items()}
    kept = pieces_of(image for found in variants.values() if any(map(is_used, found)) for image in found)
    kept |= Pieces(layers=frozenset(images.snapshots.needed()))
    blobs = Counter(digest for one in pieces.values() for digest in one.blobs)
    layers = Counter(chain_id for one in pieces.values() for chain_id in one.layers)
    shared = Pieces(_several(blobs), _several(layers))
    every = pieces_of(images.all())
    sizes = await measure(images, every)
    total, partial = await thread_to_the_end(_measure_all, images)
    return StoreUsage(
        total,
        sizes.of(every - kept) + partial,
        {image_id: ImageUsage(sizes.of(one), sizes.of(one & shared)) for image_id, one in pieces.items()},
        sizes.layers,
    )


def _several(found: Counter[T]) -> frozenset[T]:
    return frozenset(piece for piece, count in found.items() if count > 1)


def _measure_all(images: Images) -> tuple[int, int]:
    total = disk_usage(images.content.root) + images.snapshots.disk_usage()
    return total, images.content.partials.disk_usage()
