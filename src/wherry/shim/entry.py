"""A process on its way into the running container: what an exec is until its program runs.

Runs in the shim. A fork of it enters the container's cgroup and namespaces, makes the process as the shim's own child, and ends; the shim
meanwhile follows a socket in its loop, so nothing of it ever blocks. Compared with a worker it makes do with one fork less, and with nothing
in the new process but its standard streams and that socket, so that whoever watches from inside the container finds nothing of the host's.

**Invariants**: `done` is called exactly once; which process it is the kernel says (SCM_CREDENTIALS), not a message; while it is under way
unknown children are not reaped.
"""

from __future__ import annotations

import os

from wherry.errors import Internal, StartError, WherryError
from wherry.linux import namespaces
from wherry.runtime import channel as messages
from wherry.runtime import process, spawn
from wherry.shim.children import stop_watching
from wherry.shim.loop import READ
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable

    from wherry.shim.children import Children
    from wherry.shim.loop import Loop
    from wherry.shim.worker import Done

    Job = Callable[[Socket, tuple[int, int, int] | None], None]

_SIGKILL = 9


class Entry:
    """Forks at once, into the cgroup `born_in` if given. `job(channel, stdio)` runs there, with the descriptors `keep`; `stdio` is None for a
    terminal. `done(answer, descriptors)` is called as a worker's: {"ok": pid, terminal, stdin} and our ends of the streams, or {"error"}.
    """

    def __init__(
        self, loop: Loop, children: Children, job: Job, done: Done, *, terminal: bool, stdin: bool, keep: list[int], born_in: int | None
    ) -> None:  # fmt: skip
        self._loop = loop
        self._children = children
        self._done: Done | None = done
        self._terminal = terminal
        self._stdin = stdin
        ends, self._streams = (None, []) if terminal else make_pipes(stdin=stdin)
        self._channel, theirs = messages.pair()
        messages.ask_for_senders(self._channel)
        self._channel.setblocking(False)
        self._pid = 0
        self.helper, pidfd = namespaces.clone(cgroup_fd=born_in)
        if self.helper == 0:
            _enter(job, theirs, ends, keep)
        os.close(pidfd)
        theirs.close()
        for fd in ends or ():
            os.close(fd)
        children.worker_began()
        loop.watch(self._channel.fileno(), READ, self._on_message)

    def kill(self) -> None:
        """Gives up waiting: `done` is called with an error."""
        if self._done is not None:
            os.kill(self.helper, _SIGKILL)  # not reaped as long as this is under way
        self._end(StartError("exec", "the container has ended"))

    def _on_message(self, events: int) -> None:
        try:
            message, fd, pid = messages.receive_from(self._channel)
        except BlockingIOError:
            return
        except OSError:
            message, fd, pid = b"", None, 0
        kind = message[:1]
        if kind == messages.CONSOLE and fd is not None and self._terminal and not self._streams and os.isatty(fd):
            self._streams = [fd]
            return
        if fd is not None:
            os.close(fd)
        if kind == messages.EXEC:
            self._pid = pid
        elif kind == messages.FAILED:
            self._end(messages.read_failure(message))
        elif not message:
            # The socket closes with execve. Without the word before it, the process has died on the way.
            alive = self._pid and (self._streams or not self._terminal)
            self._end(
                None
                if alive
                else StartError("exec", "the process died before its program ran (out of memory, or killed)")
            )

    def _end(self, error: WherryError | None) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self._loop.forget(self._channel.fileno())
        self._channel.close()
        try:
            if error is None:
                done({"ok": {"pid": self._pid, "terminal": self._terminal, "stdin": self._stdin}}, self._streams)
            else:
                for fd in self._streams:
                    os.close(fd)
                done({"error": wire.error_to_message(error)}, [])
        finally:
            self._children.worker_ended()


def make_pipes(*, stdin: bool) -> tuple[tuple[int, int, int], list[int]]:
    """A process's standard streams: its ends, and ours (stdout, stderr and, if `stdin`, stdin, which is /dev/null otherwise)."""
    theirs_in, ours_in = os.pipe() if stdin else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), None)
    ours_out, theirs_out = os.pipe()
    ours_err, theirs_err = os.pipe()
    return (theirs_in, theirs_out, theirs_err), [ours_out, ours_err, *([] if ours_in is None else [ours_in])]


def _enter(job: Job, channel: Socket, ends: tuple[int, int, int] | None, keep: list[int]) -> None:
    """The forked process's life."""
    try:
        stop_watching()
        process.close_descriptors([*keep, *(ends or ()), channel.fileno()])
        job(channel, ends)
    except BaseException as error:
        known = isinstance(error, WherryError | OSError)
        failure = spawn.as_start_error("exec", error if known else Internal(f"{type(error).__name__}: {error}"))
        try:
            messages.send(channel, messages.failure(failure))
        except OSError:
            pass
    finally:
        os._exit(0)
