"""A shim's whole life, played through in the zygote before the first fork.

The interpreter rewrites code as it runs for the first times, and remembers where it has found names and methods. What is rewritten here is
shared by all shims; what each shim rewrites for itself is memory of its own, and time. So the zygote is a shim for a few lives: a real
supervisor, whose worker makes a process that is no container (no namespace, no cgroup, no file that anybody else sees).

Runs in the zygote, once. **Invariant**: afterwards no process, descriptor, signal handler or file of it is left.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socketpair

from wherry.linux import mounts, namespaces
from wherry.runtime import standby
from wherry.runtime.process import close_descriptors
from wherry.shim import compact, jobs
from wherry.shim.builtin import Started
from wherry.shim.children import stop_watching
from wherry.shim.supervisor import Supervisor, stand_alone
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.runtime.standby import Standby
    from wherry.wire.shim import Message, StartRequest

_PATIENCE = 10.0
"""Seconds after which a life ends whatever has gone wrong in it: the zygote is to be ready."""
_LIVES = 10
"""More often than the interpreter lets a function run before it specialises it."""


def play(keep: list[int]) -> list[bytes]:
    """Leaves of all descriptors above 2 those in `keep` open. Returns what is to be kept, see `compact`. SyscallError where the kernel gives
    no detached tmpfs.
    """
    stage = mounts.Filesystem("tmpfs", []).open()
    state_dir = f"/proc/{os.getpid()}/fd/{stage}"
    played: dict[int, int] = {}
    try:
        _live(state_dir)
        sys.setprofile(lambda frame, event, argument: played.setdefault(id(frame.f_code), len(played)))
        _live(state_dir)
        sys.setprofile(None)
        kept = compact.fill_gaps()
        compact.gather(played)
        for _ in range(_LIVES):
            _live(state_dir)
            standby.rehearse()
    finally:
        stop_watching()
        close_descriptors(keep)
        _reap()
    return kept


def _reap() -> None:
    """The last life's worker may not have ended yet."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _live(state_dir: str) -> None:
    engine, control = socketpair(AF_UNIX, SOCK_STREAM)
    for request in _requests(state_dir):
        engine.sendall(wire.encode(request))
    stand_alone()
    shim = Supervisor(control.detach(), lambda control, tell: jobs.start(control, tell, _NoContainer()))
    shim.loop.call_later(_PATIENCE, shim.loop.stop)
    shim.run()
    engine.close()


def _requests(state_dir: str) -> list[Message]:
    streams = {"stdin": True, "stdin_once": False}
    process = {"args": ["rehearsal"], "cwd": "/"}
    start = {
        "id": 1, "op": "start", "container": "rehearsal", "state_dir": state_dir, "stdio": streams,
        "config": {"process": process, "linux": {"cgroupsPath": "/wherry-rehearsal", "namespaces": [{"type": "pid"}]}},
        "log": {"driver": "json-file", "path": f"{state_dir}/log", "max_size": None, "max_file": 1},
    }  # fmt: skip
    # There is no cgroup: the exec fails, as far inside as that.
    execution = {"id": 2, "op": "exec", "exec_id": "rehearsal", "process": process, "stdio": streams}
    status = {"id": 3, "op": "status", "exec_id": None}
    return [start, execution, status, {"id": 4, "op": "close_stdin", "exec_id": None}]


class _NoContainer:
    """In place of a runtime: a process that says something and ends with its input."""

    def start(
        self,
        request: StartRequest,
        stdio: tuple[int, int, int] | None,
        standby: Standby | None,
        meanwhile: Callable[[int], None],
    ) -> Started:
        assert stdio is not None
        pid, pidfd = namespaces.clone(namespaces.CLONE_PARENT)
        if pid == 0:
            try:
                close_descriptors(list(stdio))
                os.write(stdio[1], b"rehearsal\n")
                os.read(stdio[0], 1)
            finally:
                os._exit(0)  # never back into the worker's code
        meanwhile(pid)
        return Started(pid, pidfd, None)
