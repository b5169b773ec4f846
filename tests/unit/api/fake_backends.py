"""A small engine in memory behind the API's Protocols: enough for the routes, no more. Tests only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from wherry import errors
from wherry.api.backend import Backends
from wherry.spec.calls import (
    AttachedStream,
    AttachOptions,
    CommitOptions,
    Filters,
    Json,
    JsonList,
    LogOptions,
    LogStream,
    Names,
    ProgressSink,
    RegistryAuth,
    WaitResult,
)
from wherry.spec.ids import ContainerId, ExecId, ImageId
from wherry.spec.image import Platform
from wherry.wire import stdcopy
from wherry.wire.engine import ContainerCreate, ExecCreate, ExecStart, VolumeCreate

CONTAINER = "c" * 64
EXEC = "e" * 64

Process = Callable[[socket.socket], Awaitable[None]]
"""What runs at the other end of an attached stream."""


class FakeContainers:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.exit: asyncio.Future[WaitResult] = asyncio.get_running_loop().create_future()
        self.waiters = 0
        self.process: socket.socket | None = None
        self.tty = False
        self.replay: list[bytes] = []
        self.detached = False
        self.failure: Exception | None = None
        self.log_chunks: list[bytes] = [b"one\n", b"two\n"]
        self.log_failure: Exception | None = None
        self.followers = 0

    def _found(self, ref: str) -> None:
        if self.failure is not None:
            raise self.failure
        if ref not in (CONTAINER, CONTAINER[:12], "web"):
            raise errors.NotFound(f"No such container: {ref}")

    async def create(
        self, name: str | None, request: ContainerCreate, *, platform: str | None
    ) -> tuple[ContainerId, Names]:
        self.calls.append(("create", (name, request, platform)))
        if request.image == "nope":
            raise errors.NotFound("No such image: nope:latest")
        if name == "web":
            raise errors.Conflict("Conflict. The container name is in use")
        return ContainerId(CONTAINER), []

    async def start(self, ref: str) -> None:
        self._found(ref)

    async def stop(self, ref: str, *, timeout: int | None, signal: str | None) -> None:
        self._found(ref)
        self.calls.append(("stop", (timeout, signal)))

    async def restart(self, ref: str, *, timeout: int | None, signal: str | None) -> None:
        self._found(ref)
        self.calls.append(("restart", (timeout, signal)))

    async def kill(self, ref: str, *, signal: str | None) -> None:
        self._found(ref)
        self.calls.append(("kill", signal))

    async def pause(self, ref: str) -> None:
        self._found(ref)

    async def unpause(self, ref: str) -> None:
        self._found(ref)

    async def rename(self, ref: str, name: str) -> None:
        self._found(ref)
        self.calls.append(("rename", name))

    async def resize(self, ref: str, *, height: int, width: int) -> None:
        self._found(ref)
        self.calls.append(("resize", (height, width)))

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        self._found(ref)
        self.calls.append(("remove", (force, volumes, link)))

    async def wait(self, ref: str, condition: str) -> Awaitable[WaitResult]:
        self._found(ref)
        return self._waiting()

    async def _waiting(self) -> WaitResult:
        self.waiters += 1
        try:
            return await asyncio.shield(self.exit)
        finally:
            self.waiters -= 1

    async def attach(self, ref: str, options: AttachOptions) -> AttachedStream:
        self._found(ref)
        self.calls.append(("attach", options))
        ours, self.process = socket.socketpair()
        ours.setblocking(False)
        self.process.setblocking(False)

        async def replay() -> AsyncIterator[bytes]:
            for piece in self.replay:
                yield piece

        def detached() -> None:
            self.detached = True

        return AttachedStream(
            ours, multiplexed=not self.tty, replay=replay() if options.logs else None, on_detach=detached
        )

    async def logs(self, ref: str, options: LogOptions) -> LogStream:
        self._found(ref)
        self.calls.append(("logs", options))

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in self.log_chunks:
                yield stdcopy.frame(stdcopy.STDOUT, chunk)
            if self.log_failure is not None:
                raise self.log_failure
            if options.follow:
                self.followers += 1
                try:
                    await asyncio.shield(self.exit)
                finally:
                    self.followers -= 1

        return LogStream(chunks(), multiplexed=not self.tty)

    async def inspect(self, ref: str, *, size: bool, api_version: tuple[int, int]) -> Json:
        self._found(ref)
        return {"Id": CONTAINER, "Version": list(api_version), "Size": size}

    async def list(self, *, all: bool, limit: int | None, size: bool, filters: Filters) -> JsonList:
        self.calls.append(("list", (all, limit, size, dict(filters))))
        return [{"Id": CONTAINER, "HostConfig": {"NetworkMode": "bridge", "Annotations": {"a": "b"}}}]

    async def top(self, ref: str, ps_args: str) -> Json:
        self._found(ref)
        return {"Titles": ["PID"], "Processes": [["1"]]}

    async def changes(self, ref: str) -> JsonList:
        return [{"Path": "/new", "Kind": 1}]

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"tar"

        return pieces()

    async def commit(self, ref: str, options: CommitOptions) -> ImageId:
        self.calls.append(("commit", (ref, options)))
        return ImageId("sha256:" + "c" * 64)

    async def prune(self, filters: Filters) -> Json:
        return {"ContainersDeleted": None, "SpaceReclaimed": 0}

    async def stats(self, ref: str) -> Json:
        self._found(ref)
        return {"read": "2026-01-01T00:00:00Z", "cpu_stats": {"cpu_usage": {"total_usage": 1}}}


class FakeExecs:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.process: socket.socket | None = None
        self.failure: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.tty = False

    async def create(self, ref: str, request: ExecCreate) -> ExecId:
        self.calls.append(("create", (ref, request)))
        return ExecId(EXEC)

    async def start(self, exec_id: str, request: ExecStart) -> AttachedStream | None:
        if exec_id != EXEC:
            raise errors.NotFound(f"No such exec instance: {exec_id}")
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        if request.detach:
            return None
        ours, self.process = socket.socketpair()
        ours.setblocking(False)
        self.process.setblocking(False)
        return AttachedStream(ours, multiplexed=not self.tty)

    async def inspect(self, exec_id: str) -> Json:
        if exec_id != EXEC:
            raise errors.NotFound(f"No such exec instance: {exec_id}")
        return {"ID": exec_id, "Running": False, "ExitCode": 0}

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        self.calls.append(("resize", (height, width)))


class FakeImages:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.reports: JsonList = []
        self.failure: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.pulling = False
        self.received = b""
        self.archive = [b"one", b"two"]
        self.late_failure: Exception | None = None

    async def list(
        self,
        *,
        all: bool,
        filters: Filters,
        manifests: bool = False,
        identity: bool = False,
        shared_size: bool = False,
    ) -> JsonList:
        return [{"Id": "sha256:" + "a" * 64, "RepoTags": None, "RepoDigests": None, "Size": 7, "Containers": 3}]

    async def inspect(self, ref: str, *, platform: Platform | None = None, manifests: bool = False) -> Json:
        if not ref.endswith("busybox"):
            raise errors.NotFound(f"No such image: {ref}")
        return {"Id": ref, "Size": 7, "Config": {}}

    async def history(self, ref: str, *, platform: Platform | None = None) -> JsonList:
        return [{"Id": ref}]

    async def tag(self, ref: str, repository: str, tag: str) -> None:
        self.calls.append(("tag", (ref, repository, tag)))

    async def attestations(
        self, ref: str, *, platform: Platform | None, types: Sequence[str], statement: bool
    ) -> JsonList:
        return []

    async def save(self, refs: Sequence[str], *, platforms: Sequence[Platform]) -> AsyncIterator[bytes]:
        self.calls.append(("save", (list(refs), [str(platform) for platform in platforms])))
        return self._archive()

    async def _archive(self) -> AsyncIterator[bytes]:
        if self.failure is not None:
            raise self.failure
        for piece in self.archive:
            yield piece
        if self.late_failure is not None:
            raise self.late_failure

    async def remove(
        self, ref: str, *, force: bool, prune_parents: bool, platforms: Sequence[Platform] = ()
    ) -> JsonList:
        self.calls.append(("remove", (ref, force, prune_parents)))
        return [{"Untagged": ref}]

    async def prune(self, filters: Filters) -> Json:
        return {"ImagesDeleted": None, "SpaceReclaimed": 0}

    async def pull(self, reference: str, *, platform: str | None, auth: RegistryAuth, progress: ProgressSink) -> None:
        self.calls.append(("pull", (reference, platform, auth)))
        self.pulling = True
        try:
            for report in self.reports:
                progress(report)
            if self.hold is not None:
                await self.hold.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.pulling = False

    async def push(
        self,
        repository: str,
        tag: str,
        *,
        platform: str | None,
        referrers: bool = False,
        auth: RegistryAuth,
        progress: ProgressSink,
    ) -> None:
        self.calls.append(("push", (repository, tag, platform, auth)))
        progress({"status": "The push refers to repository [x]"})

    async def load(
        self,
        archive: AsyncIterator[bytes],
        *,
        quiet: bool,
        platforms: Sequence[Platform] = (),
        progress: ProgressSink,
    ) -> None:
        async for piece in archive:
            self.received += piece
        progress({"stream": f"loaded {len(self.received)}\n"})

    async def import_(
        self,
        archive: AsyncIterator[bytes] | str,
        *,
        repository: str,
        tag: str,
        message: str,
        changes: Names,
        platform: str | None,
        progress: ProgressSink,
    ) -> None:
        assert not isinstance(archive, str)
        async for piece in archive:
            self.received += piece
        self.calls.append(("import", (repository, tag, message, changes)))
        progress({"status": "sha256:" + "b" * 64})


class FakeNetworks:
    async def list(self, filters: Filters) -> JsonList:
        return [{"Name": "bridge"}]

    async def inspect(self, ref: str) -> Json:
        raise errors.NotFound(f"network {ref} not found")

    async def prune(self, filters: Filters) -> Json:
        return {"NetworksDeleted": None}


class FakeVolumes:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    async def create(self, request: VolumeCreate) -> Json:
        return {"Name": request.name}

    async def list(self, filters: Filters) -> Json:
        return {"Volumes": [], "Warnings": None}

    async def inspect(self, name: str) -> Json:
        raise errors.NotFound(f"get {name}: no such volume")

    async def remove(self, name: str, *, force: bool) -> None:
        self.calls.append(("remove", (name, force)))

    async def prune(self, filters: Filters) -> Json:
        self.calls.append(("prune", dict(filters)))
        return {"VolumesDeleted": [], "SpaceReclaimed": 0}


class FakeRegistries:
    async def authenticate(self, auth: RegistryAuth) -> Json:
        if auth.password != "secret":
            raise errors.PermissionDenied("unauthorized: incorrect username or password")
        return {"Status": "Login Succeeded", "IdentityToken": ""}

    async def distribution(self, name: str, auth: RegistryAuth) -> Json:
        return {"Descriptor": {"digest": name}, "Platforms": []}

    async def search(self, term: str, *, limit: int | None, filters: Filters, auth: RegistryAuth) -> JsonList:
        return [{"name": term}]


class FakeSystem:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Json | None] = asyncio.Queue()
        self.listeners = 0
        self.asked: list[tuple[int | None, int | None, dict[str, list[str]]]] = []

    async def info(self) -> Json:
        return {"ID": "x", "Containerd": {}, "RuncCommit": {"ID": "abc"}}

    async def version(self) -> Json:
        return {"Version": "0.1.0", "ApiVersion": "1.56"}

    async def disk_usage(self, types: Names) -> Json:
        return {
            "LayersSize": 10,
            "ImagesReclaimable": 5,
            "Images": [{"Size": 6, "SharedSize": 0, "Containers": 1}, {"Size": 4, "SharedSize": 0, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 3}],
            "Volumes": [],
            "BuildCache": [],
        }

    def events(self, *, since_ns: int | None, until_ns: int | None, filters: Filters) -> AsyncIterator[Json]:
        self.asked.append((since_ns, until_ns, dict(filters)))
        self.listeners += 1
        return self._events()

    async def _events(self) -> AsyncIterator[Json]:
        try:
            while (event := await self.queue.get()) is not None:
                yield event
        finally:
            self.listeners -= 1


class Fakes:
    """The fakes by name, and the `Backends` that the routes are built on."""

    def __init__(self) -> None:
        self.containers = FakeContainers()
        self.execs = FakeExecs()
        self.images = FakeImages()
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.registries = FakeRegistries()
        self.system = FakeSystem()
        self.backends = Backends(
            self.containers, self.execs, self.images, self.networks, self.volumes, self.registries, self.system
        )

    def close(self) -> None:
        for process in (self.containers.process, self.execs.process):
            if process is not None:
                with contextlib.suppress(OSError):
                    process.close()
