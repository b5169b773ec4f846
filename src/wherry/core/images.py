"""The images: which there are, what they are called, what they need; and what nothing needs any more.

In wherryd, on the event loop. An image is its config: the config's digest is its id, as in Docker's classic store. All rows and configs are kept in
memory, so look-ups cost no I/O. Contents are `content`'s, unpacked layers `snapshots`'.

**Invariants**: an image has a row only while all its blobs are in the content store and all its layers are recorded; a name belongs to one image;
what an image, a container or a lease needs is never removed; what none of them needs is removed by `collect`, at the latest when the engine starts.
Deliberately absent: what Docker makes of removing and listing (`engine.images`), pulling (`pull`), archives (`archive`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from wherry.core import embedded
from wherry.core.cancellation import completed, thread_to_the_end
from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.snapshots import OverlaySnapshots, Staged
from wherry.core.unpack import Unpacked, unpack_layer
from wherry.errors import InvalidArgument, NotFound, WherryError
from wherry.spec.ids import ChainId, Digest, ImageId
from wherry.spec.image import (
    MAX_CONFIG,
    Descriptor,
    Platform,
    chain_ids,
    diff_ids,
    normalize,
    parse_config,
)
from wherry.spec.reference import Reference, parse, parse_any

_log = logging.getLogger(__name__)

SCHEMA = (
    """create table if not exists images (
        id text primary key,
        target text not null,
        target_type text not null,
        target_size integer not null,
        parent text,
        tagged_at text
    ) strict""",
    """create table if not exists image_blobs (
        image_id text not null references images (id) on delete cascade,
        digest text not null,
        primary key (image_id, digest)
    ) strict, without rowid""",
    """create table if not exists image_references (
        name text primary key,
        image_id text not null references images (id) on delete cascade
    ) strict, without rowid""",
)


@dataclass(frozen=True, slots=True)
class Image:
    """One image. `config` is the image config as it was pulled: do not change it. `layers`: lowest first."""

    id: ImageId
    config: Mapping[str, Any]
    layers: tuple[ChainId, ...]
    size: int
    target: Descriptor
    blobs: frozenset[Digest]
    references: tuple[Reference, ...] = ()
    parent: ImageId | None = None
    tagged_at: str | None = None

    @property
    def repo_tags(self) -> tuple[str, ...]:
        """As Docker shows them: "busybox:latest"."""
        return tuple(reference.familiar for reference in self.references if reference.digest is None)

    @property
    def repo_digests(self) -> tuple[str, ...]:
        return tuple(reference.familiar for reference in self.references if reference.digest is not None)

    @property
    def created(self) -> str:
        """RFC 3339, or "" when the config does not say."""
        return str(self.config.get("created") or "")

    @property
    def platform(self) -> Platform:
        get = self.config.get
        return normalize(Platform(get("os") or "linux", get("architecture") or "", get("variant") or ""))

    @property
    def run(self) -> Mapping[str, Any]:
        """The config's `config`: Env, Cmd, Entrypoint, User, WorkingDir, Volumes, Labels, …"""
        return self.config.get("config") or {}

    @property
    def top(self) -> ChainId | None:
        """The layer that a container's snapshot stands on."""
        return self.layers[-1] if self.layers else None


@dataclass(slots=True)
class NewImage:
    """What `Images.add` makes an image of. `target`: the index or manifest that named it. `blobs`: all that it needs (also target and config)."""

    config_digest: Digest
    target: Descriptor
    blobs: frozenset[Digest]
    layers: list[Staged] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    parent: ImageId | None = None


class Images:
    def __init__(self, content: Content, snapshots: OverlaySnapshots, db: Database) -> None:
        self.content = content
        self.snapshots = snapshots
        self._db = db
        self._images: dict[ImageId, Image] = {}
        self._names: dict[str, ImageId] = {}
        self._names_of: defaultdict[ImageId, set[str]] = defaultdict(set)
        self._leases: Counter[Digest] = Counter()
        self._changing = asyncio.Lock()
        self._adopting = asyncio.Lock()
        snapshots.on_released = self._released

    async def open(self) -> None:
        """Reads all images, forgets those that are damaged, and removes what nothing refers to. `snapshots` are open already."""
        await thread_to_the_end(self.content.open)
        rows, blobs, names = await self._db.run(_read)
        damaged = []
        for row in rows:
            try:
                image = await thread_to_the_end(self._revive, row, blobs.get(row[0], []))
            except WherryError as error:
                _log.warning("image %s is damaged and forgotten: %s", row[0], error)
                damaged.append(ImageId(row[0]))
                continue
            self._images[image.id] = image
        for name, image_id in names:
            if image_id in self._images:
                self._give_name(name, ImageId(image_id))
        for image_id in self._images:
            self._show_names(image_id)
        if damaged:
            await self._db.run(lambda conn: _delete(conn, damaged))
        await self.collect()

    def _revive(self, row: Sequence[Any], blobs: Iterable[str]) -> Image:
        image_id, target, target_type, target_size, parent, tagged_at = row
        digests = frozenset(Digest(digest) for digest in blobs)
        for digest in digests:
            if not self.content.has(digest):
                raise NotFound(f"content {digest}: not found")
        return self._image(
            ImageId(image_id),
            Descriptor(target_type, Digest(target), target_size),
            digests,
            ImageId(parent) if parent else None,
            tagged_at,
        )

    def _image(
        self,
        image_id: ImageId,
        target: Descriptor,
        blobs: frozenset[Digest],
        parent: ImageId | None,
        tagged_at: str | None,
    ) -> Image:
        """From what is stored. NotFound when a layer is missing."""
        config = parse_config(self.content.read(Digest(image_id), MAX_CONFIG))
        chain = chain_ids(diff_ids(config))
        size = 0
        for chain_id in chain:
            layer = self.snapshots.layer(chain_id)
            if layer is None:
                raise NotFound(f"layer {chain_id} does not exist")
            size += layer.size
        return Image(image_id, config, chain, size, target, blobs, (), parent, tagged_at)

    # --- look-ups

    async def resolve(self, ref: str) -> Image:
        """As `get`, for who is about to run it: what the store does not have may be one of the package's own images, which is imported then."""
        image = self.find(ref)
        if image is not None:
            return image
        named = parse_any(ref)
        if not isinstance(named, Reference) or (layout := embedded.find(named)) is None:
            raise no_such_image(ref)
        async with self._adopting:
            return self.find(ref) or await self._adopt(layout, named.tagged())

    def get(self, ref: str) -> Image:
        """By name, digest, id or unique beginning of an id, from memory. NotFound "No such image: …"; InvalidArgument."""
        image = self.find(ref)
        if image is None:
            raise no_such_image(ref)
        return image

    def find(self, ref: str) -> Image | None:
        """As `get`, but None when the store does not have it."""
        named = parse_any(ref)
        if not isinstance(named, Reference):
            return self._images.get(ImageId(named))
        exact = named.with_digest(named.digest) if named.digest else named.tagged()
        image_id = self._names.get(str(exact))
        if image_id is not None:
            return self._images[image_id]
        found = self._by_prefix(ref)
        return self._images.get(ImageId(named.digest)) if found is None and named.digest else found

    def _by_prefix(self, ref: str) -> Image | None:
        prefix = "sha256:" + ref.removeprefix("sha256:")
        if len(prefix) == len("sha256:"):
            return None
        found = [image for image_id, image in self._images.items() if image_id.startswith(prefix)]
        return found[0] if len(found) == 1 else None

    def by_id(self, image_id: ImageId) -> Image | None:
        return self._images.get(image_id)

    def named(self, reference: Reference) -> Image | None:
        """The image that has exactly that name (with its tag or digest)."""
        image_id = self._names.get(str(reference))
        return None if image_id is None else self._images[image_id]

    # --- changes

    @contextmanager
    def lease(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keeps blobs, also those that are yet to come, from being collected."""
        held = list(digests)
        self._leases.update(held)
        try:
            yield
        finally:
            self._leases.subtract(held)
            self._leases += Counter()  # drops zeros

    @asynccontextmanager
    async def holding(self, blobs: Iterable[Digest], layers: Iterable[ChainId]) -> AsyncIterator[None]:
        """Keeps what an image is being made of, until the image is added; what no image took is removed when this ends in an error."""
        try:
            with self.lease(blobs), self.snapshots.leased(layers):
                yield
        except BaseException:
            await self.collect()
            raise

    @completed
    async def add(self, new: NewImage) -> Image:
        """Records an image whose blobs are stored (and leased) and whose layers are unpacked, and gives it its names, which others lose."""
        async with self._changing:
            await self.snapshots.commit(new.layers)
            image = self._newly(new)
            await self._db.run(lambda conn: _insert(conn, image, new.references))
            return self._remember(image, new.references)

    def _newly(self, new: NewImage) -> Image:
        image_id = ImageId(new.config_digest)
        known = self._images.get(image_id)
        blobs = new.blobs | (known.blobs if known else frozenset())
        return self._image(
            image_id,
            known.target if known and not new.references else new.target,
            blobs,
            new.parent or (known.parent if known else None),
            known.tagged_at if known else None,
        )

    def _remember(self, image: Image, references: Iterable[Reference]) -> Image:
        self._images[image.id] = image
        losers = {image.id}
        for reference in references:
            losers.add(self._give_name(str(reference), image.id))
        for image_id in losers:
            self._show_names(image_id)
        return self._images[image.id]

    def _give_name(self, name: str, image_id: ImageId) -> ImageId:
        """→ who had it before (or has it now)."""
        before = self._names.get(name, image_id)
        self._names_of[before].discard(name)
        self._names[name] = image_id
        self._names_of[image_id].add(name)
        return before

    def _show_names(self, image_id: ImageId) -> None:
        """Brings `Image.references` up to date."""
        names = sorted(self._names_of[image_id])
        self._images[image_id] = replace(self._images[image_id], references=tuple(parse(name) for name in names))

    @completed
    async def tag(self, image_id: ImageId, reference: Reference) -> None:
        """Gives the image a name; whoever has it loses it. NotFound when the image has gone meanwhile."""
        async with self._changing:
            image = self._images.get(image_id)
            if image is None:
                raise no_such_image(image_id)
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            await self._db.run(lambda conn: _tag(conn, image_id, reference, now))
            self._images[image_id] = replace(image, tagged_at=now)
            self._remember(self._images[image_id], [reference])

    @completed
    async def untag(self, references: Sequence[Reference]) -> None:
        """Takes names away; the images stay."""
        async with self._changing:
            names = [str(reference) for reference in references]
            await self._db.run(lambda conn: _untag(conn, names))
            for name in names:
                owner = self._names.pop(name, None)
                if owner is not None:
                    self._names_of[owner].discard(name)
                    self._show_names(owner)

    @completed
    async def delete(self, image_id: ImageId) -> list[ChainId]:
        """Removes an image, its names, and what only it needed. → the layers that have gone, topmost first."""
        async with self._changing:
            image = self._images.get(image_id)
            if image is None:
                raise no_such_image(image_id)
            await self._db.run(lambda conn: _delete(conn, [image_id]))
            del self._images[image_id]
            for name in self._names_of.pop(image_id, ()):
                del self._names[name]
            gone = await self.collect()
        return [chain_id for chain_id in reversed(image.layers) if chain_id in gone]

    @completed
    async def collect(self) -> set[ChainId]:
        """Removes every blob and layer that no image, container or lease needs. → the layers removed."""
        needed = {chain_id for image in self._images.values() for chain_id in image.layers}
        for chain_id in self.snapshots.parents_in_use():
            step: ChainId | None = chain_id
            while step is not None and step not in needed:
                needed.add(step)
                layer = self.snapshots.layer(step)
                step = layer.parent if layer else None
        layers = {layer.chain_id for layer in self.snapshots.layers()} - needed
        kept = {digest for image in self._images.values() for digest in image.blobs} | set(self._leases)
        # Up to the next real wait nobody can take a lease; by then what is to go is out of the way.
        files = self.content.discard([digest for digest in self.content if digest not in kept])
        await self.snapshots.remove_layers(layers)
        await thread_to_the_end(_unlink, files)
        return layers

    async def _released(self, parent: ChainId) -> None:
        """A container's snapshot has gone: its layers may have been the last thing left of a removed image."""
        if not any(parent in image.layers for image in self._images.values()):
            await self.collect()

    async def layers_size(self) -> int:
        """The sizes of all unpacked layers, each counted once."""
        return sum(layer.size for layer in self.snapshots.layers())

    def list(self) -> Sequence[Image]:
        return [*self._images.values()]

    # --- the package's own images

    async def _adopt(self, layout: embedded.Layout, name: Reference) -> Image:
        config = parse_config(layout.blobs[layout.config])
        diffs = diff_ids(config)
        chain = chain_ids(diffs)
        new = NewImage(layout.config, layout.target, frozenset(layout.blobs), references=[name])
        async with self.holding(layout.blobs, chain):
            for digest, data in layout.blobs.items():
                await thread_to_the_end(self.content.add, data, digest)
            for n, (layer, chain_id, diff_id) in enumerate(zip(layout.layers, chain, diffs, strict=True)):
                if self.snapshots.layer(chain_id) is None:
                    staged = self.snapshots.stage(chain_id, chain[n - 1] if n else None, diff_id)
                    staged.unpacked = await thread_to_the_end(
                        _unpack_here, self.content.path(layer), staged.fs, diff_id
                    )
                    new.layers.append(staged)
            return await self.add(new)


def _unpack_here(blob: str, target: str, diff_id: Digest) -> Unpacked:
    """Without a worker: for the few hundred bytes of an embedded image."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(blob, "rb") as file:
            return unpack_layer(file, fd, diff_id)
    finally:
        os.close(fd)


def no_such_image(ref: str) -> NotFound:
    """The words that Docker's clients look for before they pull."""
    try:
        named = parse_any(ref)
    except InvalidArgument:
        return NotFound(f"No such image: {ref}")
    return NotFound(f"No such image: {named.tagged().familiar if isinstance(named, Reference) else named}")


def _unlink(paths: Iterable[str]) -> None:
    for path in paths:
        os.unlink(path)


# --- rows ----------------------------------------------------------------------------------------------------------------------------


def _read(conn: sqlite3.Connection) -> tuple[list[Any], dict[str, list[str]], list[tuple[str, str]]]:
    for statement in SCHEMA:
        conn.execute(statement)
    rows = conn.execute("select id, target, target_type, target_size, parent, tagged_at from images").fetchall()
    blobs: dict[str, list[str]] = {}
    for image_id, digest in conn.execute("select image_id, digest from image_blobs"):
        blobs.setdefault(image_id, []).append(digest)
    return rows, blobs, conn.execute("select name, image_id from image_references").fetchall()


def _insert(conn: sqlite3.Connection, image: Image, references: Iterable[Reference]) -> None:
    conn.execute(
        "insert into images (id, target, target_type, target_size, parent, tagged_at) values (?, ?, ?, ?, ?, ?) on conflict (id) do update"
        " set target = excluded.target, target_type = excluded.target_type, target_size = excluded.target_size, parent = excluded.parent",
        (image.id, image.target.digest, image.target.media_type, image.target.size, image.parent, image.tagged_at),
    )
    conn.executemany(
        "insert or ignore into image_blobs (image_id, digest) values (?, ?)",
        [(image.id, digest) for digest in image.blobs],
    )
    conn.executemany(
        "insert or replace into image_references (name, image_id) values (?, ?)",
        [(str(reference), image.id) for reference in references],
    )


def _tag(conn: sqlite3.Connection, image_id: ImageId, reference: Reference, now: str) -> None:
    conn.execute("insert or replace into image_references (name, image_id) values (?, ?)", (str(reference), image_id))
    conn.execute("update images set tagged_at = ? where id = ?", (now, image_id))


def _untag(conn: sqlite3.Connection, names: Iterable[str]) -> None:
    conn.executemany("delete from image_references where name = ?", [(name,) for name in names])


def _delete(conn: sqlite3.Connection, image_ids: Iterable[ImageId]) -> None:
    conn.executemany("delete from images where id = ?", [(image_id,) for image_id in image_ids])
