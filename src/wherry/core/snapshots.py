"""Snapshots: unpacked layers, read-only and shared, and for each container what it writes to. containerd's snapshotter.

In wherryd. On disk, below `snapshots/`:

    driver              the name of the storage driver that the containers' directories are of
    layers/N/fs         one unpacked layer, alike for all drivers (not erofs); N is the row's number in the table `layers` (short, so that 128 of
                        them fit into mount options)
    layers/new-…/fs     being unpacked
    init/N              the driver's base for containers of the image with the top layer N: its mount points, or its whole tree
    active/KEY/{fs,work-N}  a container's own; N is the number of the layer that it stands on, 0 for none
    trash/…             being removed

**Invariants**: a row in `layers` is written only after the layer's directory has its final name and all of it is synced; a layer is not
removed while an image's row (`images` says so), a container's directory, or a lease refers to it. After a crash, `open` removes every
directory that no row names. A driver's copies are synced before they count; of overlay2 `prepare` syncs nothing,
since a container that was not started yet has no data to lose.
Deliberately absent: mounting, which is the shim's, in its own mount namespace; how a root file system is made of layers, which is the driver's
(`drivers.driver`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from wherry.core.cancellation import completed, thread_to_the_end
from wherry.core.db import Database
from wherry.core.diff import Change, Differ
from wherry.core.drivers.driver import Driver, Prepared, Sides
from wherry.core.drivers.erofs import Erofs
from wherry.core.drivers.overlay import Overlay
from wherry.core.rootfs import Root
from wherry.core.trash import Trash
from wherry.core.tree_tar import Write, export_tree, layer_tar
from wherry.core.unpack import Unpacked
from wherry.core.usage import Measured
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, SyscallError
from wherry.linux.remove import remove_tree
from wherry.linux.syscalls import Long, Pointer, failed, function
from wherry.linux.usage import BLOCK, disk_usage
from wherry.spec.ids import ChainId, Digest

_log = logging.getLogger(__name__)

_syncfs = function("syncfs", Long)
_renameat2 = function("renameat2", Long, Pointer, Long, Pointer, Long)
_RENAME_EXCHANGE = 2

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WORK = "work-"

SCHEMA = """
create table if not exists layers (
    number integer primary key,
    chain_id text not null unique,
    parent text,
    diff_id text not null,
    size integer not null,
    entries integer not null
) strict;
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer. `size` as Docker counts it: the sum of the sizes of the files in its tar."""

    number: int
    chain_id: ChainId
    parent: ChainId | None
    diff_id: Digest
    size: int
    entries: int


@dataclass(slots=True)
class Staged:
    """A layer that is unpacked, but not recorded. `directory` holds its `fs`, until it `is_gone`: committed or abandoned."""

    directory: str
    chain_id: ChainId
    parent: ChainId | None
    diff_id: Digest
    unpacked: Unpacked = field(default_factory=Unpacked)
    is_gone: bool = False

    @property
    def fs(self) -> str:
        return os.path.join(self.directory, "fs")


class Snapshots:
    """`Snapshots(root, db, driver)`: `root` is the engine's `snapshots` directory, which suits the driver."""

    def __init__(self, root: str, db: Database, driver: Driver | None = None) -> None:
        self.root = root
        self.driver: Driver = driver or Overlay()
        self.on_released: Callable[[ChainId], Awaitable[None]] | None = None
        """Told the parent of each container's directory that was removed."""
        self._db = db
        self._layers_root = os.path.join(root, "layers")
        self._active_root = os.path.join(root, "active")
        self._init_root = os.path.join(root, "init")
        self.trash = Trash(os.path.join(root, "trash"), self.driver.remove)
        self._making_base = threading.Lock()
        self._measured = Measured()
        self._layers: dict[ChainId, Layer] = {}
        self._lost: dict[ChainId, Layer] = {}
        """Recorded, but their files are gone: somebody has removed them. They are made again by whoever needs them, under the same number."""
        self._active: dict[str, ChainId | None] = {}
        self._numbers: dict[ChainId, int] = {}
        self._leases: Counter[ChainId] = Counter()
        self._next_number = 1
        self._committing = asyncio.Lock()

    # --- start-up

    async def open(self) -> None:
        """Reads the rows and the containers' directories, and removes every layer directory that no row names. FailedPrecondition when there
        are containers of another driver."""
        for directory in (self.root, self._layers_root, self._active_root, self._init_root):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self.trash.open()
        self._claim()
        rows = await self._db.run(read_layers)
        present = set(os.listdir(self._layers_root))
        for layer in rows:
            (self._layers if str(layer.number) in present else self._lost)[layer.chain_id] = layer
        chains = {str(layer.number): layer.chain_id for layer in rows}
        known = set(chains)
        rubbish = [os.path.join(self._layers_root, name) for name in present - known]
        rubbish += [os.path.join(self._init_root, name) for name in set(os.listdir(self._init_root)) - known - {"0"}]
        await thread_to_the_end(self._discard, rubbish)
        await thread_to_the_end(self.trash.empty_now)
        numbers = present | known
        for key in os.listdir(self._active_root):
            directory = os.path.join(self._active_root, key)
            number = next((name[len(_WORK) :] for name in os.listdir(directory) if name.startswith(_WORK)), "")
            if not number:  # `prepare` was interrupted
                await thread_to_the_end(self._discard, [directory])
            elif number == "0":
                self._active[key] = None
            else:  # should the layer be gone, `mounts` says so; what the container wrote stays
                self._active[key] = chains.get(number, ChainId(number))
                numbers.add(number)  # of a layer that may come back
        self._next_number = max([int(name) for name in numbers if name.isdigit()], default=0) + 1

    def _claim(self) -> None:
        """Layers are all drivers' (but for erofs, whose layers have another form), containers and bases are not."""
        before = driver_of(self.root)
        if before == self.driver.name:
            return
        if before is not None:
            found = "containers" if os.listdir(self._active_root) else ""
            if Erofs.name in (before, self.driver.name) and os.listdir(self._layers_root):
                found = "layers"
            if found:
                raise FailedPrecondition(
                    f"error initializing graphdriver: {self.root} contains several valid graphdrivers: {before}, {self.driver.name};"
                    f" cleanup or explicitly choose storage driver (-s {before}): its {found} were made with {before}"
                )
            for name in os.listdir(self._init_root):
                self.trash.put(os.path.join(self._init_root, name))
        new = os.path.join(self.root, "driver.new")
        with open(new, "w") as file:
            file.write(self.driver.name + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, os.path.join(self.root, "driver"))

    async def keep_only(self, tops: Mapping[str, ChainId | None]) -> None:
        """Removes the directories of containers that do not exist (any more): the engine calls it once, with all its containers and the topmost
        layers of their images, as far as it knows them: one of which no row is left is made again under the number that its containers know."""
        for key in set(self._active) - set(tops):
            await self.remove(key)
        for key, top in tops.items():
            number = self._active.get(key) or ""
            if number.isdigit() and top is not None and self.layer(top) is None:
                self._active[key], self._numbers[top] = top, int(number)
        await self.trash.empty()

    # --- containers

    async def prepare(self, key: str, parent: ChainId | None) -> None:
        """Makes the writable directory `key` on top of the layer `parent`. Its root gets the owner and mode that the image's root has."""
        if not key or "/" in key or key.startswith("."):
            raise InvalidArgument(f"snapshot {key!r}: not a name")
        if parent is not None and parent not in self._layers:
            raise NotFound(f"snapshot {key}: layer {parent} does not exist")
        directory = f"{self._active_root}/{key}"
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"snapshot {key} exists already") from None
        if self.driver.is_instant:
            self._fill(directory, parent)
        else:
            try:
                await thread_to_the_end(self._fill, directory, parent)
            except BaseException:
                self.trash.put(directory)
                raise
        self._active[key] = parent

    def _fill(self, directory: str, parent: ChainId | None) -> None:
        layers = self.lower(parent)
        self.driver.prepare(Prepared(directory, self._work(parent), self._base(parent), layers))
        if not self.driver.is_instant:
            self._sync()
        os.mkdir(f"{directory}/{self._work(parent)}", 0o700)  # last: with it the snapshot is whole

    def mounts(self, key: str) -> Root:
        """What the shim is to mount for the container."""
        found = self._prepared(key)
        if self.driver.is_instant:  # what others mount needs no base
            self._base(self._active[key])
        return self.driver.root(found)

    def _prepared(self, key: str) -> Prepared:
        """Its base may have to be made yet."""
        if key not in self._active:
            raise NotFound(f"snapshot {key} does not exist")
        parent = self._active[key]
        layers = self.lower(parent)
        return Prepared(f"{self._active_root}/{key}", self._work(parent), self._base_path(parent), layers)

    def _based(self, key: str) -> Prepared:
        """Blocks."""
        found = self._prepared(key)
        self._base(self._active.get(key))
        return found

    def _base_path(self, parent: ChainId | None) -> str:
        return f"{self._init_root}/{0 if parent is None else self._layers[parent].number}"

    def _base(self, parent: ChainId | None) -> str:
        """What the driver lets containers on top of `parent` stand on, made if it is not there yet. Blocks, unless the driver is instant."""
        path = self._base_path(parent)
        if not os.path.isdir(path):
            with self._making_base:
                if not os.path.isdir(path):
                    new = f"{self._init_root}/new-{secrets.token_hex(8)}"
                    try:
                        self.driver.make_base(new, self.lower(parent))
                        if not self.driver.is_instant:
                            self._sync()
                        os.rename(new, path)
                    except BaseException:
                        self.trash.put(new)
                        raise
        return path

    def _sync(self) -> None:
        fd = os.open(self.root, _OPEN_DIRECTORY)
        try:
            _sync_filesystem(fd, self.root)
        finally:
            os.close(fd)

    @contextmanager
    def view(self, parent: ChainId | None) -> Iterator[int]:
        """A descriptor of what a container on top of the layer `parent` that has written nothing would see. Blocks."""
        with self.driver.view(self._base(parent), self.lower(parent)) as root:
            yield root

    # --- what a container has changed (blocking: call from threads)

    def changes(self, key: str) -> list[Change]:
        """What the container has changed, parents before children."""
        with self._sides(key) as sides:
            return list(Differ(sides.upper, sides.new, sides.old, whole=sides.whole))

    def write_changes(self, key: str, write: Write) -> None:
        """The container's changes as a layer's tar."""
        with self._sides(key) as sides:
            layer_tar(sides.upper, sides.new, sides.old, write, whole=sides.whole)

    def export(self, key: str, write: Write) -> None:
        """The container's whole file system as a tar."""
        found = self._based(key)
        with self._reading(key), self.driver.merged(found) as root:
            export_tree(root, write)

    @contextmanager
    def _sides(self, key: str) -> Iterator[Sides]:
        found = self._based(key)
        with self._reading(key), self.driver.sides(found) as sides:
            yield sides

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """What is read of a snapshot counts only if nobody has begun to remove it meanwhile: else NotFound."""
        try:
            yield
        except (FileNotFoundError, SyscallError):
            if key in self._active:
                raise
        if key not in self._active:
            raise NotFound(f"snapshot {key} was removed meanwhile")

    def _work(self, parent: ChainId | None) -> str:
        """A link or a file that says what is below would cost another 0.1 ms."""
        return f"{_WORK}{0 if parent is None else self._layers[parent].number}"

    def lower(self, chain_id: ChainId | None) -> list[str]:
        """The directories of a stack of layers, topmost first."""
        stack = []
        while chain_id is not None:
            layer = self._layers.get(chain_id)
            if layer is None:
                raise NotFound(f"layer {chain_id} does not exist")
            stack.append(self._fs(chain_id))
            chain_id = layer.parent
        return stack

    async def remove(self, key: str) -> None:
        """Puts a container's directory into the trash, which the caller empties. Nothing happens if there is none."""
        parent = self._active.pop(key, None)
        self.trash.put(f"{self._active_root}/{key}")
        if parent is not None and self.on_released is not None:
            await self.on_released(parent)

    async def usage(self, key: str) -> tuple[int, int]:
        """(bytes, inodes) that the container's own directory takes; hard-linked files count once."""
        return await thread_to_the_end(self._usage, key)

    def _usage(self, key: str) -> tuple[int, int]:
        found = self._based(key)
        with self._reading(key):
            return self.driver.usage(found)

    def parents_in_use(self) -> set[ChainId]:
        """The layers that containers' directories and leases stand on (those below them not included)."""
        return {chain for chain in self._active.values() if chain is not None} | set(self._leases)

    def needed(self) -> set[ChainId]:
        """The layers that containers' directories and leases stand on, and all below those."""
        found: set[ChainId] = set()
        for chain_id in self.parents_in_use():
            step: ChainId | None = chain_id
            while step is not None and step not in found:
                found.add(step)
                layer = self._recorded(step)
                step = layer.parent if layer else None
        return found

    # --- what it takes on disk (blocking: call from threads)

    def container_disk_usage(self, key: str) -> int:
        """Bytes on disk of the container's own directory."""
        return disk_usage(f"{self._active_root}/{key}")

    def layer_disk_usage(self, layer: Layer) -> int:
        """Bytes on disk of a layer, and of the base that the driver has made of it and what is below."""
        return sum(self._measured.of(f"{root}/{layer.number}") for root in (self._layers_root, self._init_root))

    def disk_usage(self) -> int:
        """Bytes on disk of all layers and bases, also those that come and go at this moment."""
        total = disk_usage(self.trash.directory)
        for root in (self._layers_root, self._init_root):
            total += os.lstat(root).st_blocks * BLOCK
            for name in os.listdir(root):
                total += self._measured.of(f"{root}/{name}") if name.isdigit() else disk_usage(f"{root}/{name}")
        return total

    # --- layers

    def layer(self, chain_id: ChainId) -> Layer | None:
        """None also of one whose files are lost."""
        return self._layers.get(chain_id)

    def _recorded(self, chain_id: ChainId) -> Layer | None:
        return self._layers.get(chain_id) or self._lost.get(chain_id)

    def layers(self) -> list[Layer]:
        """All that are recorded."""
        return [*self._layers.values(), *self._lost.values()]

    @contextmanager
    def leased(self, chain_ids: Iterable[ChainId]) -> Iterator[None]:
        """Keeps layers, also those that are yet to come, from being collected."""
        held = list(chain_ids)
        self._leases.update(held)
        try:
            yield
        finally:
            self._leases.subtract(held)
            self._leases += Counter()  # drops zeros

    def stage(self, chain_id: ChainId, parent: ChainId | None, diff_id: Digest) -> Staged:
        """A new directory to unpack a layer into; ends with `commit` or `abandon`."""
        directory = os.path.join(self._layers_root, f"new-{secrets.token_hex(8)}")
        os.mkdir(directory, 0o700)
        staged = Staged(directory, chain_id, parent, diff_id)
        try:
            _make_root(staged)
        except OSError:
            remove_tree(directory)
            raise
        return staged

    async def clear(self, staged: Staged) -> None:
        """Makes it what `stage` gave: what was unpacked into it is gone."""
        await thread_to_the_end(self.driver.remove, staged.fs)
        _make_root(staged)

    async def abandon(self, staged: Staged) -> None:
        """Nothing happens to one that was committed."""
        if not staged.is_gone:
            staged.is_gone = True
            await self._discard_unrecorded([staged.directory])

    @completed
    async def commit(
        self,
        layers: Sequence[Staged],
        *,
        sync: Callable[[bool], None] = lambda done: None,
        also: Callable[[sqlite3.Connection], None] = lambda conn: None,
    ) -> None:
        """Makes unpacked layers, lowest first, permanent: named, synced, recorded. Those that exist by now are thrown away.

        `also` writes what belongs to them, in the same transaction. `sync` brings to disk what that stands for, in a thread; it is told whether
        the whole file system has just been synced for the layers.
        """
        async with self._committing:
            new: list[tuple[Staged, Layer]] = []
            for staged in layers:
                if staged.chain_id in self._layers:
                    await self.abandon(staged)
                    continue
                found, lost = staged.unpacked, self._lost.get(staged.chain_id)
                number = lost.number if lost is not None else self._numbers.get(staged.chain_id, self._next_number)
                layer = Layer(number, staged.chain_id, staged.parent, staged.diff_id, found.size, found.entries)
                self._next_number = max(self._next_number, number + 1)
                new.append((staged, layer))
            rows = [layer for _, layer in new]

            def record(conn: sqlite3.Connection) -> None:
                _insert_layers(conn, rows)
                also(conn)

            try:
                await thread_to_the_end(self._settle, new, sync)
                await self._db.run(record)
            except BaseException:
                await self._discard_unrecorded([f"{self._layers_root}/{layer.number}" for layer in rows])
                raise
            for staged, _ in new:
                staged.is_gone = True
            for layer in rows:
                self._found(layer)

    def _found(self, layer: Layer) -> None:
        self._layers[layer.chain_id] = layer
        self._lost.pop(layer.chain_id, None)
        self._numbers.pop(layer.chain_id, None)

    async def _discard_unrecorded(self, paths: Sequence[str]) -> None:
        """What cannot be removed now is removed at the next start; nobody fails by it."""
        try:
            await thread_to_the_end(self._discard, paths)
        except OSError as error:
            _log.warning("a layer that was not recorded cannot be removed: %s", error)

    def forget(self, chain_ids: Iterable[ChainId]) -> list[Layer]:
        """Takes layers out of the store's sight, at once; `remove_layers` is to follow."""
        known = (self._layers, self._lost)
        return [of.pop(chain_id) for chain_id in chain_ids for of in known if chain_id in of]

    @completed
    async def remove_layers(self, forgotten: Sequence[Layer], *, wait: bool = True) -> None:
        """Removes the rows of layers that were forgotten, then their files, or, unless `wait`, puts them into the trash, which is emptied soon. (A
        layer of the same chain id that is recorded meanwhile has another number.)"""
        numbers = [(layer.number,) for layer in forgotten]
        if numbers:
            await self._db.run(lambda conn: conn.executemany("delete from layers where number = ?", numbers).close())
        roots = (self._layers_root, self._init_root)
        for path in [f"{root}/{n}" for (n,) in numbers for root in roots]:
            self.trash.put(path)
        if wait:
            await self.trash.empty()
        else:
            self.trash.empty_soon()

    @completed
    async def replace(self, staged: Staged, is_free: Callable[[], bool]) -> bool:
        """Puts what was unpacked once more in the place of a recorded layer, in one step; what was there goes. Not while somebody stands on it:
        `is_free` is asked at the last moment. → whether it was done; `staged` is gone in any case."""
        layer = self._recorded(staged.chain_id)
        fd = os.open(self._layers_root, _OPEN_DIRECTORY)
        try:
            await thread_to_the_end(_sync_filesystem, fd, self._layers_root)
            if layer is None or not is_free():
                await self.abandon(staged)
                return False
            # What was made of the broken layer goes first: an engine that dies has not begun, or has none of it any more.
            await thread_to_the_end(self._discard, self._bases_on(layer))
            if not is_free():
                await self.abandon(staged)
                return False
            _put_in_place(fd, os.path.basename(staged.directory), str(layer.number))
            self._found(layer)
            await thread_to_the_end(os.fsync, fd)
        finally:
            os.close(fd)
        await thread_to_the_end(self._discard, [staged.directory, *self._bases_on(layer)])
        return True

    def _bases_on(self, layer: Layer) -> list[str]:
        """The bases of the images that have that layer."""
        found = []
        for top in self._layers.values():
            step: Layer | None = top
            while step is not None and step.number != layer.number:
                step = self._recorded(step.parent) if step.parent else None
            if step is not None:
                found.append(f"{self._init_root}/{top.number}")
        return found

    def directory(self, layer: Layer) -> str:
        """Where a recorded layer's files are."""
        return f"{self._layers_root}/{layer.number}/fs"

    def stands_on(self, key: str) -> list[ChainId]:
        """The layers below a container's directory, topmost first."""
        chain, step = [], self._active.get(key)
        while step is not None and step in self._layers:
            chain.append(step)
            step = self._layers[step].parent
        return chain

    def _fs(self, chain_id: ChainId) -> str:
        return f"{self._layers_root}/{self._layers[chain_id].number}/fs"

    def _settle(self, layers: Sequence[tuple[Staged, Layer]], sync: Callable[[bool], None]) -> None:
        """The blocking part of `commit`: one sync of the file system for all of them, under their names."""
        below = {staged.chain_id: staged.fs for staged, _ in layers}
        for staged, _ in layers:
            stack = []
            parent = staged.parent
            while parent in below:
                stack.append(below[parent])
                parent = next(s.parent for s, _ in layers if s.chain_id == parent)
            self.driver.inherit(staged.fs, staged.unpacked.implied, stack + self.lower(parent))
        if any(layer.chain_id in self._lost for _, layer in layers):
            self._sync()  # a row names it already
        for staged, layer in layers:
            os.rename(staged.directory, f"{self._layers_root}/{layer.number}")
        if layers:
            self._sync()
        sync(bool(layers))

    # --- removal

    def _discard(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.trash.put(path)
        self.trash.empty_now()


def _make_root(staged: Staged) -> None:
    os.mkdir(staged.fs, 0o700)
    os.chmod(staged.fs, 0o755)


def _sync_filesystem(fd: int, path: str) -> None:
    if _syncfs(fd) < 0:
        raise failed("syncfs", path)


def _put_in_place(directory: int, new: str, name: str) -> None:
    """`new` is called `name` then, and the other way round if there was one."""
    if _renameat2(directory, new.encode(), directory, name.encode(), _RENAME_EXCHANGE) < 0:
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)


def driver_of(root: str) -> str | None:
    """The name of the driver that the snapshots in that directory were made with; None when there are none yet."""
    try:
        with open(os.path.join(root, "driver")) as file:
            return file.read(64).strip()
    except FileNotFoundError:
        return Overlay.name if os.path.isdir(os.path.join(root, "active")) else None


def read_layers(conn: sqlite3.Connection) -> list[Layer]:
    conn.execute(SCHEMA)
    rows = conn.execute("select number, chain_id, parent, diff_id, size, entries from layers order by number")
    return [Layer(*row) for row in rows]


def _insert_layers(conn: sqlite3.Connection, layers: Sequence[Layer]) -> None:
    conn.executemany(
        "insert or replace into layers (number, chain_id, parent, diff_id, size, entries) values (?, ?, ?, ?, ?, ?)",
        [(layer.number, layer.chain_id, layer.parent, layer.diff_id, layer.size, layer.entries) for layer in layers],
    )
