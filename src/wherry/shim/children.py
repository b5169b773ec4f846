"""The ends of a shim's children: init, execs, workers, and the orphans that a subreaper inherits.

Runs in the shim. SIGCHLD becomes a byte in a pipe that the loop watches. **Invariants**: each child is reaped here and nowhere else, so a pid
that is watched is never somebody else's; while a worker is under way, only watched children are reaped, because a process that nobody knows
may be the one that the worker is just making; of ends seen together, that of the container's init is told last.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the C half of signal, which would import enum
import os

from wherry.errors import Conflict
from wherry.shim.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.shim.loop import Loop

    OnExit = Callable[[int], None]

STATUS_OF_SIGNAL = 128


class Children:
    def __init__(self, loop: Loop) -> None:
        self._watched: dict[int, OnExit] = {}
        self._init = 0
        self._workers = 0
        self._reading, writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(writing, False)
        _signal.signal(_signal.SIGCHLD, _ignore)
        # A machine that shuts down sends SIGTERM to everybody: the container is to end by its own, and its shim after it.
        _signal.signal(_signal.SIGTERM, _ignore)
        _signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        loop.watch(self._reading, READ, self._on_signal)

    @property
    def watched(self) -> int:
        """How many watched children have not ended."""
        return len(self._watched)

    def check(self, pid: int) -> None:
        """Whether `pid` may be watched: a child of ours that nobody knows yet. ChildProcessError, Conflict."""
        if pid in self._watched:
            raise Conflict(f"process {pid} is watched already")
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def watch(self, pid: int, on_exit: OnExit, *, init: bool = False) -> None:
        """Calls `on_exit(status)` when the child has ended: its exit code, or 128 and the signal's number."""
        self._watched[pid] = on_exit
        if init:
            self._init = pid

    def worker_began(self) -> None:
        self._workers += 1

    def worker_ended(self) -> None:
        """Whatever it has made is watched by now."""
        self._workers -= 1
        self.reap()

    def reap(self) -> None:
        ended: list[tuple[OnExit, int]] = []
        last: list[tuple[OnExit, int]] = []
        for pid in list(self._watched):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                (last if pid == self._init else ended).append((self._watched.pop(pid), status))
        while not self._workers:
            try:
                found, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not found:
                break
            if found in self._watched:  # it has ended since we looked
                (last if found == self._init else ended).append((self._watched.pop(found), status))
        for on_exit, status in ended + last:
            code = os.waitstatus_to_exitcode(status)
            on_exit(code if code >= 0 else STATUS_OF_SIGNAL - code)

    def end_all(self) -> None:
        """Kills every child and waits for its end: of a container that is not to be, nobody shall make anything any more."""
        self._watched.clear()
        while pids := _children():
            for pid in pids:
                os.kill(pid, _signal.SIGKILL)  # not reaped yet, so it is nobody else
            os.waitpid(-1, 0)

    def _on_signal(self, events: int) -> None:
        try:
            os.read(self._reading, 4096)
        except BlockingIOError:
            pass
        self.reap()


def _children() -> list[int]:
    """Of this process, which has one thread; those that have ended among them. None where the kernel does not list them (PROC_CHILDREN)."""
    try:
        fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    try:
        return [int(pid) for pid in os.read(fd, 65536).split()]
    finally:
        os.close(fd)


def stop_watching() -> None:
    """In a forked worker: signals are its own from here on."""
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)


def _ignore(signal: int, frame: object) -> None:
    """A handler must be there for the wake-up descriptor to be written; the loop does the rest."""
