"""Images from tar archives: what `docker save` and OCI tools write (`load`), and plain root file systems (`import_`).

In wherryd; the archive is taken apart in a thread, its layers are unpacked by workers. Read are both forms of `docker save`, the old one
(`manifest.json`, `ID/layer.tar`, links between layers) and that of Docker 25 and later (an OCI layout with a manifest.json beside it), and OCI
layouts as skopeo, buildah and containerd write them; each compressed or not.

**Invariants**: an archive's member names are only compared, never used as paths; digests that the archive claims are verified; an image becomes
visible when it is whole; what an interrupted load has left is removed by it or at the next start.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from wherry.core.archive_forms import Archive, Found, Group, Member, images_of, split, spool
from wherry.core.bridge import in_thread
from wherry.core.cancellation import thread_to_the_end
from wherry.core.compression import decompressed, detect
from wherry.core.images import Image, Images, NewImage
from wherry.core.layers import LayerWork, Wanted, both
from wherry.core.snapshots import Staged
from wherry.core.unpack import Unpacked
from wherry.core.unpackers import Unpackers
from wherry.errors import InvalidArgument
from wherry.linux.remove import remove_tree
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import ChainId, Digest
from wherry.spec.image import (
    MAX_CONFIG,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    chain_ids,
    diff_ids,
    digest_of,
    host_platform,
    parse_config,
    platform_to_json,
)
from wherry.spec.reference import Reference

_log = logging.getLogger(__name__)

_LAYER_SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "": ""}


class Archives:
    def __init__(self, images: Images, unpackers: Unpackers, work: LayerWork) -> None:
        self._images = images
        self._content = images.content
        self._unpackers = unpackers
        self._work = work

    async def load(
        self,
        stream: AsyncIterator[bytes],
        progress: ProgressSink,
        *,
        quiet: bool = False,
        platforms: Sequence[Platform] = (),
    ) -> list[Image]:
        """→ the images of the archive, now stored: of each name the primary. `progress` is told as dockerd tells it."""
        directory = self._content.ingest_directory()
        try:
            archive = await in_thread(lambda source: split(source, directory), stream)
            groups = await thread_to_the_end(images_of, archive, platforms)
            return [await self._store_group(archive, group, progress, quiet=quiet) for group in groups]
        finally:
            await thread_to_the_end(_clear, directory)

    async def _store_group(self, archive: Archive, group: Group, progress: ProgressSink, *, quiet: bool) -> Image:
        """All images that one name stands for; they are there one after the other, each whole."""
        if group.target is None or len(group.images) == 1:
            self._announce_renames(group, progress)
        stored = [await self._store(archive, group, found, progress, quiet=quiet) for found in group.images]
        for name in group.names:
            progress({"stream": f"Loaded image: {name.familiar}\n"})
        if not group.names:
            progress({"stream": f"Loaded image ID: {stored[0].id}\n"})
        primary = self._images.primary(stored[0].target.digest)
        return primary if primary is not None and primary.id in {image.id for image in stored} else stored[0]

    async def _store(
        self, archive: Archive, group: Group, found: Found, progress: ProgressSink, *, quiet: bool
    ) -> Image:
        if found.is_artifact and group.target is not None:
            return await self._keep_artifact(found, group.target, group.names)
        config = parse_config(await thread_to_the_end(archive.read, found.config, MAX_CONFIG))
        diffs = diff_ids(config)
        if len(diffs) != len(found.layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(diffs)}, got {len(found.layers)}"
            )
        documents: dict[Digest, bytes] = {}
        if group.target is not None:
            target = group.target
        else:
            data, target = await thread_to_the_end(_manifest_for, found)
            documents[target.digest] = data
        kept = [*group.attached, *([found.manifest] if found.manifest else [])]
        sink = (lambda _: None) if quiet else progress
        return await self._record(found, kept, group.names, diffs, documents, target, sink)

    async def _keep_artifact(self, found: Found, target: Descriptor, names: Sequence[Reference]) -> Image:
        members = {member.digest: member for member in (found.config, *found.layers, found.manifest) if member}
        blobs = frozenset(members)
        async with self._images.holding(blobs, ()):
            await thread_to_the_end(self._keep, members, {})
            return await self._images.add(NewImage(target.digest, target, blobs, references=list(names)))

    def _announce_renames(self, group: Group, progress: ProgressSink) -> None:
        for name in group.names:
            before = self._images.named(name)
            if before is not None and Digest(before.id) != group.images[0].id:
                text = f"The image {name.familiar} already exists, renaming the old one with ID {before.id} to empty string"
                progress({"stream": text + "\n"})

    async def _record(
        self,
        found: Found,
        kept: Sequence[Member],
        names: Sequence[Reference],
        diffs: Sequence[Digest],
        documents: dict[Digest, bytes],
        target: Descriptor,
        progress: ProgressSink,
        *,
        tagged: bool = False,
    ) -> Image:
        """Stores the image's files and `documents` as blobs, unpacks its layers, and adds it."""
        images, chain = self._images, chain_ids(diffs)
        members = {member.digest: member for member in (found.config, *found.layers, *kept)}
        blobs = frozenset({*members, *documents})
        async with images.holding(blobs, chain):
            wanted = [
                self._wanted(chain[n - 1] if n else None, chain_id, diff_id, layer, progress)
                for n, (chain_id, diff_id, layer) in enumerate(zip(chain, diffs, found.layers, strict=True))
            ]
            async with AsyncExitStack() as stack:
                # Syncing the blobs takes as long as unpacking them.
                unpacked = stack.enter_async_context(self._work.unpacked(wanted))
                layers, _ = await both(unpacked, thread_to_the_end(self._keep, members, documents))
                return await images.add(
                    NewImage(found.config.digest, target, blobs, layers, list(names), tagged=tagged)
                )

    def _wanted(
        self, parent: ChainId | None, chain_id: ChainId, diff_id: Digest, layer: Member, progress: ProgressSink
    ) -> Wanted:
        def tell(current: int) -> None:
            progress(
                {
                    "status": "Loading layer",
                    "progressDetail": {"current": current, "total": layer.size},
                    "id": diff_id.partition(":")[2][:12],
                }
            )

        async def make(staged: Staged, _: ProgressSink) -> Unpacked:
            unpacked = await self._unpackers.unpack(
                layer.path or self._content.path(layer.digest), staged.fs, diff_id, on_consumed=tell
            )
            tell(layer.size)
            return unpacked

        return Wanted(chain_id, parent, diff_id, make, progress)

    def _keep(self, members: dict[Digest, Member], documents: dict[Digest, bytes]) -> None:
        for digest, member in members.items():
            if member.path:
                self._content.adopt(member.path, digest)
        for digest, data in documents.items():
            self._content.add(data, digest)

    async def import_(
        self,
        stream: AsyncIterator[bytes],
        *,
        name: Reference | None,
        run: dict[str, Any],
        comment: str,
        platform: Platform | None,
    ) -> Image:
        """Makes a one-layer image of a root file system. `run`: its config's `config`."""
        directory = self._content.ingest_directory()
        try:
            layer = await in_thread(lambda source: spool(decompressed(source), f"{directory}/layer"), stream)
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            config = {
                **platform_to_json(platform or host_platform()),
                "created": now,
                "comment": comment,
                "config": run,
                "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
                "history": [{"created": now, "comment": comment}],
            }
            encoded = json.dumps(config, separators=(",", ":")).encode()
            chosen = platform or host_platform()
            found = Found(Member("", len(encoded), digest_of(encoded)), [layer], chosen)
            data, target = _manifest_for(found)
            documents = {found.config.digest: encoded, target.digest: data}
            names = [name] if name else []
            return await self._record(found, [], names, [layer.digest], documents, target, lambda _: None, tagged=True)
        finally:
            await thread_to_the_end(_clear, directory)


def _clear(directory: str) -> None:
    """What was taken apart is of no more use; what cannot be removed now is at the next start, and fails nothing that is done."""
    try:
        remove_tree(directory)
    except OSError as error:
        _log.warning("what was spooled cannot be removed: %s", error)


def _manifest_for(found: Found) -> tuple[bytes, Descriptor]:
    """An OCI manifest for an image that came without one."""
    layers = []
    for layer in found.layers:
        with open(layer.path, "rb") as file:
            kind = detect(file.read(10))
        if kind not in _LAYER_SUFFIX:
            raise InvalidArgument(f"invalid archive: a layer is compressed with {kind}")
        layers.append(Descriptor(OCI_LAYER + _LAYER_SUFFIX[kind], layer.digest, layer.size).to_json())
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, found.config.digest, found.config.size).to_json(),
        "layers": layers,
    }
    data = json.dumps(document, separators=(",", ":")).encode()
    return data, Descriptor(OCI_MANIFEST, digest_of(data), len(data))
