"""A worker: a fork of the shim for work that blocks, or that would leave the shim's memory the larger.

The shim itself only ever waits in its loop: output is read and logged however long a start, an exec or a pause may take. What a worker makes
(a container, a process) is the shim's child, see `spawn.spawn(sibling=True)`, and does not end with the worker.

    shim ──fork──► worker: job(tell) ──{"told": …}, descriptors──────────────► shim: told(message, descriptors)
                                     ──{"ok": …} or {"error": …}, descriptors──► shim: done(message, descriptors)

**Invariants**: `done` is called exactly once, with an error when the worker died, and last; a worker answers once and ends; it has no descriptor
of the shim's but those that it was given, since it may enter the container (CVE-2016-9962).
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socketpair
from _struct import pack

from wherry.errors import Internal
from wherry.runtime.process import close_descriptors
from wherry.shim.children import stop_watching
from wherry.shim.connection import receive
from wherry.shim.loop import READ
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable

    from wherry.shim.children import Children
    from wherry.shim.loop import Loop
    from wherry.wire.shim import Message

    Tell = Callable[[Message, list[int]], None]
    Job = Callable[[Tell], tuple[Message, list[int]]]
    Done = Callable[[Message, list[int]], None]

_SIGKILL = 9


class Worker:
    """Forks at once. `job(tell)` runs there, with the descriptors `keep`, and gives the answer's "ok" and its descriptors; `done(answer,
    descriptors)` runs here and owns those. What the job tells before that, `told` gets likewise.
    """

    def __init__(
        self, loop: Loop, children: Children, job: Job, done: Done, keep: list[int], told: Done | None = None
    ) -> None:
        self._loop = loop
        self._children = children
        self._done: Done | None = done
        self._told = told
        self._decoder = wire.Decoder()
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                stop_watching()
                close_descriptors([*keep, theirs.fileno()])
                _work(job, theirs)
            finally:
                os._exit(0)
        theirs.close()
        self._socket = ours
        children.worker_began()
        loop.watch(ours.fileno(), READ, self._on_answer)

    def kill(self) -> None:
        """Gives up waiting for it: `done` is called with an error."""
        if self._done is not None:
            os.kill(self.pid, _SIGKILL)  # not reaped as long as it counts as under way

    def _on_answer(self, events: int) -> None:
        frame = None
        try:
            alive = receive(self._socket, self._decoder)
            frame = self._decoder.next_frame()
            if frame is not None and "told" in frame[0] and self._told is not None:
                self._told(frame[0]["told"], frame[1])
                frame = self._decoder.next_frame()
            if frame is None and alive:
                return
        except (OSError, wire.FrameError):
            pass
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        message, fds = frame or (
            {"error": wire.error_to_message(Internal("the shim's worker died"))},
            self._decoder.abandon(),
        )
        done, self._done = self._done, None
        try:
            if done is not None:
                done(message, fds)
        finally:
            self._children.worker_ended()


def _work(job: Job, channel: Socket) -> None:
    try:
        answer, fds = job(lambda message, fds: _send(channel, {"told": message}, fds))
        message: Message = {"ok": answer}
    except Exception as error:
        message, fds = {"error": wire.error_to_message(error)}, []
    _send(channel, message, fds)


def _send(channel: Socket, message: Message, fds: list[int]) -> None:
    if fds:
        message["fds"] = len(fds)
    data = wire.encode(message)
    rights = [(SOL_SOCKET, SCM_RIGHTS, pack(f"{len(fds)}i", *fds))] if fds else []
    sent = channel.sendmsg([data], rights)
    if sent < len(data):
        channel.sendall(data[sent:])
