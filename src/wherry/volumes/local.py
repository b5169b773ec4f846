"""The local volume driver: one directory per volume, `<root>/volumes/<name>/_data`, and a row for what a directory cannot say.

Runs in wherryd, on its event loop; directory work in threads. Who uses a volume the engine knows, and says.

**Invariants**: a name is checked before it becomes a path. A volume is its row; the directory is there before the row, and is moved aside before
the row goes, so that a crash leaves a volume or none. Data is deleted only under a name of its own (`.removed-…`), by descriptors, never through a
link. A directory without a row (its creation was cut short, or the database is not the one that made it) is taken in as a volume if there is
something in it: data is never lost.
All rows are in memory.

Deliberately absent: volume plugins, mounts of the volume's own, quotas.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from wherry.errors import NotFound
from wherry.linux.remove import remove_directory
from wherry.linux.usage import disk_usage
from wherry.volumes import filters as volume_filters
from wherry.volumes.filters import Filters
from wherry.volumes.model import ANONYMOUS_LABEL, Json, Volume, check_driver, check_name, check_options
from wherry.wire.engine import VolumeCreate

T = TypeVar("T")
_SCHEMA = "create table if not exists volumes (name text primary key, created text not null, labels text not null, options text not null)"
_REMOVED = ".removed-"
Descriptions = list[Json]
"""Named, because `Volumes` has a method called `list`."""


class Database(Protocol):
    """`core.db.Database`, as far as it is used here."""

    async def run(self, transaction: Callable[[sqlite3.Connection], T]) -> T: ...


class Volumes:
    """`root` is the data root. `open` first."""

    def __init__(self, root: str, db: Database) -> None:
        self._directory = os.path.join(root, "volumes")
        self._db = db
        self._volumes: dict[str, Volume] = {}
        self._lock = asyncio.Lock()
        """One change at a time: a name is created or removed, not both at once."""

    async def open(self) -> None:
        """Reads the rows; ends removals and creations that were cut short; takes in directories with data that have no row."""
        rows = await self._db.run(_load)
        present = await asyncio.to_thread(self._scan, {volume.name for volume in rows})
        for volume in rows:
            if volume.name in present:
                self._volumes[volume.name] = volume
            else:
                await self._delete(volume.name)
        for name in sorted(present - self._volumes.keys()):
            await self._insert(Volume(name, _now()))

    # ---- what is known; from memory

    def exists(self, name: str) -> bool:
        return name in self._volumes

    def path(self, name: str) -> str:
        """The directory to bind into a container. NotFound."""
        return self._get(name).bind_source or self._mountpoint(name)

    def inspect(self, name: str) -> Json:
        """NotFound."""
        return self._get(name).describe(self._mountpoint(name))

    def list(self, filters: Filters, in_use: Container[str]) -> Descriptions:
        """Those that pass the filters. `in_use`: the names that containers refer to. InvalidArgument for an unknown filter."""
        volume_filters.check(filters, ("dangling", "driver", "label", "name"))
        fits = volume_filters.test(filters, in_use)
        return [volume.describe(self._mountpoint(volume.name)) for volume in self._volumes.values() if fits(volume)]

    # ---- changes

    async def create(self, request: VolumeCreate) -> Json:
        """A volume's description; that of the existing one when the name is taken, as Docker does. Without a name: an anonymous one."""
        check_driver(request.driver)
        labels = dict(request.labels or {})
        if request.name:
            name = check_name(request.name)
        else:
            name = secrets.token_hex(32)
            labels[ANONYMOUS_LABEL] = ""
        options = check_options(request.driver_opts)
        async with self._lock:
            if name not in self._volumes:
                await asyncio.to_thread(self._make_directory, name)
                await self._insert(Volume(name, _now(), tuple(labels.items()), options))
            return self.inspect(name)

    async def stage(
        self, name: str, labels: Mapping[str, str], options: Mapping[str, str] | None = None
    ) -> Callable[[sqlite3.Connection], None] | None:
        """A volume for a container that is being made: it lasts once the answer has been called in the transaction that makes the
        container. None when there is such a volume already. InvalidArgument for a bad name, as for bad options. `remove` undoes it.
        """
        check_name(name)
        checked = check_options(options)
        async with self._lock:
            if name in self._volumes:
                return None
            await asyncio.to_thread(self._make_directory, name)
            volume = self._volumes[name] = Volume(name, _now(), tuple(labels.items()), checked)
            return lambda connection: _insert(connection, volume)

    async def remove(self, name: str, *, force: bool = False) -> None:
        """NotFound, unless `force`. That no container refers to it the engine has made sure."""
        async with self._lock:
            if name not in self._volumes and force:
                return
            await self._remove(self._get(name))

    async def prune(self, filters: Filters, in_use: Container[str]) -> Json:
        """Removes volumes that no container refers to: anonymous ones, with the filter `all` every one."""
        volume_filters.check(filters, ("all", "label", "label!"))
        everything = volume_filters.boolean(filters, "all")
        fits = volume_filters.test({key: value for key, value in filters.items() if key != "all"}, in_use)
        removed, reclaimed = [], 0
        async with self._lock:
            for volume in list(self._volumes.values()):
                wanted = everything or volume.is_anonymous
                if volume.name in in_use or not wanted or not fits(volume):
                    continue
                size = await self._size(volume)
                await self._remove(volume)
                removed.append(volume.name)
                reclaimed += size
        return {"VolumesDeleted": removed, "SpaceReclaimed": reclaimed}

    async def usage(self, users: Mapping[str, int]) -> Descriptions:
        """Descriptions with `UsageData`: bytes on disk, as `du` counts them. `users`: how many containers refer to a name."""
        answer = []
        for volume in list(self._volumes.values()):
            data = {"Size": await self._size(volume), "RefCount": users.get(volume.name, 0)}
            answer.append({**volume.describe(self._mountpoint(volume.name)), "UsageData": data})
        return answer

    # ---- parts of the above

    def _get(self, name: str) -> Volume:
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def _mountpoint(self, name: str) -> str:
        return os.path.join(self._directory, name, "_data")

    async def _insert(self, volume: Volume) -> None:
        await self._db.run(lambda connection: _insert(connection, volume))
        self._volumes[volume.name] = volume

    async def _delete(self, name: str) -> None:
        await self._db.run(lambda connection: _delete(connection, name))

    async def _remove(self, volume: Volume) -> None:
        name = volume.name
        aside = os.path.join(self._directory, f"{_REMOVED}{secrets.token_hex(16)}")
        os.rename(os.path.join(self._directory, name), aside)
        _sync_directory(self._directory)
        del self._volumes[name]
        await self._delete(name)
        await asyncio.to_thread(remove_directory, aside)

    async def _size(self, volume: Volume) -> int:
        return 0 if volume.bind_source else await asyncio.to_thread(disk_usage, self._mountpoint(volume.name))

    # ---- in a thread

    def _scan(self, known: set[str]) -> set[str]:
        """The volumes' directories; what is left of removals goes, and so do empty directories that are not of a `known` volume."""
        os.makedirs(self._directory, mode=0o701, exist_ok=True)
        found = set()
        for entry in os.scandir(self._directory):
            if entry.name.startswith(_REMOVED):
                remove_directory(entry.path)
            elif entry.is_dir(follow_symlinks=False) and os.path.isdir(self._mountpoint(entry.name)):
                if entry.name in known or os.listdir(self._mountpoint(entry.name)):
                    found.add(entry.name)
                else:
                    remove_directory(entry.path)
        return found

    def _make_directory(self, name: str) -> None:
        os.makedirs(self._mountpoint(name), mode=0o755, exist_ok=True)
        os.chmod(os.path.join(self._directory, name), 0o701)
        os.chmod(self._mountpoint(name), 0o755)
        _sync_directory(os.path.join(self._directory, name))
        _sync_directory(self._directory)


def _load(connection: sqlite3.Connection) -> list[Volume]:
    connection.execute(_SCHEMA)
    return [Volume.from_row(*row) for row in connection.execute("select name, created, labels, options from volumes")]


def _insert(connection: sqlite3.Connection, volume: Volume) -> None:
    connection.execute("insert into volumes values (?, ?, ?, ?)", volume.row())


def _delete(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("delete from volumes where name = ?", (name,))


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
