"""The requests that a shim serves, on every control connection alike; docs/flows/shim.md lists them.

Runs in the shim. Each operation checks that the container's state allows it, and either answers at once or has a worker do it and answers
then. **Invariants**: every request with an id gets one answer; a request that is wrong in any way gets an error and changes nothing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

from wherry.errors import Conflict, InvalidArgument, NotFound
from wherry.linux import pty
from wherry.shim.connection import Connection
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from wherry.shim.builtin import BuiltinRuntime
    from wherry.shim.external import ExternalRuntime
    from wherry.shim.process import Process
    from wherry.shim.supervisor import Supervisor
    from wherry.shim.worker import Tell
    from wherry.wire.shim import Message

    Answer = Callable[[Message], None]
    Operation = Callable[["Service", Message, list[int], Answer], Message | None]
    Runtime = BuiltinRuntime | ExternalRuntime


class Service:
    def __init__(self, owner: Supervisor) -> None:
        self._owner = owner
        self._connections: list[Connection] = []
        self._starting: set[str] = set()
        """Execs that workers are making."""
        self._killed = False
        """Killed while it was being paused: it has to be thawed for that."""

    @property
    def is_connected(self) -> bool:
        return bool(self._connections)

    def connect(self, fd: int) -> Connection:
        """Serves a connection; takes the descriptor over."""
        connection = Connection(self._owner.loop, fd, on_message=self._on_message, on_close=self._on_close)
        self._connections.append(connection)
        return connection

    def tell(self, event: Mapping[str, Any]) -> None:
        """Sends an event on every connection."""
        for connection in list(self._connections):
            connection.send(event)

    def finish(self) -> None:
        """The process is about to end: everybody gets what is queued, then end of file."""
        for connection in self._connections:
            connection.finish()

    def _on_close(self, connection: Connection) -> None:
        self._connections.remove(connection)
        self._owner.on_disconnect()

    def _on_message(self, connection: Connection, message: Message, fds: list[int]) -> None:
        number = message.get("id")

        def answer(result: Message) -> None:
            connection.send({"id": number, **result})

        try:
            operation = _OPERATIONS.get(str(message.get("op")))
            if operation is None:
                raise InvalidArgument(f"unknown operation {message.get('op')!r}")
            result = operation(self, message, fds, answer)
        except Exception as error:
            answer({"error": wire.error_to_message(error)})
            return
        if result is not None:
            answer({"ok": result})

    def _exec(self, request: Message, fds: list[int], answer: Answer) -> None:
        owner, exec_id = self._owner, str(request["exec_id"])
        self._require_running("exec into")
        if exec_id in owner.execs or exec_id in self._starting:
            raise Conflict(f"exec {exec_id} is there already")
        requests = request.get("attach") or []
        clients = [(client, os.dup(fds[client["fd"]])) for client in requests]

        def done(message: Message, made_fds: list[int]) -> None:
            self._starting.discard(exec_id)
            try:
                if "error" in message:
                    raise wire.error_from_message(message["error"])
                child = owner.add_exec(exec_id, message["ok"], made_fds)
            except Exception as error:
                for fd in (*made_fds, *(fd for _, fd in clients)):
                    os.close(fd)
                answer({"error": wire.error_to_message(error)})
                return
            for client, fd in clients:
                child.streams.attach(fd, stdin=client["stdin"], stdout=client["stdout"], stderr=client["stderr"])
            answer({"ok": {"pid": child.pid}})

        self._starting.add(exec_id)
        owner.execute(request, done)

    def _attach(self, request: Message, fds: list[int], answer: Answer) -> Message:
        streams = self._process(request).streams
        wishes = {name: bool(request[name]) for name in ("stdin", "stdout", "stderr")}
        streams.attach(os.dup(fds[request["fd"]]), **wishes)
        return {}

    def _signal(self, request: Message, fds: list[int], answer: Answer) -> Message | None:
        process, signal = self._process(request), int(request["signal"])
        if not 0 <= signal < _signal.NSIG:
            raise InvalidArgument(f"Invalid signal: {signal}")
        if process.exit is not None:
            raise NotFound("process already finished")
        if request.get("all"):
            self._owner.cgroup.kill(signal)
        else:
            try:
                _signal.pidfd_send_signal(process.pidfd, signal)
            except ProcessLookupError:
                raise NotFound("process already finished") from None
        if signal == _signal.SIGKILL:  # it acts on what is thawed only
            self._killed = self._owner.state == "pausing"
            if self._owner.state == "paused":
                self._resume(request, fds, answer)
                return None
        return {}

    def _resize(self, request: Message, fds: list[int], answer: Answer) -> Message:
        console = self._process(request).streams.console
        if console is None:
            raise Conflict("the process has no terminal")
        pty.resize(console, _length(request["width"]), _length(request["height"]))
        return {}

    def _close_stdin(self, request: Message, fds: list[int], answer: Answer) -> Message:
        self._process(request).streams.close_stdin()
        return {}

    def _pause(self, request: Message, fds: list[int], answer: Answer) -> None:
        self._require_running("pause")
        self._change("pausing", "paused", lambda runtime: runtime.pause(), answer)

    def _resume(self, request: Message, fds: list[int], answer: Answer) -> None:
        if self._owner.state != "paused":
            raise Conflict("the container is not paused")
        self._change("resuming", "running", lambda runtime: runtime.resume(), answer)

    def _change(self, during: str, after: str, call: Callable[[Runtime], None], answer: Answer) -> None:
        """Has a worker change the container's state; a failure leaves it as it was."""
        owner, before = self._owner, self._owner.state
        owner.state = during

        def work(_: Tell) -> tuple[Message, list[int]]:
            call(owner.runtime)
            return {}, []

        def done(message: Message, fds: list[int]) -> None:
            if owner.state == during:  # it may have ended meanwhile
                owner.state = after if "ok" in message else before
            answer(message)
            if self._killed and owner.state == "paused":
                self._resume({}, [], lambda message: None)

        owner.work(work, done, keep=[])

    def _update(self, request: Message, fds: list[int], answer: Answer) -> None:
        if self._owner.state not in ("running", "paused"):
            raise Conflict("the container is not running")
        owner, resources = self._owner, request["resources"]

        def work(_: Tell) -> tuple[Message, list[int]]:
            owner.runtime.update(resources)
            return {}, []

        owner.work(work, lambda message, fds: answer(message), keep=[])

    def _pids(self, request: Message, fds: list[int], answer: Answer) -> Message:
        return {"pids": self._owner.cgroup.pids() if self._owner.state != "released" else []}

    def _status(self, request: Message, fds: list[int], answer: Answer) -> Message:
        owner = self._owner
        execs: dict[str, Any] = {
            exec_id: {"pid": 0, "running": False, "exit_status": status} for exec_id, status in owner.untold.items()
        }
        for exec_id, process in owner.execs.items():
            ended = process.exit["status"] if process.exit is not None else None
            execs[exec_id] = {"pid": process.pid, "running": ended is None, "exit_status": ended}
        owner.untold.clear()
        state = {"pausing": "running", "resuming": "paused", "released": "stopped"}.get(owner.state, owner.state)
        init = owner.init
        return {"pid": init.pid if init else 0, "state": state, "exit": init.exit if init else None, "execs": execs}

    def _require_running(self, verb: str) -> None:
        if self._owner.state != "running":
            raise Conflict(f"cannot {verb} a {self._owner.state} container")

    def _process(self, request: Message) -> Process:
        exec_id = request.get("exec_id")
        process = self._owner.init if exec_id is None else self._owner.execs.get(exec_id)
        if process is None:
            raise NotFound("no such process" if exec_id is None else f"No such exec instance: {exec_id}")
        return process


_OPERATIONS: dict[str, Operation] = {
    "exec": Service._exec, "attach": Service._attach, "signal": Service._signal, "resize": Service._resize, "close_stdin": Service._close_stdin,
    "pause": Service._pause, "resume": Service._resume, "update": Service._update, "pids": Service._pids, "status": Service._status,
}  # fmt: skip
"""Outside of the class, so that it is not made in every shim."""


def _length(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 0xFFFF:
        raise InvalidArgument(f"a terminal cannot be {value!r} characters wide or high")
    return value
