"""Layers that the database has forgotten, made again from the blobs of an image that stands on them. In wherryd, on the event loop.

**Invariant**: they are recorded together with the image, or not at all; what the image was is as it was.
"""

from __future__ import annotations

from wherry.core.cancellation import thread_to_the_end
from wherry.core.images import Image, Images, NewImage
from wherry.core.layers import LayerWork, Wanted
from wherry.core.manifests import manifest_of
from wherry.core.snapshots import Staged
from wherry.core.unpack import Unpacked
from wherry.core.unpackers import Unpackers
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import ChainId, Digest
from wherry.spec.image import chain_ids, diff_ids


def lacks_layers(images: Images, image: Image) -> bool:
    """Whether layers of the image are in no row, and its config says which they are."""
    return any(images.snapshots.layer(chain_id) is None for chain_id in image.layers)


async def restore_layers(images: Images, unpackers: Unpackers, work: LayerWork, image: Image) -> None:
    """NotFound, DataLoss and the like when a blob is not there or is not what the image says."""
    _, manifest = await thread_to_the_end(manifest_of, images.content, image.target, image.id)
    diffs = diff_ids(image.config)
    chain = chain_ids(diffs)

    def wanted(blob: Digest, position: int) -> Wanted:
        async def make(staged: Staged, _: ProgressSink) -> Unpacked:
            return await unpackers.unpack(images.content.path(blob), staged.fs, diffs[position])

        parent: ChainId | None = chain[position - 1] if position else None
        return Wanted(chain[position], parent, diffs[position], make, lambda _: None)

    async with images.holding(image.blobs, chain):
        layers = [wanted(layer.digest, position) for position, layer in enumerate(manifest.layers)]
        async with work.unpacked(layers) as staged:
            await images.add(NewImage(Digest(image.id), image.target, image.blobs, staged, tagged=False))
