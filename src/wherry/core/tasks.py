"""Tasks: containerd's task service. The engine's side of the shims: starts them, talks to them, finds them again.

    tasks = Tasks(exec_root, on_exit); await tasks.open()
    task = await tasks.start(container_id, spec, netns_fd=…, attach=[…])      # StartError when the program does not run
    await task.signal(15)  …  on_exit(ExitEvent) is called once per process  …  await tasks.forget(container_id)

Runs in wherryd, on the event loop. One zygote; one shim, and one control connection to it, per container. A spare shim is forked ahead, so
that no fork is on the way of a start. Per container there is `<exec_root>/tasks/<id>/`: shim.sock, shim.json, exit.json.

**Invariants**
- Each container's end is told exactly once, after its start was answered: by the shim's event, else by exit.json, else as lost.
- A container whose shim was killed is dead and its cgroup gone when that is told: there is no container that nobody owns.
- When an exit was told and the container is started again, the new start waits until the old one's cgroup is free.
- Nothing outside `exec_root`, and the cgroups that the configurations name, is touched.

Deliberately absent: Docker's semantics (restart policies, health), networks, the log's readers, anything that lasts (SQLite has it).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from wherry.core.rootfs import BindRoot, ErofsRoot, FuseOverlayRoot, OverlayRoot, Root
from wherry.core.shim_connection import ShimConnection
from wherry.errors import AlreadyExists, Conflict, NotFound, StartError, Unavailable, WherryError
from wherry.linux import cgroups
from wherry.shim import launch
from wherry.spec import oci
from wherry.wire import shim as wire

ANSWER_SECONDS = 3.0
"""How long a successor waits for a shim whose container is known to run."""
MOST_ZYGOTES = 5
"""Tried for one shim."""
LOST_STATUS = 137
"""What is told of a container whose shim was killed: containerd says 128 + SIGKILL."""
UNKNOWN_STATUS = 255
"""What is told of a container that ended, with its shim, while no engine ran, and left no record: dockerd's word for it."""


@dataclass(frozen=True, slots=True)
class ExitEvent:
    """A process has ended. `exec_id` None: the container. `lost`: its shim was killed, the status is a guess."""

    container_id: str
    exec_id: str | None
    status: int
    oom_killed: bool
    at_ns: int
    pid: int
    lost: bool = False


@dataclass(frozen=True, slots=True)
class ExternalRuntime:
    path: str
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JsonFileLogConfig:
    path: str
    max_size: int | None = None
    max_file: int = 1
    attrs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyUp:
    """A volume to be filled from the image if it is empty."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class UserWish:
    """Who the process is to be, as Docker's users write it; the shim looks the names up in the container's own files."""

    user: str
    group_add: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a shim needs to run a container. `config.process.terminal` decides between a terminal and pipes."""

    config: oci.Config
    rootfs: Root
    stdin: bool = False
    stdin_once: bool = False
    log: JsonFileLogConfig | None = None
    seccomp: bytes | None = None
    """A compiled filter; other runtimes than wherry's own read `config.linux.seccomp` instead."""
    copy_up: Sequence[CopyUp] = ()
    subpaths: Mapping[str, str] = field(default_factory=dict)
    """By the destination of a bind mount: the path below its source that is mounted, never left whatever links lie on it."""
    runtime: ExternalRuntime | None = None
    user: UserWish | None = None
    """None: the numbers in `config.process.user` count."""
    note: dict[str, Any] = field(default_factory=dict)
    """JSON of the engine's own, for an engine that finds the container without a row that says so: `Task.note`."""


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """`socket`: the shim's end of an AF_UNIX stream, ours to close; the other end carries stdcopy frames (raw for a terminal)."""

    socket: socket.socket
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class Task:
    """A container that runs, or has ended and is not forgotten. Methods raise NotFound for what has ended, Conflict for a wrong state."""

    def __init__(self, container_id: str, connection: ShimConnection, owner: Tasks) -> None:
        self.container_id = container_id
        self.pid = 0
        self.exit: ExitEvent | None = None
        self.note: dict[str, Any] = {}
        """What the `TaskSpec` of its start said."""
        self.is_silent = False
        """Its shim did not answer a new engine in time; `pid` is not known then."""
        self._connection = connection
        self._owner = owner
        self._released = asyncio.get_running_loop().create_future()
        self.removal: asyncio.Future[None] | None = None
        """Of the record, which all who `forget` it wait for: the next start makes a new one at the same place."""
        self._held: list[ExitEvent] | None = []
        """Exits that come before `start` has answered; None afterwards."""

    async def exec(
        self,
        exec_id: str,
        process: oci.Process,
        *,
        stdin: bool = False,
        seccomp: bytes | None = None,
        user: UserWish | None = None,
        attach: Sequence[AttachRequest] = (),
    ) -> int:
        """→ the new process's pid. StartError; Conflict while paused."""
        clients = [{"fd": index, **_wishes(request)} for index, request in enumerate(attach)]
        body = {
            "exec_id": exec_id, "process": process, "stdio": {"stdin": stdin}, "seccomp": _encode(seccomp), "attach": clients,
            "user": None if user is None else _fields(user),
        }  # fmt: skip
        return int((await self._ask("exec", body, [request.socket.fileno() for request in attach]))["pid"])

    async def attach(self, request: AttachRequest, *, exec_id: str | None = None) -> None:
        """Connects a client to the container's process or to an exec: it is sent what is output from now on."""
        await self._ask("attach", {"exec_id": exec_id, "fd": 0, **_wishes(request)}, [request.socket.fileno()])

    async def signal(self, signal: int, *, exec_id: str | None = None, all: bool = False) -> None:
        await self._ask("signal", {"exec_id": exec_id, "signal": signal, "all": all})

    async def resize(self, width: int, height: int, *, exec_id: str | None = None) -> None:
        await self._ask("resize", {"exec_id": exec_id, "width": width, "height": height})

    async def close_stdin(self, *, exec_id: str | None = None) -> None:
        await self._ask("close_stdin", {"exec_id": exec_id})

    async def pause(self) -> None:
        await self._ask("pause", {})

    async def resume(self) -> None:
        await self._ask("resume", {})

    async def update(self, resources: oci.Resources) -> None:
        await self._ask("update", {"resources": resources})

    async def pids(self) -> list[int]:
        """Host pids of all processes of the container; none after its end."""
        return [] if self.exit is not None else list((await self._ask("pids", {}))["pids"])

    async def status(self) -> dict[str, Any]:
        """→ pid, state ("running", "paused", "stopped"), exit, execs (docs/flows/shim.md)."""
        return await self._ask("status", {})

    async def wait_released(self) -> None:
        """Until cgroup and root file system are free again. Comes after the exit was told."""
        await asyncio.shield(self._released)

    async def _ask(self, operation: str, body: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        if self.exit is not None:
            raise NotFound("process already finished")
        try:
            return await self._connection.ask(operation, body, fds)
        except Unavailable:
            raise NotFound("process already finished") from None  # the shim is gone, and with it the container

    def on_event(self, event: dict[str, Any]) -> None:
        """From the shim: "exit" or "released"."""
        match event.get("event"):
            case "exit":
                self.tell(_exit_event(self.container_id, event))
            case "released":
                self._owner.on_released(self)
            case "warning":
                self._owner.on_warning(f"container {self.container_id[:12]}: {event.get('message')}")

    def tell(self, event: ExitEvent) -> None:
        if event.exec_id is None:
            if self.exit is not None:
                return
            self.exit = event
        if self._held is not None:
            self._held.append(event)
        else:
            self._owner.on_exit(event)

    def tell_held(self) -> None:
        """The caller of `start` knows the task now: what it has missed follows."""
        held, self._held = self._held or [], None
        for event in held:
            asyncio.get_running_loop().call_soon(self._owner.on_exit, event)

    def follow(self) -> None:
        """From here on the end of the connection is told as the shim's, also when it has ended already."""
        self._connection.on_closed = self._on_closed
        if self._connection.is_closed:
            self._on_closed()

    def _on_closed(self) -> None:
        self._owner.on_shim_gone(self)

    def release(self) -> None:
        if not self._released.done():
            self._released.set_result(None)

    async def disconnect(self) -> None:
        self._connection.close()


class _NotBegun(Unavailable):
    """The shim is gone, and the program has not run."""


class Tasks:
    """`on_exit(event)` is called on the event loop for every process that ends; `on_warning(text)` for what an operator should know."""

    def __init__(
        self,
        exec_root: str,
        on_exit: Callable[[ExitEvent], None],
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._directory = f"{exec_root}/tasks"
        self.on_exit = on_exit
        self.on_warning = on_warning
        self._tasks: dict[str, Task] = {}
        self._zygote: ShimConnection | None = None
        self._zygote_process: subprocess.Popen[bytes] | None = None
        self._spare: ShimConnection | None = None
        self._refilling: asyncio.Task[None] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()
        self._open = False
        self._starting = asyncio.Lock()

    async def open(self) -> None:
        """Starts the zygote and a first shim."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._open = True
        self._spare = await self._fork()

    async def close(self) -> None:
        """Lets go of the shims, which go on, and ends the zygote."""
        self._open = False
        if self._refilling is not None:
            await asyncio.wait([self._refilling])
        if self._cleaning:
            await asyncio.wait(set(self._cleaning))
        for task in self._tasks.values():
            await task.disconnect()
        self._tasks.clear()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
        if self._zygote_process is not None:
            await asyncio.to_thread(self._zygote_process.wait)

    def get(self, container_id: str) -> Task | None:
        return self._tasks.get(container_id)

    async def start(
        self, container_id: str, spec: TaskSpec, *, netns_fd: int | None = None, attach: Sequence[AttachRequest] = ()
    ) -> Task:
        """A shim, and the container in it. StartError (also what the configuration has wrong); nothing is left then.

        The descriptors stay the caller's. An exit that follows at once is told after this has returned. A shim that dies before the program
        could run is replaced once: it may have been killed while it was waiting.
        """
        previous = self._tasks.get(container_id)
        if previous is not None:
            if previous.exit is None:
                raise Conflict(f"container {container_id} is running")
            await self.forget(container_id)
        try:
            return await self._start(container_id, spec, netns_fd, attach)
        except _NotBegun:
            self.on_warning(f"container {container_id[:12]}: its shim has died before it ran; it is given another one")
        return await self._start(container_id, spec, netns_fd, attach)

    async def _start(
        self, container_id: str, spec: TaskSpec, netns_fd: int | None, attach: Sequence[AttachRequest]
    ) -> Task:
        directory = f"{self._directory}/{container_id}"
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"container {container_id} has a task already") from None
        connection: ShimConnection | None = None
        try:
            connection = await self._take_shim()
            task = self._tasks[container_id] = Task(container_id, connection, self)
            task.note = spec.note
            connection.on_event = task.on_event
            body, fds = _start_request(container_id, directory, spec, netns_fd, attach)
            task.pid = int((await connection.ask("start", body, fds))["pid"])
        except BaseException as error:
            if connection is not None:
                connection.close()
            self._tasks.pop(container_id, None)
            is_begun = connection is None or os.path.exists(f"{directory}/shim.json")
            deserted = (spec.config.get("linux") or {}).get("cgroupsPath", "") if isinstance(error, Unavailable) else ""
            await asyncio.shield(asyncio.to_thread(self._remove_failed, directory, deserted))
            if isinstance(error, WherryError) and not isinstance(error, StartError | Unavailable):
                raise StartError("create", str(error)) from None
            if isinstance(error, Unavailable) and not is_begun:
                raise _NotBegun(str(error)) from None
            raise
        finally:
            self._refill()
        task.tell_held()
        task.follow()  # not before: what a shim leaves that dies meanwhile is removed above, and a successor may have its place
        return task

    async def reconnect(self, known: Collection[str] = ()) -> tuple[list[Task], list[ExitEvent]]:
        """After a restart of the engine: the containers that still run, and how the others have ended.

        `known`: containers that are on record as running. Of these a shim may be silent (it writes to a disk that hangs, or is stopped): it
        holds nobody up, and says later what it has to say. The others are waited for: they may be in the middle of their start.
        """
        running: list[Task] = []
        ended: list[ExitEvent] = []
        names = [name for name in sorted(os.listdir(self._directory)) if name not in self._tasks]
        for task in await asyncio.gather(*(self._reconnect(name, is_known=name in known) for name in names)):
            if task.exit is not None:
                ended.append(task.exit)
            else:
                running.append(task)
        return running, ended

    async def forget(self, container_id: str) -> None:
        """The engine has recorded the exit: waits until the container's remains are gone, then removes the record."""
        task = self._tasks.get(container_id)
        if task is None:
            return
        if task.exit is None:
            raise Conflict(f"container {container_id} is running")
        await task.wait_released()
        if task.removal is None:
            directory = f"{self._directory}/{container_id}"
            task.removal = asyncio.ensure_future(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
        await asyncio.shield(task.removal)
        if self._tasks.get(container_id) is task:
            del self._tasks[container_id]

    # -------------------------------------------------------------------------------------------------- what shims report

    def on_released(self, task: Task) -> None:
        task.release()

    def on_shim_gone(self, task: Task) -> None:
        """A connection has ended. After "released" that is as it should be; before, somebody has killed the shim."""
        if task._released.done() or not self._open:
            return
        cleaning = asyncio.get_running_loop().create_task(self._clean_up(task))
        self._cleaning.add(cleaning)
        cleaning.add_done_callback(self._cleaning.discard)

    async def _clean_up(self, task: Task, status: int = LOST_STATUS) -> None:
        directory = f"{self._directory}/{task.container_id}"
        try:
            await asyncio.to_thread(_kill_remains, directory)
        except (WherryError, OSError) as error:
            self.on_warning(
                f"container {task.container_id[:12]}: its shim is gone and its remains cannot be removed: {error}"
            )
        event = _read_exit(task.container_id, directory)
        if event is None:
            event = ExitEvent(task.container_id, None, status, False, _now_ns(), task.pid, lost=True)
            fault = _read_fault(directory)
            self.on_warning(f"container {task.container_id[:12]}: its shim was killed{': ' + fault if fault else ''}")
        task.release()
        task.tell(event)

    # ------------------------------------------------------------------------------------------------------- making shims

    async def _start_zygote(self) -> None:
        process, control = await asyncio.to_thread(launch.start_zygote)
        self._zygote_process = process
        self._zygote = await ShimConnection.open(control)

    async def _fork(self) -> ShimConnection:
        """A new shim's control connection. A zygote that has died is replaced, also one that dies while it is asked."""
        for _ in range(MOST_ZYGOTES):
            with contextlib.suppress(Unavailable):
                return await self._spawn(await self._living_zygote())
        raise Unavailable(f"no shim can be forked: the zygote has died {MOST_ZYGOTES} times")

    async def _living_zygote(self) -> ShimConnection:
        async with self._starting:
            if self._zygote is None or self._zygote.is_closed:
                if self._zygote_process is not None:
                    await asyncio.to_thread(self._zygote_process.wait)
                await self._start_zygote()
            assert self._zygote is not None
            return self._zygote

    async def _spawn(self, zygote: ShimConnection) -> ShimConnection:
        ours, theirs = socket.socketpair()
        try:
            await zygote.ask("spawn", {}, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return await ShimConnection.open(ours)

    async def _take_shim(self) -> ShimConnection:
        spare, self._spare = self._spare, None
        if spare is not None and not spare.is_closed:
            return spare
        return await self._fork()

    def _refill(self) -> None:
        """Has the next shim forked, when the one that was taken is on its way."""
        if self._spare is None and self._refilling is None and self._open:
            self._refilling = asyncio.get_running_loop().create_task(self._fork_spare())

    async def _fork_spare(self) -> None:
        try:
            self._spare = await self._fork()
        except (WherryError, OSError) as error:
            self.on_warning(f"no shim can be forked: {error}")
        finally:
            self._refilling = None

    def _remove_failed(self, directory: str, group: str) -> None:
        """After a failed start, which has cleaned up unless its makers died: then the cgroup `group` may be there though none of them had
        written that down. Who lives in it stays.
        """
        try:
            _kill_remains(directory)
            if group.startswith("/"):
                cgroups.open_group(group).delete()
        except (WherryError, OSError) as error:
            self.on_warning(f"a failed start left something behind: {error}")
        if fault := _read_fault(directory):
            self.on_warning(f"container {os.path.basename(directory)[:12]}: its shim has failed: {fault}")
        shutil.rmtree(directory, ignore_errors=True)

    async def _reconnect(self, container_id: str, *, is_known: bool) -> Task:
        directory = f"{self._directory}/{container_id}"
        connection = None if (channel := _connect(directory)) is None else await ShimConnection.open(channel)
        task = Task(container_id, connection or ShimConnection.closed(), self)
        task.note = _read_state(directory).get("note") or {}
        self._tasks[container_id] = task
        try:
            if connection is None:
                raise NotFound("its shim is gone")
            connection.on_event = task.on_event
            try:
                async with asyncio.timeout(ANSWER_SECONDS if is_known else None):
                    status = await task.status()
            except TimeoutError:
                self.on_warning(f"container {container_id[:12]}: its shim does not answer")
                task.is_silent, task._held = True, None
                task.follow()
                return task
            task.pid = status["pid"]
            if status["exit"] is not None:
                task.tell(_exit_event(container_id, status["exit"]))
            for exec_id, execution in status["execs"].items():
                if not execution["running"]:
                    task.tell(
                        ExitEvent(container_id, exec_id, execution["exit_status"], False, _now_ns(), execution["pid"])
                    )
        except NotFound:
            await self._clean_up(task, UNKNOWN_STATUS)
        held, task._held = task._held or [], None
        for event in held:
            if event.exec_id is not None:
                asyncio.get_running_loop().call_soon(self.on_exit, event)
        task.follow()
        return task


def _start_request(
    container_id: str, directory: str, spec: TaskSpec, netns_fd: int | None, attach: Sequence[AttachRequest]
) -> tuple[dict[str, Any], list[int]]:
    fds = [request.socket.fileno() for request in attach]
    body: dict[str, Any] = {
        "container": container_id,
        "state_dir": directory,
        "config": spec.config,
        "rootfs": _rootfs(spec.rootfs),
        "stdio": {"stdin": spec.stdin, "stdin_once": spec.stdin_once},
        "log": {"driver": "none"} if spec.log is None else {"driver": "json-file", **_fields(spec.log)},
        "seccomp": _encode(spec.seccomp),
        "netns_fd": None,
        "attach": [{"fd": index, **_wishes(request)} for index, request in enumerate(attach)],
        "copy_up": [_fields(volume) for volume in spec.copy_up],
        "subpaths": dict(spec.subpaths),
        "runtime": None if spec.runtime is None else _fields(spec.runtime),
        "user": None if spec.user is None else _fields(spec.user),
        "note": spec.note,
    }
    if netns_fd is not None:
        body["netns_fd"] = len(fds)
        fds.append(netns_fd)
    return body, fds


_TYPES: dict[type[Root], str] = {
    OverlayRoot: "overlay",
    FuseOverlayRoot: "fuse-overlayfs",
    ErofsRoot: "erofs",
    BindRoot: "bind",
}


def _rootfs(rootfs: Root) -> dict[str, Any]:
    return {"type": _TYPES[type(rootfs)], **_fields(rootfs)}


def _fields(value: Any) -> dict[str, Any]:
    builtins: dict[str, Any] = msgspec.to_builtins(value)
    return builtins


def _wishes(request: AttachRequest) -> dict[str, bool]:
    return {"stdin": request.stdin, "stdout": request.stdout, "stderr": request.stderr}


def _encode(program: bytes | None) -> str | None:
    return None if program is None else base64.b64encode(program).decode()


def _exit_event(container_id: str, event: dict[str, Any]) -> ExitEvent:
    return ExitEvent(container_id, event["exec_id"], event["status"], event["oom_killed"], event["at_ns"], event["pid"])


def _read_exit(container_id: str, directory: str) -> ExitEvent | None:
    try:
        with open(f"{directory}/exit.json", "rb") as file:
            return _exit_event(container_id, msgspec.json.decode(file.read()))
    except FileNotFoundError:
        return None


def _read_state(directory: str) -> dict[str, Any]:
    """shim.json; {} when the shim has died before it made anything."""
    try:
        with open(f"{directory}/shim.json", "rb") as file:
            state: dict[str, Any] = msgspec.json.decode(file.read())
            return state
    except FileNotFoundError:
        return {}


def _read_fault(directory: str) -> str:
    try:
        with open(f"{directory}/shim.err", errors="replace") as file:
            return file.read(4096).strip()
    except FileNotFoundError:
        return ""


def _connect(directory: str) -> socket.socket | None:
    """A connection to the shim that listens there; None when it is gone."""
    try:
        handle = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"/proc/self/fd/{handle}/shim.sock")
    except OSError:
        connection.close()
        return None
    finally:
        os.close(handle)
    return connection


def _kill_remains(directory: str) -> None:
    """Kills what is left in the cgroup of a container whose shim is gone, waits for it, removes the cgroup. Blocks."""
    state = _read_state(directory)
    if state.get("cgroup"):
        group = cgroups.open_group(state["cgroup"])
        if group.exists():
            group.kill()
            if runtime := state["runtime"]:  # it may have made more than the group; what it says does not help here
                command = [runtime["path"], *runtime["args"], "--root", f"{directory}/runtime", "delete", "--force"]
                subprocess.run([*command, os.path.basename(directory)], capture_output=True, check=False)
            group.delete()


def _now_ns() -> int:
    import time

    return time.time_ns()


__all__ = [
    "AttachRequest", "BindRoot", "CopyUp", "ExitEvent", "ExternalRuntime", "JsonFileLogConfig", "NotFound", "OverlayRoot", "Task", "TaskSpec",
    "Tasks", "wire",
]  # fmt: skip
