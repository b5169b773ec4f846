"""What the engine remembers of a container: the part that lasts (one row of SQLite) and the part that dies with the engine.

Runs in wherryd. `Record` is encoded whole into its row at each change of state; a `Container` wraps it with the lock, the waiters and the
streams that wait for a start. **Invariant**: a record changes only under its container's lock (or before the container is known to
others), and what a client was told has been written first.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from wherry.spec.ids import ContainerId, ImageId
from wherry.wire.engine import ContainerConfig, HostConfig

if TYPE_CHECKING:
    from wherry.core.tasks import AttachRequest, Task
    from wherry.network import Endpoint


class Status(StrEnum):
    """Docker's words for the state of a container."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class MountPoint(msgspec.Struct, frozen=True):
    """A mount that the user asked for, resolved: what inspect shows under Mounts, and what the OCI config needs."""

    type: str  # "bind" | "volume" | "tmpfs"
    source: str  # host path; "" for tmpfs
    destination: str
    read_only: bool = False
    name: str = ""  # of the volume
    mode: str = ""  # the options as the user wrote them
    propagation: str = ""
    recursive: bool = True
    copy_up: bool = False  # an empty volume takes the image's content
    options: tuple[str, ...] = ()  # of a tmpfs
    anonymous: bool = False
    from_mounts_api: bool = False
    read_only_below: bool = True  # a read-only bind's mounts further down are read-only, too
    create_source: bool = False
    subpath: str = ""  # of a volume: what of it is mounted


class State(msgspec.Struct):
    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    restart_count: int = 0
    manually_stopped: bool = False


class Record(msgspec.Struct):
    """One container, as its row holds it."""

    id: ContainerId
    name: str
    created_ns: int
    image: ImageId
    image_ref: str
    config: ContainerConfig  # with the image's defaults filled in
    host_config: HostConfig
    path: str
    args: list[str]
    mounts: list[MountPoint] = []
    state: State = msgspec.field(default_factory=State)
    network: dict[str, Any] | None = None  # what Networks.restore needs
    mac_address: str = ""
    platform: str = "linux"


@dataclass(eq=False, slots=True)
class Waiter:
    condition: str
    future: asyncio.Future[int]


@dataclass(eq=False, slots=True)
class Container:
    """A record and what lives only as long as the engine."""

    record: Record
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: Task | None = None
    endpoint: Endpoint | None = None
    waiters: list[Waiter] = field(default_factory=list)
    pending_attach: list[AttachRequest] = field(default_factory=list)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no process runs; log followers and `stop` wait for it."""
    restart_timer: asyncio.TimerHandle | None = None
    restart_delay: float = 0.0
    is_restarting_by_hand: bool = False
    """Its end is not one: `--rm` does not remove it. Known to this engine alone: if it dies meanwhile, the end was one."""
    exec_ids: list[str] = field(default_factory=list)
    """Execs that can be asked about, oldest first."""
    open_exec_ids: list[str] = field(default_factory=list)
    """Those of them that have not ended: what inspect shows."""

    @property
    def id(self) -> ContainerId:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def status(self) -> Status:
        return self.record.state.status

    @property
    def is_running(self) -> bool:
        """Has a process: running or paused."""
        return self.record.state.status in (Status.RUNNING, Status.PAUSED)

    async def start_under_way(self) -> None:
        """Returns when a start that is under way has ended, as whoever asks dockerd waits for its lock: the program may be heard before the
        record says that it runs."""
        if not self.is_running:
            async with self.lock:
                pass

    def drop_pending_attach(self) -> None:
        """Close this side of the streams that wait for a start."""
        for request in self.pending_attach:
            request.socket.close()
        self.pending_attach = []

    def wake(self, conditions: tuple[str, ...], status_code: int) -> None:
        """Answer the waiters for any of `conditions`."""
        kept = []
        for waiter in self.waiters:
            if waiter.condition in conditions:
                if not waiter.future.done():
                    waiter.future.set_result(status_code)
            else:
                kept.append(waiter)
        self.waiters = kept


class Rows:
    """The table of records. Functions for `Database.run`."""

    SCHEMA = (
        "create table if not exists containers (id text primary key, name text not null unique, record blob not null)"
    )

    @classmethod
    def create_table(cls, connection: sqlite3.Connection) -> None:
        connection.execute(cls.SCHEMA)

    @staticmethod
    def load(connection: sqlite3.Connection) -> list[Record]:
        decoder = msgspec.json.Decoder(Record)
        return [decoder.decode(blob) for (blob,) in connection.execute("select record from containers")]

    @staticmethod
    def save(connection: sqlite3.Connection, record_id: str, name: str, blob: bytes) -> None:
        connection.execute(
            "insert into containers (id, name, record) values (?, ?, ?)"
            " on conflict (id) do update set name = excluded.name, record = excluded.record",
            (record_id, name, blob),
        )

    @staticmethod
    def delete(connection: sqlite3.Connection, record_id: str) -> None:
        connection.execute("delete from containers where id = ?", (record_id,))
