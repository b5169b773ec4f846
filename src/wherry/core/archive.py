"""Images from tar archives: what `docker save` and OCI tools write (`load`), and plain root file systems (`import_`).

In wherryd; the archive is taken apart in a thread, its layers are unpacked by workers. Read are both forms of `docker save`, the old one
(`manifest.json`, `ID/layer.tar`, links between layers) and that of Docker 25 and later (an OCI layout with a manifest.json beside it), and OCI
layouts as skopeo, buildah and containerd write them; each compressed or not.

**Invariants**: an archive's member names are only compared, never used as paths; digests that the archive claims are verified; an image becomes
visible when it is whole; what an interrupted load has left is removed by it or at the next start.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from wherry.core.bridge import in_thread
from wherry.core.cancellation import thread_to_the_end
from wherry.core.compression import Source, decompressed, detect
from wherry.core.images import Image, Images, NewImage
from wherry.core.layers import LayerWork, Wanted
from wherry.core.remove import remove_tree
from wherry.core.snapshots import Staged
from wherry.core.tar import CHUNK, Reader
from wherry.core.unpack import Unpacked
from wherry.core.unpackers import Unpackers
from wherry.errors import DataLoss, InvalidArgument
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import ChainId, Digest
from wherry.spec.image import (
    MAX_CONFIG,
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    diff_ids,
    digest_of,
    host_platform,
    parse_config,
    parse_document,
    platform_to_json,
    select,
)
from wherry.spec.reference import Reference, parse

MAX_MEMBERS = 20_000
MAX_MANIFEST_JSON = 16 << 20
_LAYER_SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "": ""}
_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class _Member:
    path: str
    size: int
    digest: Digest


@dataclass(slots=True)
class _Archive:
    """An archive taken apart: its files by their normalised name."""

    files: dict[str, _Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: object) -> _Member:
        """Follows links inside the archive. InvalidArgument if there is no such file."""
        if not isinstance(name, str):
            raise InvalidArgument("invalid archive: a file name is not a string")
        current = _normalize(name)
        for _ in range(8):
            if current in self.files:
                return self.files[current]
            if current not in self.links:
                break
            current = self.links[current]
        raise InvalidArgument(f"invalid archive: the file {name[:200]!r} is missing")

    def blob(self, digest: Digest) -> _Member:
        member = self.find(f"blobs/{digest.replace(':', '/', 1)}")
        if digest.startswith("sha256:") and member.digest != digest:
            raise DataLoss(f"invalid archive: the blob {digest} has the digest {member.digest}")
        return member

    def read(self, member: _Member, limit: int) -> bytes:
        if member.size > limit:
            raise InvalidArgument(f"invalid archive: a document of {member.size} bytes")
        with open(member.path, "rb") as file:
            return file.read()


@dataclass(slots=True)
class _Found:
    """One image of an archive."""

    config: _Member
    layers: list[_Member]
    names: list[Reference]
    target: Descriptor | None = None
    documents: list[_Member] = field(default_factory=list)  # manifests and indexes to keep


def _normalize(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


class Archives:
    def __init__(self, images: Images, unpackers: Unpackers, work: LayerWork) -> None:
        self._images = images
        self._content = images.content
        self._unpackers = unpackers
        self._work = work

    async def load(self, stream: AsyncIterator[bytes], progress: ProgressSink, *, quiet: bool = False) -> list[Image]:
        """→ the images of the archive, now stored. `progress` is told as dockerd tells it."""
        directory = self._content.ingest_directory()
        try:
            archive = await in_thread(lambda source: _split(source, directory), stream)
            found = await thread_to_the_end(lambda: list(_images_of(archive)))
            return [await self._store(archive, image, progress, quiet=quiet) for image in found]
        finally:
            await thread_to_the_end(remove_tree, directory)

    async def _store(self, archive: _Archive, found: _Found, progress: ProgressSink, *, quiet: bool) -> Image:
        config = parse_config(await thread_to_the_end(archive.read, found.config, MAX_CONFIG))
        diffs = diff_ids(config)
        if len(diffs) != len(found.layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(diffs)}, got {len(found.layers)}"
            )
        documents: dict[Digest, bytes] = {}
        if found.target is not None:
            target = found.target
        else:
            data, target = await thread_to_the_end(_manifest_for, found, config)
            documents[target.digest] = data
        self._announce_renames(found, progress)
        sink = (lambda _: None) if quiet else progress
        image = await self._record(found, diffs, documents, target, sink)
        for name in found.names:
            progress({"stream": f"Loaded image: {name.familiar}\n"})
        if not found.names:
            progress({"stream": f"Loaded image ID: {image.id}\n"})
        return image

    def _announce_renames(self, found: _Found, progress: ProgressSink) -> None:
        for name in found.names:
            before = self._images.named(name)
            if before is not None and Digest(before.id) != found.config.digest:
                text = f"The image {name.familiar} already exists, renaming the old one with ID {before.id} to empty string"
                progress({"stream": text + "\n"})

    async def _record(
        self,
        found: _Found,
        diffs: Sequence[Digest],
        documents: dict[Digest, bytes],
        target: Descriptor,
        progress: ProgressSink,
    ) -> Image:
        """Stores the image's files and `documents` as blobs, unpacks its layers, and adds it."""
        images, chain = self._images, chain_ids(diffs)
        members = {member.digest: member for member in (found.config, *found.layers, *found.documents)}
        blobs = frozenset({*members, *documents})
        async with images.holding(blobs, chain):
            await thread_to_the_end(self._keep, members, documents)
            wanted = [
                self._wanted(chain[n - 1] if n else None, chain_id, diff_id, layer, progress)
                for n, (chain_id, diff_id, layer) in enumerate(zip(chain, diffs, found.layers, strict=True))
            ]
            async with self._work.unpacked(wanted) as layers:
                return await images.add(NewImage(found.config.digest, target, blobs, layers, found.names))

    def _wanted(
        self, parent: ChainId | None, chain_id: ChainId, diff_id: Digest, layer: _Member, progress: ProgressSink
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
                self._content.path(layer.digest), staged.fs, diff_id, on_consumed=tell
            )
            tell(layer.size)
            return unpacked

        return Wanted(chain_id, parent, diff_id, make, progress)

    def _keep(self, members: dict[Digest, _Member], documents: dict[Digest, bytes]) -> None:
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
            layer = await in_thread(lambda source: _spool(decompressed(source), f"{directory}/layer"), stream)
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
            found = _Found(_Member("", len(encoded), digest_of(encoded)), [layer], [name] if name else [])
            data, target = _manifest_for(found, config)
            documents = {found.config.digest: encoded, target.digest: data}
            return await self._record(found, [layer.digest], documents, target, lambda _: None)
        finally:
            await thread_to_the_end(remove_tree, directory)


# --- taking apart (in threads) --------------------------------------------------------------------------------------------------------


def _split(source: Source, directory: str) -> _Archive:
    """Writes every file of the tar to a file of its own."""
    archive = _Archive()
    reader = Reader(decompressed(source))
    for number, entry in enumerate(reader):
        if number >= MAX_MEMBERS:
            raise InvalidArgument(f"invalid archive: more than {MAX_MEMBERS} members")
        name = _normalize(os.fsdecode(entry.name))
        archive.links.pop(name, None)
        replaced = archive.files.pop(name, None)
        if replaced is not None:
            os.unlink(replaced.path)
        match entry.kind:
            case b"0":
                if entry.sparse is not None:
                    raise InvalidArgument(f"invalid archive: {name[:200]!r} is sparse")
                archive.files[name] = _spool_pieces(reader.data(), f"{directory}/{number}")
            case b"1":
                archive.links[name] = _normalize(os.fsdecode(entry.link))
            case b"2":
                archive.links[name] = _normalize(posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link)))
    return archive


def _spool(source: Source, path: str) -> _Member:
    return _spool_pieces(iter(lambda: source.read(CHUNK), b""), path)


def _spool_pieces(pieces: Iterable[bytes], path: str) -> _Member:
    digest, size = sha256(), 0
    with open(path, "xb") as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    return _Member(path, size, Digest("sha256:" + digest.hexdigest()))


def _images_of(archive: _Archive) -> Iterator[_Found]:
    if "manifest.json" in archive.files or "manifest.json" in archive.links:
        yield from _docker_images(archive)
    elif "index.json" in archive.files:
        yield from _layout_images(archive)
    else:
        raise InvalidArgument(
            "invalid archive: it has neither manifest.json (docker save) nor index.json (OCI layout) in it"
        )


def _docker_images(archive: _Archive) -> Iterator[_Found]:
    try:
        listed = json.loads(archive.read(archive.find("manifest.json"), MAX_MANIFEST_JSON))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid archive: manifest.json is not valid JSON: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise InvalidArgument("invalid archive: manifest.json is not a list of images")
    manifests = _manifests_by_config(archive)
    for item in listed:
        layers, names = item.get("Layers") or [], item.get("RepoTags") or []
        if not isinstance(layers, list) or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise InvalidArgument("invalid archive: manifest.json is malformed")
        found = _Found(archive.find(item.get("Config")), [archive.find(layer) for layer in layers], [])
        for name in names:
            reference = parse(name)
            if reference.tag is None or reference.digest is not None:
                raise InvalidArgument(f"invalid tag {name!r}")
            found.names.append(reference)
        original = manifests.get(found.config.digest)
        if original is not None and [layer.digest for layer in original[2].layers] == [
            layer.digest for layer in found.layers
        ]:
            found.target, member, _ = original
            found.documents.append(member)
        yield found


def _manifests_by_config(archive: _Archive) -> dict[Digest, tuple[Descriptor, _Member, Manifest]]:
    """Docker 25 and later write an OCI layout as well: its manifests are the images' own."""
    if "index.json" not in archive.files:
        return {}
    found = {}
    for descriptor, member, document in _documents(archive, _index_of(archive)):
        if isinstance(document, Manifest):
            found[document.config.digest] = (descriptor, member, document)
    return found


def _index_of(archive: _Archive) -> Index:
    index = parse_document(archive.read(archive.find("index.json"), MAX_DOCUMENT), OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidArgument("invalid archive: index.json is not an index")
    return index


def _documents(archive: _Archive, index: Index) -> Iterator[tuple[Descriptor, _Member, Manifest | Index]]:
    """The manifests and indexes that an index lists and that are in the archive."""
    for descriptor in index.manifests:
        if not (descriptor.is_manifest or descriptor.is_index):
            continue
        try:
            member = archive.blob(descriptor.digest)
        except InvalidArgument:
            continue  # another platform's, left out
        yield descriptor, member, parse_document(archive.read(member, MAX_DOCUMENT), descriptor.media_type)


def _layout_images(archive: _Archive) -> Iterator[_Found]:
    for descriptor, member, document in _documents(archive, _index_of(archive)):
        names = [name for name in (_name_of(descriptor),) if name is not None]
        documents = [member]
        for _ in range(3):
            if isinstance(document, Manifest):
                break
            present = list(_documents(archive, document))
            chosen = select(Index(document.media_type, tuple(d for d, _, _ in present), document.raw), host_platform())
            member, document = next((m, doc) for d, m, doc in present if d == chosen)
            documents.append(member)
        if not isinstance(document, Manifest):
            raise InvalidArgument("invalid archive: indexes are nested too deep")
        yield _Found(
            archive.blob(document.config.digest),
            [archive.blob(layer.digest) for layer in document.layers],
            names,
            Descriptor(descriptor.media_type, descriptor.digest, descriptor.size),
            documents,
        )


def _name_of(descriptor: Descriptor) -> Reference | None:
    """The image's whole name; an annotation that is only a tag names nothing."""
    full = descriptor.annotations.get(_IMAGE_NAME)
    short = descriptor.annotations.get(_REF_NAME)
    if full is None and short is not None and (":" in short or "/" in short):
        full = short
    if full is None:
        return None
    reference = parse(full)
    return reference.with_tag(reference.tag or "latest")


def _manifest_for(found: _Found, config: Mapping[str, Any]) -> tuple[bytes, Descriptor]:
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
