"""A process of the container as its shim knows it: init or an exec, its streams, and how it ended.

Runs in the shim.
"""

from __future__ import annotations

import os

from wherry.shim.stdio import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.shim.jsonfile import JsonFileLog
    from wherry.shim.loop import Loop, Timer
    from wherry.wire.shim import ExitRecord, Message


class Process:
    """`exec_id` None: init. `exit` is set when it has ended."""

    __slots__ = ("exec_id", "exit", "grace", "pid", "pidfd", "streams")

    def __init__(self, exec_id: str | None, pid: int, pidfd: int, streams: Streams) -> None:
        self.exec_id = exec_id
        self.pid = pid
        self.pidfd = pidfd
        self.streams = streams
        self.exit: ExitRecord | None = None
        self.grace: Timer | None = None
        """Until when what it left in the background may write to its clients."""

    def end(self, status: int, at_ns: int) -> ExitRecord:
        """Records the end. The descriptor of the process is of no more use."""
        os.close(self.pidfd)
        self.pidfd = -1
        self.exit = {
            "event": "exit",
            "exec_id": self.exec_id,
            "status": status,
            "oom_killed": False,
            "at_ns": at_ns,
            "pid": self.pid,
        }
        return self.exit


def connect(
    loop: Loop, exec_id: str | None, made: Message, fds: list[int], *, log: JsonFileLog | None, ends_with_client: bool
) -> Process:
    """The process that was made: `made` says what it is, `fds` are our ends of the streams, which become the process's."""
    pid = made["pid"]
    pidfd = os.pidfd_open(pid)
    first, *others = fds
    if made["terminal"]:
        outputs = [(1, first)]
        stdin_fd = os.dup(first) if made["stdin"] else None
    else:
        outputs = [(1, first), (2, others[0])]
        stdin_fd = others[1] if made["stdin"] else None
    streams = Streams(
        loop, outputs=outputs, stdin_fd=stdin_fd, raw=made["terminal"], log=log, ends_with_client=ends_with_client
    )
    return Process(exec_id, pid, pidfd, streams)
