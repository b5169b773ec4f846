"""The race of most attacks by paths: two names exchanged as fast as can be."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_EXCHANGE = 2
AT_FDCWD = -100


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchanges two names as fast as can be while the block runs (renameat2, RENAME_EXCHANGE).

    By a process: the runtime forks, and a thread that held one of the C library's locks then would stop the child for ever.
    """
    libc = ctypes.CDLL(None)
    names = AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE
    pid = os.fork()
    if pid == 0:
        while True:
            libc.renameat2(*names)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
