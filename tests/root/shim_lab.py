"""A place to run containers in, for the tests of the shim: wherry's tasks over busybox, without an engine.

`async with lab(tmp_path) as it:` gives a `Lab`; what it has started is killed and removed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from tests import leaks

from wherry.core.tasks import (
    AttachRequest,
    BindRoot,
    ExitEvent,
    ExternalRuntime,
    JsonFileLogConfig,
    OverlayRoot,
    Task,
    Tasks,
    TaskSpec,
)
from wherry.wire import stdcopy

leaks.watch_instance("5417ab")  # these tests make no network: whatever has another engine's tag is not theirs

NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Makes a coroutine function a test, on the event loop that wherryd uses."""

    def runs(tmp_path: Path) -> None:
        uvloop.run(test(tmp_path))

    runs.__name__, runs.__doc__ = test.__name__, test.__doc__
    return runs


def busybox_rootfs(directory: Path) -> Path:
    root = directory / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc", "home"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/home:/bin/sh\n")
    listed = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    return root


def config(
    args: list[str], *, cgroup: str, terminal: bool = False, namespaces: tuple[str, ...] = NAMESPACES, **changes: Any
) -> Any:
    capabilities = ["CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
    ]  # fmt: skip
    return {
        "ociVersion": "1.0.2",
        "hostname": "lab" if "uts" in namespaces else "",
        "root": {"path": "rootfs"},
        "process": {
            "terminal": terminal, "cwd": "/", "args": args, "env": ["PATH=/bin", "TERM=xterm", "HOME=/"],
            "user": {"uid": 0, "gid": 0},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            **changes.pop("process", {}),
        },
        "mounts": mounts + changes.pop("mounts", []),
        "linux": {
            "namespaces": [{"type": name} for name in namespaces], "cgroupsPath": cgroup,
            "resources": changes.pop("resources", {}), **changes.pop("linux", {}),
        },
        **changes,
    }  # fmt: skip


class Client:
    """Our end of an attached connection."""

    def __init__(self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.request = AttachRequest(theirs, stdin=stdin, stdout=stdout, stderr=stderr)

    def connected(self) -> None:
        """The request has been sent: our copy of the shim's end is not wanted any more."""
        self.request.socket.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.ours, data)

    def end_input(self) -> None:
        self.ours.shutdown(socket.SHUT_WR)

    async def read_some(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.ours, 1 << 16)

    async def read_raw(self) -> bytes:
        """All bytes to the end."""
        parts = []
        while part := await self.read_some():
            parts.append(part)
        return b"".join(parts)

    async def read(self) -> dict[int, bytes]:
        """All output to the end, by stream."""
        decoder = stdcopy.Decoder()
        output: dict[int, list[bytes]] = {}
        while data := await self.read_some():
            for stream, piece in decoder.feed(data):
                output.setdefault(stream, []).append(piece)
        assert decoder.at_boundary
        return {stream: b"".join(pieces) for stream, pieces in output.items()}

    async def read_until(self, wanted: bytes, *, raw: bool = False) -> bytes:
        """Output until `wanted` is in it."""
        decoder, output = stdcopy.Decoder(), b""
        while wanted not in output:
            data = await self.read_some()
            assert data, f"the stream ended after {output!r}"
            output += data if raw else b"".join(piece for _, piece in decoder.feed(data))
        return output

    def close(self) -> None:
        self.ours.close()


class Lab:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rootfs = busybox_rootfs(directory)
        self.group = f"/wherry-lab-{os.getpid()}"
        self.events: list[ExitEvent] = []
        self.warnings: list[str] = []
        self._arrived = asyncio.Event()
        self._clients: list[Client] = []
        self._ids: list[str] = []
        self.tasks = self.new_tasks()

    def end_zygote_and_spare(self) -> None:
        """The next start needs both anew."""
        zygote, spare = self.tasks._zygote_process, self.tasks._spare
        assert zygote is not None and spare is not None
        zygote.kill()
        spare.close()

    def new_tasks(self) -> Tasks:
        """An engine's side, on the same directory: as after a restart."""
        return Tasks(str(self.directory / "exec"), self._on_exit, self.warnings.append)

    def _on_exit(self, event: ExitEvent) -> None:
        self.events.append(event)
        self._arrived.set()

    def cgroup(self, name: str) -> str:
        return f"{self.group}/{name}"

    def log_path(self, name: str = "c") -> Path:
        return self.directory / name / "json.log"

    def spec(
        self, args: list[str], name: str = "c", *, stdin: bool = False, stdin_once: bool = False, log: JsonFileLogConfig | None = None,
        runtime: ExternalRuntime | None = None, bind: bool = False, copy_up: Any = (), seccomp: bytes | None = None, **changes: Any,
    ) -> TaskSpec:  # fmt: skip
        for part in ("upper", "work"):
            (self.directory / name / part).mkdir(parents=True, exist_ok=True)
        here = f"{self.directory}/{name}"
        rootfs = (
            BindRoot(str(self.rootfs)) if bind else OverlayRoot([str(self.rootfs)], f"{here}/upper", f"{here}/work")
        )
        return TaskSpec(
            config(args, cgroup=self.cgroup(name), **changes), rootfs, stdin=stdin, stdin_once=stdin_once,
            log=log or JsonFileLogConfig(str(self.log_path(name))), runtime=runtime, copy_up=copy_up, seccomp=seccomp,
        )  # fmt: skip

    async def start(
        self, args: list[str], name: str = "c", *, clients: tuple[Client, ...] = (), **options: Any
    ) -> Task:
        self._ids.append(name)
        self._clients += clients
        self.events[:] = [event for event in self.events if event.container_id != name]
        try:
            return await self.tasks.start(
                name, self.spec(args, name, **options), attach=[client.request for client in clients]
            )
        finally:
            for client in clients:
                client.connected()

    async def shell(self, script: str, name: str = "c", **options: Any) -> Task:
        return await self.start(["sh", "-c", script], name, **options)

    async def attach(self, task: Task, *, exec_id: str | None = None, **wishes: bool) -> Client:
        client = Client(**wishes)
        self._clients.append(client)
        await task.attach(client.request, exec_id=exec_id)
        client.connected()
        return client

    async def exec(
        self,
        task: Task,
        args: list[str],
        exec_id: str = "e",
        *,
        clients: tuple[Client, ...] = (),
        stdin: bool = False,
        **process: Any,
    ) -> int:
        self._clients += clients
        spec: Any = {
            "cwd": "/", "args": args, "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "terminal": False, **process
        }  # fmt: skip
        pid = await task.exec(exec_id, spec, stdin=stdin, attach=[client.request for client in clients])
        for client in clients:
            client.connected()
        return pid

    async def exited(self, name: str = "c", exec_id: str | None = None) -> ExitEvent:
        """The end of a process, when it has been told."""
        while True:
            for event in self.events:
                if (event.container_id, event.exec_id) == (name, exec_id):
                    return event
            self._arrived.clear()
            await self._arrived.wait()

    async def wait_for_log(self, text: str, name: str = "c") -> None:
        """Until a whole line of the log has `text`; the files are watched, since nobody tells when they are written."""
        path = self.log_path(name)
        while not path.exists() or text not in path.read_text().rpartition("\n")[0]:
            await asyncio.sleep(0.01)

    async def until_spare(self) -> None:
        """Until the zygote has forked the shim of the next start, and so has nothing to do."""
        while self.tasks._spare is None:
            await asyncio.sleep(0.01)

    def shim_pid(self, name: str = "c") -> int:
        import json

        return int(json.loads((self.directory / "exec/tasks" / name / "shim.json").read_text())["shim"])

    async def finish(self) -> None:
        for client in self._clients:
            client.request.socket.close()
            client.close()
        for name in dict.fromkeys(self._ids):
            task = self.tasks.get(name)
            if task is None:
                continue
            if task.exit is None:
                with contextlib.suppress(Exception):
                    await task.signal(9)
                await self.exited(name)
            await self.tasks.forget(name)
        await self.tasks.close()
        for hierarchy in leaks.cgroup_hierarchies():
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(hierarchy + self.group)


@contextlib.asynccontextmanager
async def lab(directory: Path) -> AsyncIterator[Lab]:
    it = Lab(directory)
    await it.tasks.open()
    try:
        yield it
    finally:
        await it.finish()


async def within(seconds: float, awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


def has_zombies(pid: int) -> bool:
    """Whether a child of this process has ended and was not waited for."""
    found = leaks.descendants(pid)
    return any(state == "Z" for state, _ in found.values())


def is_alive(pid: int) -> bool:
    found = leaks._stat(pid)
    return found is not None and found[1] != "Z"


async def until_dead(pid: int) -> None:
    """A process that was killed has left its cgroup, its memory and its files a moment before it is a zombie."""
    while is_alive(pid):
        await asyncio.sleep(0.01)


def host_path(pid: int, path: str) -> str:
    """A file of the container's, seen from the host."""
    return f"/proc/{pid}/root{path}"
