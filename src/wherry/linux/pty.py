"""Pseudo-terminals made in a given devpts instance, without looking up a single path in it.

Runs in a container's init or in a process that joins it. The master comes from the `ptmx` node of the devpts mount
itself, the other end from the master by TIOCGPTPEER (Linux 4.13), so no file name inside the container decides what
becomes its controlling terminal (CVE-2025-52565).
"""

from __future__ import annotations

import fcntl
import os
import struct

from wherry.errors import FailedPrecondition, SyscallError
from wherry.linux import paths, syscalls

DEVPTS_SUPER_MAGIC = 0x1CD1
_TCGETS, _TCSETS, _TERMIOS, _ONLCR = 0x5401, 0x5402, 36, 0x4  # struct termios of the kernel: c_oflag is its second word
_TIOCSPTLCK, _TIOCGPTPEER, _TIOCSCTTY, _TIOCSWINSZ, _TIOCGWINSZ = 0x40045431, 0x5441, 0x540E, 0x5414, 0x5413
_PTMX = os.makedev(5, 2)


def open_pair(devpts: int, ptmx: str = "ptmx") -> tuple[int, int]:
    """(master, peer) from the devpts mount below the directory `devpts`. FailedPrecondition when `ptmx` there is not a devpts multiplexer."""
    master = paths.open_in_root(devpts, ptmx, os.O_RDWR | os.O_NOCTTY)
    try:
        if syscalls.filesystem_type(master) != DEVPTS_SUPER_MAGIC or os.fstat(master).st_rdev != _PTMX:
            raise FailedPrecondition(
                f"{ptmx} is not the multiplexer of a devpts file system: refusing it as a terminal"
            )
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        peer = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        os.close(master)
        raise SyscallError("ioctl", "ptmx", error.errno or 0) from None
    except BaseException:
        os.close(master)
        raise
    return master, peer


def make_controlling(peer: int) -> None:
    """Makes the terminal the controlling one of the caller, a session leader without one."""
    try:
        fcntl.ioctl(peer, _TIOCSCTTY, 0)
    except OSError as error:
        raise SyscallError("ioctl", "controlling terminal", error.errno or 0) from None


def keep_newlines(master: int) -> None:
    """No carriage return before each newline of the output: whoever shows it on a terminal of its own has that add one."""
    state = bytearray(fcntl.ioctl(master, _TCGETS, bytes(_TERMIOS)))
    flags = struct.unpack_from("=I", state, 4)[0] & ~_ONLCR
    struct.pack_into("=I", state, 4, flags)
    fcntl.ioctl(master, _TCSETS, bytes(state))


def resize(master: int, width: int, height: int) -> None:
    """Sets the window's size in characters; the foreground process group gets SIGWINCH."""
    fcntl.ioctl(master, _TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def size(master: int) -> tuple[int, int]:
    """(width, height) in characters."""
    height, width, _, _ = struct.unpack("HHHH", fcntl.ioctl(master, _TIOCGWINSZ, bytes(8)))
    return width, height
