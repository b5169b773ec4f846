"""All containers, found by id, id prefix or name; each change of a record is written before it is told to anyone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from wherry.core.db import Database, keep_reserve
from wherry.engine.records import Container, Record, Rows
from wherry.errors import Conflict, InvalidArgument, NotFound
from wherry.spec.ids import ContainerId

RowChange = Callable[[sqlite3.Connection], None]


class ContainerStore:
    """In memory, with one row of the database each. Used on the event loop only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_id: dict[ContainerId, Container] = {}
        self._by_name: dict[str, ContainerId] = {}
        self._encoder = msgspec.json.Encoder()

    def load(self) -> list[Container]:
        """Read every row; at start-up, before anything else happens."""
        self._database.run_now(Rows.create_table)
        for record in self._database.run_now(Rows.load):
            self._by_id[record.id] = Container(record)
            self._by_name[record.name] = record.id
        return list(self._by_id.values())

    def all(self) -> list[Container]:
        return list(self._by_id.values())

    def get(self, ref: str) -> Container:
        """NotFound; InvalidArgument when a prefix fits several."""
        container = self._by_id.get(ContainerId(ref))
        if container is not None:
            return container
        by_name = self._by_name.get(ref.removeprefix("/"))
        if by_name is not None and by_name in self._by_id:
            return self._by_id[by_name]
        if ref:
            fitting = [container for id, container in self._by_id.items() if id.startswith(ref)]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {ref}")
        raise NotFound(f"No such container: {ref}")

    def find(self, id: str) -> Container | None:
        return self._by_id.get(ContainerId(id))

    def is_taken(self, name: str) -> bool:
        return name in self._by_name

    def reserve(self, name: str, id: ContainerId) -> None:
        """Take a name before the container exists. Conflict in Docker's words when another has it."""
        other = self._by_name.get(name)
        if other is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{other}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._by_name[name] = id

    def release(self, name: str) -> None:
        self._by_name.pop(name, None)

    async def add(self, container: Container, others: Sequence[RowChange] = ()) -> None:
        """A new container, whose name is reserved: on disk, then known. `others`: rows that are to be there with its own, or not at all."""
        await self.save(container, [keep_reserve, *others])
        self._by_id[container.id] = container

    async def save(self, container: Container, others: Sequence[RowChange] = ()) -> None:
        record = container.record
        blob = self._encoder.encode(record)

        def write(connection: sqlite3.Connection) -> None:
            for change in others:
                change(connection)
            Rows.save(connection, record.id, record.name, blob)

        await self._database.run(write)

    async def rename(self, container: Container, name: str) -> None:
        old = container.record.name
        if old == name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        self.reserve(name, container.id)
        container.record.name = name
        try:
            await self.save(container)
        except BaseException:
            container.record.name = old
            self.release(name)
            raise
        self.release(old)

    async def delete(self, container: Container) -> None:
        record_id = container.record.id
        await self._database.run(lambda connection: Rows.delete(connection, record_id))
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.record.name) == container.id:
            self.release(container.record.name)


def describe(record: Record) -> dict[str, str]:
    """The attributes of a container's events: its labels, image and name."""
    return {**(record.config.labels or {}), "image": record.image_ref, "name": record.name}
