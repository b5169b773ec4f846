"""wherryd, told on: `python -m tests.crash.engine ARGUMENTS…`, as wherryd's own command line. Started by `points.launch`.

Once its zygote runs, all its threads are put below the filter, and the descriptor by which their calls are told is sent through the socket
WHERRY_POINTS. The zygote and its shims stay outside: what is tried here runs no container, and Python gives up some calls (unlink, rename) when a
signal interrupts them while they wait to be told, as no kernel interrupts them otherwise.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys

from tests.crash.calls import filter_program
from wherry.daemon.main import main
from wherry.shim import launch

_SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
_SET_MODE_FILTER = 1
_FLAGS = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 5  # TSYNC, NEW_LISTENER, TSYNC_ESRCH, WAIT_KILLABLE_RECV


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def go_below_the_filter() -> None:
    """All threads, at once and for good."""
    program = filter_program()
    libc = ctypes.CDLL(None, use_errno=True)
    described = _Program(len(program) // 8, program)
    fd = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _FLAGS, ctypes.byref(described))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    with socket.socket(fileno=int(os.environ["WHERRY_POINTS"])) as channel:
        socket.send_fds(channel, [b"."], [fd])
    os.close(fd)


def _install() -> None:
    start_zygote = launch.start_zygote

    def started() -> tuple[subprocess.Popen[bytes], socket.socket]:
        launch.start_zygote = start_zygote
        zygote = start_zygote()
        go_below_the_filter()
        return zygote

    launch.start_zygote = started


if __name__ == "__main__":
    os.set_inheritable(int(os.environ["WHERRY_POINTS"]), False)
    _install()
    sys.exit(main())
