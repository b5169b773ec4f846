"""Makes an image of a container: its changes as one more layer on top of its image's.

In wherryd; the layer is written (compressed and hashed on the way) in a thread and unpacked by a worker, as a pulled one would be: what the new
image's containers will see is what its blob holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from wherry.core.cancellation import thread_to_the_end
from wherry.core.content import Ingest
from wherry.core.images import Image, Images, NewImage
from wherry.core.layers import LayerWork, Wanted
from wherry.core.manifests import manifest_of
from wherry.core.snapshots import Staged
from wherry.core.unpack import Unpacked
from wherry.core.unpackers import Unpackers
from wherry.errors import InvalidArgument
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import Digest
from wherry.spec.image import (
    MAX_LAYERS,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    chain_ids,
    diff_ids,
    digest_of,
)
from wherry.spec.reference import Reference

EMPTY_LAYER = Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
"""The diff id of a tar without entries."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is recorded of a commit besides its layer: the new image's `run` configuration and its line of the history."""

    run: Mapping[str, Any]
    created: str
    created_by: str
    author: str
    comment: str


class Committer:
    def __init__(self, images: Images, unpackers: Unpackers, work: LayerWork) -> None:
        self._images = images
        self._content = images.content
        self._unpackers = unpackers
        self._work = work

    async def commit(self, key: str, image: Image, step: Step, name: Reference | None) -> Image:
        """The snapshot `key` of a container of `image` as an image. NotFound when the container was removed meanwhile."""
        _, base = await thread_to_the_end(manifest_of, self._content, image.target, image.id)
        with (
            self._content.ingest() as file,
            self._images.lease(image.blobs),
            self._images.snapshots.leased(image.layers),
        ):
            diff_id = await thread_to_the_end(self._write_layer, key, file)
            if diff_id == EMPTY_LAYER:
                return await self._record(image, base.layers, None, step, name)
            if len(image.layers) >= MAX_LAYERS:
                raise InvalidArgument("max depth exceeded")
            layer = Descriptor(f"{OCI_LAYER}+gzip", file.digest, file.size)
            return await self._record(image, (*base.layers, layer), (diff_id, file), step, name)

    def _write_layer(self, key: str, file: Ingest) -> Digest:
        """→ the diff id."""
        from isal import isal_zlib

        compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
        diff = sha256()

        def write(data: bytes) -> None:
            diff.update(data)
            file.write(compressor.compress(data))

        self._images.snapshots.write_changes(key, write)
        file.write(compressor.flush())
        return Digest("sha256:" + diff.hexdigest())

    async def _record(
        self,
        image: Image,
        layers: tuple[Descriptor, ...],
        written: tuple[Digest, Ingest] | None,
        step: Step,
        name: Reference | None,
    ) -> Image:
        """`written`: the new layer's diff id and its blob, the last of `layers`."""
        diff_id = written[0] if written else None
        config = _config(image.config, diff_id, step)
        diffs = diff_ids(config)
        chain = chain_ids(diffs)
        encoded = json.dumps(config, separators=(",", ":")).encode()
        described = Descriptor(OCI_CONFIG, digest_of(encoded), len(encoded))
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        manifest = json.dumps(document, separators=(",", ":")).encode()
        target = Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest))
        blobs = frozenset({described.digest, target.digest, *(layer.digest for layer in layers)})
        new = NewImage(described.digest, target, blobs, [], [name] if name else [], image.id)
        wanted = [] if diff_id is None else [self._wanted(chain[-1], image, diff_id, layers[-1].digest)]
        async with self._images.holding(blobs, chain):
            if written is not None:
                await thread_to_the_end(written[1].commit)
            await thread_to_the_end(self._content.add, encoded, described.digest)
            await thread_to_the_end(self._content.add, manifest, target.digest)
            async with self._work.unpacked(wanted) as new.layers:
                return await self._images.add(new)

    def _wanted(self, chain_id: Any, image: Image, diff_id: Digest, blob: Digest) -> Wanted:
        async def make(staged: Staged, _: ProgressSink) -> Unpacked:
            return await self._unpackers.unpack(self._content.path(blob), staged.fs, diff_id)

        return Wanted(chain_id, image.top, diff_id, make, lambda _: None)


def _config(base: Mapping[str, Any], diff_id: Digest | None, step: Step) -> dict[str, Any]:
    """The config of an image that is `base` and one step more. What wherry does not know of `base` stays."""
    line: dict[str, Any] = {"created": step.created, "created_by": step.created_by}
    for key, value in (("author", step.author), ("comment", step.comment), ("empty_layer", diff_id is None)):
        if value:
            line[key] = value
    config = {key: value for key, value in base.items() if key not in _OF_THE_BASE}
    if step.author:
        config["author"] = step.author
    rootfs = {"type": "layers", "diff_ids": [*diff_ids(base), *([diff_id] if diff_id else [])]}
    history = [*(base.get("history") or []), line]
    return {**config, "created": step.created, "config": dict(step.run), "rootfs": rootfs, "history": history}


_OF_THE_BASE = ("author", "comment", "container", "container_config", "docker_version", "id", "parent", "throwaway")
"""What Docker's own configs say of one image alone."""
