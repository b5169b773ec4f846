"""One container, from its start to its last trace: what a shim does.

Runs in the shim, forked from the zygote, one per container, in its own session, a child subreaper. It prepares, starts, execs, pumps stdio,
reports the exit and cleans up; it serves requests from the control connection that it was born with and from any engine that connects to
`<state_dir>/shim.sock`. docs/flows/shim.md has the states, the messages, and what survives what.

    created ──start──► running ◄──pause/resume──► paused
       │                  └──────── init ends ─────────┴──► stopped ──► released ──► (gone)
       └── start fails, or the engine goes away ──► (gone)

**Invariants**
- Every child is reaped in one place, and signals go to pids that are not reaped yet: no pid is ever somebody else's.
- The exit is told (exit.json, then the event) after all output has been read, logged and queued to the clients; what an exec's end tells
  comes before it.
- "released" is told when cgroup and root file system are free for the next start.
- Without an engine everything goes on; with the shim, the container ends.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of signal, which would import enum
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM
from _socket import socket as Socket
from binascii import a2b_base64
from time import time_ns

from wherry.errors import Conflict, InvalidArgument, NotFound, WherryError
from wherry.linux import pty
from wherry.linux.syscalls import Long, function
from wherry.shim.builtin import BuiltinRuntime, set_user
from wherry.shim.connection import Connection
from wherry.shim.external import ExternalRuntime
from wherry.shim.jsonfile import JsonFileLog
from wherry.shim.loop import READ, Loop
from wherry.shim.stdio import Streams
from wherry.wire import fastjson
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.shim.builtin import Started
    from wherry.shim.loop import Timer
    from wherry.wire.shim import ExitRecord, LogConfig, Message, StartRequest

EXEC_GRACE_SECONDS = 2.0
"""How long what an exec left in the background may still write to whoever is attached, as dockerd has it."""
DEATH_SECONDS = 10.0
"""How long the exit waits for processes that were killed but do not die (hung in the kernel)."""
TIDY_SECONDS = 0.3
"""A container that has run this long is worth giving memory back for."""
MAX_UNTOLD = 256
_STATUS_OF_SIGNAL = 128

_malloc_trim = function("malloc_trim", Long)


class Process:
    """Init or an exec: its pid until it is reaped, its streams, then its exit."""

    __slots__ = ("exec_id", "exit", "grace", "pid", "pidfd", "streams")

    def __init__(self, exec_id: str | None, started: Started, streams: Streams) -> None:
        self.exec_id = exec_id
        self.pid = started.pid
        self.pidfd = started.pidfd
        self.streams = streams
        self.exit: ExitRecord | None = None
        self.grace: Timer | None = None

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Supervisor:
    """`Supervisor(control_fd).run()` returns when nothing of the container is left."""

    def __init__(self, control_fd: int) -> None:
        self._loop = Loop()
        self._connections: list[Connection] = []
        self._listener: Socket | None = None
        self._state = "created"
        self._state_dir = ""
        self._runtime: BuiltinRuntime | ExternalRuntime | None = None
        self._own_pid_namespace = True
        self._log: JsonFileLog | None = None
        self._init: Process | None = None
        self._execs: dict[str, Process] = {}
        self._by_pid: dict[int, Process] = {}
        self._untold: dict[str, int] = {}
        """Exit statuses of execs that ended while no engine was there to be told."""
        self._dying: list[int] = []
        self._death: Timer | None = None
        self._oom_score_adj = 0
        self._operations = {
            "start": self._start, "exec": self._exec, "attach": self._attach, "signal": self._signal, "resize": self._resize,
            "close_stdin": self._close_stdin, "pause": self._pause, "resume": self._resume, "update": self._update, "pids": self._pids,
            "status": self._status,
        }  # fmt: skip
        self._watch_children()
        self._connect(control_fd)

    def run(self) -> None:
        self._loop.run(self._on_fault)
        for connection in self._connections:
            connection.flush_now()

    # ------------------------------------------------------------------------------------------------- control connections

    def _connect(self, fd: int) -> None:
        connection = Connection(self._loop, fd, on_message=self._on_message, on_close=self._on_close)
        self._connections.append(connection)

    def _on_close(self, connection: Connection) -> None:
        self._connections.remove(connection)
        if self._state == "created":
            self._loop.stop()
        elif self._state == "released":
            self._leave()

    def _on_message(self, connection: Connection, message: Message, fds: list[int]) -> None:
        answer: Message = {"id": message.get("id")}
        try:
            operation = self._operations.get(str(message.get("op")))
            if operation is None:
                raise InvalidArgument(f"unknown operation {message.get('op')!r}")
            answer["ok"] = operation(message, fds)
        except Exception as error:
            answer["error"] = wire.error_to_message(error)
        connection.send(answer)
        if self._state == "failed":
            self._loop.stop()

    def _tell(self, event: Message) -> None:
        for connection in list(self._connections):
            connection.send(event)

    def _listen(self) -> None:
        """Binds shim.sock through a descriptor of the directory, whose path may be longer than an address can be."""
        directory = os.open(self._state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{directory}/shim.sock")
        finally:
            os.umask(before)
            os.close(directory)
        listener.listen(16)
        self._listener = listener
        self._loop.watch(listener.fileno(), READ, self._on_connection)

    def _on_connection(self, events: int) -> None:
        assert self._listener is not None
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        os.set_inheritable(fd, False)
        self._connect(fd)

    # ------------------------------------------------------------------------------------------------------------ requests

    def _start(self, request: Message, fds: list[int]) -> Message:
        if self._state != "created":
            raise Conflict("this shim has been used")
        self._state = "failed"
        spec: StartRequest = request  # type: ignore[assignment]
        self._state_dir = spec["state_dir"]
        try:
            self._start_container(spec, fds)
        except BaseException:
            self._undo_start()
            raise
        self._state = "running"
        self._loop.call_later(TIDY_SECONDS, self._tidy)
        assert self._init is not None
        return {"pid": self._init.pid}

    def _start_container(self, spec: StartRequest, fds: list[int]) -> None:
        config = spec["config"]
        linux = config.get("linux") or {}
        netns = spec.get("netns_fd")
        for namespace in linux.get("namespaces") or []:
            if namespace["type"] == "network" and netns is not None:
                namespace["path"] = f"/proc/{os.getpid()}/fd/{fds[netns]}"
        self._own_pid_namespace = {"type": "pid"} in (linux.get("namespaces") or [])
        process = config["process"]
        # This process is protected from the kernel's out-of-memory killer; the container is not, unless it was asked for.
        self._oom_score_adj = process.setdefault("oomScoreAdj", 0)
        external = spec.get("runtime")
        self._write_state({"cgroup": linux.get("cgroupsPath", ""), "shim": os.getpid(), "runtime": external})
        self._listen()
        self._log = _open_log(spec.get("log"))
        runtime = (
            ExternalRuntime(config, spec["container"], self._state_dir, external)
            if external
            else BuiltinRuntime(config)
        )
        self._runtime = runtime
        stdio = spec["stdio"]
        ends, streams = self._make_streams(
            process.get("terminal", False), stdin=stdio["stdin"], log=self._log, ends_with_client=stdio["stdin_once"]
        )
        try:
            started = runtime.start(spec, ends, _decode_seccomp(spec.get("seccomp")))
        except BaseException:
            _close_all(ends)
            if streams is not None:
                streams.finish()
            raise
        _close_all(ends)
        self._init = self._adopt(
            None, started, streams, stdin=stdio["stdin"], log=self._log, ends_with_client=stdio["stdin_once"]
        )
        self._attach_all(self._init, spec.get("attach") or [], fds)

    def _undo_start(self) -> None:
        if self._listener is not None:
            os.unlink(f"{self._state_dir}/shim.sock")
        if self._log is not None:
            self._log.close()
            self._log = None

    def _exec(self, request: Message, fds: list[int]) -> Message:
        self._require_running("exec into")
        exec_id, process = str(request["exec_id"]), request["process"]
        if exec_id in self._execs:
            raise Conflict(f"exec {exec_id} is there already")
        assert self._runtime is not None
        if user := request.get("user"):
            assert self._init is not None
            root = os.open(f"/proc/{self._init.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                set_user(root, process, user)
            finally:
                os.close(root)
        process.setdefault("oomScoreAdj", self._oom_score_adj)
        stdin = request["stdio"]["stdin"]
        ends, streams = self._make_streams(process.get("terminal", False), stdin=stdin, log=None, ends_with_client=True)
        try:
            started = self._runtime.exec(process, ends, _decode_seccomp(request.get("seccomp")))
        except BaseException:
            if streams is not None:
                streams.finish()
            raise
        finally:
            _close_all(ends)
        child = self._execs[exec_id] = self._adopt(
            exec_id, started, streams, stdin=stdin, log=None, ends_with_client=True
        )
        self._attach_all(child, request.get("attach") or [], fds)
        return {"pid": child.pid}

    def _attach(self, request: Message, fds: list[int]) -> Message:
        self._attach_all(self._process(request), [request], fds)
        return {}

    def _signal(self, request: Message, fds: list[int]) -> Message:
        process, signal = self._process(request), int(request["signal"])
        if not 0 <= signal < _signal.NSIG:
            raise InvalidArgument(f"Invalid signal: {signal}")
        if process.exit is not None:
            raise NotFound("process already finished")
        if request.get("all"):
            assert self._runtime is not None
            self._runtime.cgroup.kill(signal)
        else:
            try:
                _signal.pidfd_send_signal(process.pidfd, signal)
            except ProcessLookupError:
                raise NotFound("process already finished") from None
        if signal == _signal.SIGKILL and self._state == "paused":
            self._resume({}, [])
        return {}

    def _resize(self, request: Message, fds: list[int]) -> Message:
        process = self._process(request)
        console = process.streams.console
        if not process.streams.raw or console is None:
            raise Conflict("the process has no terminal")
        pty.resize(console, _size(request["width"]), _size(request["height"]))
        return {}

    def _close_stdin(self, request: Message, fds: list[int]) -> Message:
        self._process(request).streams.close_stdin()
        return {}

    def _pause(self, request: Message, fds: list[int]) -> Message:
        self._require_running("pause")
        assert self._runtime is not None
        self._runtime.pause()
        self._state = "paused"
        return {}

    def _resume(self, request: Message, fds: list[int]) -> Message:
        if self._state != "paused":
            raise Conflict("the container is not paused")
        assert self._runtime is not None
        self._runtime.resume()
        self._state = "running"
        return {}

    def _update(self, request: Message, fds: list[int]) -> Message:
        if self._state not in ("running", "paused"):
            raise Conflict("the container is not running")
        assert self._runtime is not None
        self._runtime.update(request["resources"])
        return {}

    def _pids(self, request: Message, fds: list[int]) -> Message:
        return {"pids": self._runtime.cgroup.pids() if self._runtime is not None and self._state != "released" else []}

    def _status(self, request: Message, fds: list[int]) -> Message:
        execs: dict[str, Any] = {
            exec_id: {"pid": 0, "running": False, "exit_status": status} for exec_id, status in self._untold.items()
        }
        for exec_id, process in self._execs.items():
            ended = process.exit["status"] if process.exit is not None else None
            execs[exec_id] = {"pid": process.pid, "running": ended is None, "exit_status": ended}
        self._untold.clear()
        init = self._init
        state = self._state if self._state != "released" else "stopped"
        return {"pid": init.pid if init else 0, "state": state, "exit": init.exit if init else None, "execs": execs}

    def _require_running(self, verb: str) -> None:
        if self._state != "running":
            raise Conflict(f"cannot {verb} a {self._state} container")

    def _process(self, request: Message) -> Process:
        exec_id = request.get("exec_id")
        process = self._init if exec_id is None else self._execs.get(exec_id)
        if process is None:
            raise NotFound("no such process" if exec_id is None else f"No such exec instance: {exec_id}")
        return process

    # ------------------------------------------------------------------------------------------------------------- streams

    def _make_streams(
        self, terminal: bool, *, stdin: bool, log: JsonFileLog | None, ends_with_client: bool
    ) -> tuple[tuple[int, int, int] | None, Streams | None]:
        """Pipes: the process's ends, and the streams on ours. For a terminal both are None, the runtime opens it."""
        if terminal:
            return None, None
        theirs_in, ours_in = os.pipe() if stdin else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), None)
        ours_out, theirs_out = os.pipe()
        ours_err, theirs_err = os.pipe()
        streams = Streams(
            self._loop,
            outputs=[(1, ours_out), (2, ours_err)],
            stdin_fd=ours_in,
            raw=False,
            log=log,
            ends_with_client=ends_with_client,
        )
        return (theirs_in, theirs_out, theirs_err), streams

    def _adopt(
        self,
        exec_id: str | None,
        started: Started,
        streams: Streams | None,
        *,
        stdin: bool,
        log: JsonFileLog | None,
        ends_with_client: bool,
    ) -> Process:
        if streams is None:
            assert started.console is not None
            keyboard = os.dup(started.console) if stdin else None
            streams = Streams(
                self._loop,
                outputs=[(1, started.console)],
                stdin_fd=keyboard,
                raw=True,
                log=log,
                ends_with_client=ends_with_client,
            )
        process = self._by_pid[started.pid] = Process(exec_id, started, streams)
        return process

    def _attach_all(self, process: Process, requests: list[Any], fds: list[int]) -> None:
        for request in requests:
            index = request["fd"]
            fd = os.dup(fds[index])
            process.streams.attach(fd, stdin=request["stdin"], stdout=request["stdout"], stderr=request["stderr"])

    # ------------------------------------------------------------------------------------------------------------ children

    def _watch_children(self) -> None:
        """SIGCHLD becomes a byte in a pipe that the loop watches: no child's end is missed, nothing is asked twice."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._child_ended = reading
        _signal.signal(_signal.SIGCHLD, _ignore)
        _signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._loop.watch(reading, READ, self._on_children)

    def _on_children(self, events: int) -> None:
        try:
            os.read(self._child_ended, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            process = self._by_pid.pop(pid, None)
            if process is not None:  # otherwise an orphan that has become ours
                self._on_exit(process, status)
        if self._dying:
            self._on_death(0)

    def _on_exit(self, process: Process, wait_status: int) -> None:
        code = os.waitstatus_to_exitcode(wait_status)
        process.exit = {
            "event": "exit",
            "exec_id": process.exec_id,
            "status": code if code >= 0 else _STATUS_OF_SIGNAL - code,
            "oom_killed": False,
            "at_ns": time_ns(),
            "pid": process.pid,
        }
        process.close()
        if process is self._init:
            self._end_container()
            return
        process.streams.drain()
        if self._connections:
            self._tell(process.exit)  # type: ignore[arg-type]
        elif len(self._untold) < MAX_UNTOLD and process.exec_id is not None:
            self._untold[process.exec_id] = process.exit["status"]
        if process.streams.at_end or process.streams.raw:
            self._forget_exec(process)
        else:
            process.streams.when_at_end = lambda: self._forget_exec(process)
            process.grace = self._loop.call_later(EXEC_GRACE_SECONDS, process.streams.detach_all)

    def _forget_exec(self, process: Process) -> None:
        process.streams.when_at_end = None
        if process.grace is not None:
            process.grace.cancel()
        process.streams.finish()
        if process.exec_id is not None:
            self._execs.pop(process.exec_id, None)

    # --------------------------------------------------------------------------------------------------------- the end

    def _end_container(self) -> None:
        """Init has ended. With its PID namespace everything has; else what is left in the cgroup is killed first."""
        assert self._runtime is not None
        self._state = "stopped"
        if self._own_pid_namespace:
            self._finish()
            return
        self._runtime.cgroup.kill()
        self._death = self._loop.call_later(DEATH_SECONDS, self._finish)
        self._on_death(0)

    def _on_death(self, events: int) -> None:
        """Watches what is still alive; when nothing is, the container has ended."""
        for pidfd in self._dying:
            self._loop.forget(pidfd)
            os.close(pidfd)
        self._dying = []
        assert self._runtime is not None
        for pid in self._runtime.cgroup.pids():
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            self._dying.append(pidfd)
            self._loop.watch(pidfd, READ, self._on_death)
        if not self._dying:
            self._finish()

    def _finish(self) -> None:
        """Tells the exit, then frees everything."""
        init, runtime = self._init, self._runtime
        assert init is not None and init.exit is not None and runtime is not None
        if self._death is not None:
            self._death.cancel()
        for process in list(self._execs.values()):
            if process.exit is not None:
                self._forget_exec(process)
        init.streams.drain()
        init.streams.finish()
        if self._log is not None:
            self._log.close()
            self._log = None
        try:
            init.exit["oom_killed"] = runtime.cgroup.oom_kills() > 0
        except (WherryError, OSError):
            pass  # the group is gone already
        self._write_exit(init.exit)
        self._tell(init.exit)  # type: ignore[arg-type]
        try:
            runtime.delete()
        except (WherryError, OSError) as error:
            self._tell({"event": "warning", "message": f"the container's remains could not be removed: {error}"})
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            os.unlink(f"{self._state_dir}/shim.sock")
            self._listener = None
        self._state = "released"
        self._tell({"event": "released"})
        self._leave()

    def _leave(self) -> None:
        """Ends the process once every client has what it is owed."""
        waiting = [
            process
            for process in (self._init, *self._execs.values())
            if process is not None and process.streams.has_clients
        ]
        for process in waiting:
            process.streams.when_detached = self._leave
        if not waiting:
            self._loop.stop()

    def _write_exit(self, record: ExitRecord) -> None:
        """exit.json, whole or not at all: how an engine that was not there learns of it."""
        self._write("exit.json", record)

    def _write_state(self, state: Message) -> None:
        """shim.json: what an engine needs to clean up after a shim that was killed."""
        self._write("shim.json", state)

    def _write(self, name: str, value: object) -> None:
        path = f"{self._state_dir}/{name}"
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, fastjson.dumps(value))
        finally:
            os.close(fd)
        os.rename(f"{path}.new", path)

    def _on_fault(self, fault: Exception) -> None:
        """A defect. What it was is left in shim.err, for the engine's log and for whoever mends it."""
        lines = [f"{type(fault).__name__}: {fault}\n"]
        trace = fault.__traceback__
        while trace is not None:
            lines.append(f"  {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}\n")
            trace = trace.tb_next
        try:
            fd = os.open(f"{self._state_dir}/shim.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(fd, "".join(lines).encode("utf-8", "replace"))
            os.close(fd)
        except OSError:
            pass

    def _tidy(self) -> None:
        """Gives back the memory that the start has used, when nothing else is to be done."""
        _malloc_trim(0)


def _ignore(signal: int, frame: object) -> None:
    """A handler must be there for the wake-up descriptor to be written; the loop does the rest."""


def _open_log(config: LogConfig | None) -> JsonFileLog | None:
    if config is None or config["driver"] == "none":
        return None
    if config["driver"] != "json-file":
        raise InvalidArgument(f"the shim does not know the log driver {config['driver']!r}")
    return JsonFileLog(
        config["path"], max_size=config.get("max_size"), max_file=config.get("max_file") or 1, attrs=config.get("attrs")
    )


def _decode_seccomp(text: str | None) -> bytes | None:
    return None if text is None else a2b_base64(text)


def _close_all(fds: tuple[int, ...] | None) -> None:
    for fd in fds or ():
        os.close(fd)


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 0xFFFF:
        raise InvalidArgument(f"a terminal cannot be {value!r} characters wide or high")
    return value
