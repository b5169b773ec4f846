"""The zygote: a small interpreter with everything imported that a shim needs, which does nothing but fork.

A process of its own, started by wherryd (`shim.launch`) with one socket to it. `spawn` forks a shim whose first control connection
is the descriptor that came with the request. A fork costs 1-3 ms, an interpreter's start 10-40. At end of file the zygote ends; shims live on.

**Invariants**: single-threaded; nothing is imported after the first fork; `gc` is off and its heap frozen, so that a shim shares the pages it
does not write to; no zombies (SIGCHLD is ignored here, and is the shim's own business there).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of signal, which would import enum
import gc
import os
from _socket import AF_UNIX, SOCK_STREAM
from _socket import socket as Socket

from wherry.errors import InvalidArgument, SyscallError
from wherry.linux import capabilities, cgroups, memory, syscalls
from wherry.shim import compact, rehearsal
from wherry.shim.connection import receive
from wherry.shim.supervisor import Supervisor, stand_alone
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.wire.shim import Message

_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE_ADJ = b"-998"
"""As containerd has it for its shims: with the supervisor dead, the container is lost, so others go first."""


def main(control_fd: int) -> None:
    """The zygote's life. Never returns in a shim."""
    syscalls.close_range(3, control_fd - 1)
    syscalls.close_range(control_fd + 1, 0xFFFFFFFF)
    os.set_inheritable(control_fd, False)
    control = Socket(AF_UNIX, SOCK_STREAM, 0, control_fd)
    os.chdir("/")
    _protect_from_oom_killer()
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    for number in (
        _signal.SIGINT,
        _signal.SIGHUP,
    ):  # a terminal's: they are for wherryd, which ends us by closing the socket
        _signal.signal(number, _signal.SIG_IGN)
    _preload()
    kept = _rehearse(control_fd)
    gc.collect()
    gc.disable()
    gc.freeze()
    _leave_the_engine()
    kept += compact.fill_gaps()
    memory.note_ranges()
    decoder = wire.Decoder()
    try:
        while receive(control, decoder):
            while (frame := decoder.next_frame()) is not None:
                message, fds = frame
                control.sendall(wire.encode(_answer(control, message, fds)))
    except (ConnectionResetError, BrokenPipeError):
        pass  # the engine is gone, in the middle of a question
    kept.clear()


def _answer(control: Socket, message: Message, fds: list[int]) -> Message:
    try:
        if message.get("op") != "spawn" or len(fds) != 1:
            raise InvalidArgument("the zygote knows only spawn, with one descriptor")
        return {"id": message.get("id"), "ok": {"pid": _fork(control, fds[0])}}
    except Exception as error:
        return {"id": message.get("id"), "error": wire.error_to_message(error)}
    finally:
        for fd in fds:
            os.close(fd)


def _fork(control: Socket, fd: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        control.close()
        stand_alone()
        Supervisor(fd).run()
    finally:
        os._exit(0)


def _protect_from_oom_killer() -> None:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, _OOM_SCORE_ADJ)
        finally:
            os.close(fd)
    except OSError:
        pass  # in a user namespace: then as everybody else


def _preload() -> None:
    """What would otherwise be imported or read by the first use, in every shim again."""
    layout = cgroups.detect()
    cgroups.open_group("/wherry-preload", layout=layout)
    if layout.mode == "v2":
        from wherry.linux.cgroups import v2_resources as resources
    else:
        from wherry.linux.cgroups import v1_resources as resources  # type: ignore[no-redef]
    assert resources
    import select

    assert select
    capabilities.supported()
    b"".decode("utf-8", "surrogateescape")


def _rehearse(control_fd: int) -> list[bytes]:
    kept: list[bytes] = []
    try:
        kept = rehearsal.play([control_fd])
    except SyscallError:
        pass  # then each shim is somewhat larger
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 0, subject="child subreaper")
    return kept


def _leave_the_engine() -> None:
    """Nothing of the engine's stays open in a shim when the engine is gone. What goes wrong from here on is told in answers, and in shim.err."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(null, number, inheritable=False)
    os.close(null)
