"""Making the process that becomes a container's: one fork, or two where a helper has to enter namespaces first.

The child's function gets the channel and never returns. Runs in the shim and `wherry-runc`.

    parent ──clone──► child                                 new namespaces, or joins that the child can make itself
    parent ──clone──► helper ──clone, CLONE_PARENT──► child     PID or user namespaces of others, a time namespace, every exec

**Invariants:** the helper is gone when `spawn` returns; the child is a child of the caller either way; nothing of a
child's failure reaches the caller's Python frames. In an exec the helper enters everything before the child exists,
so nobody in the container can see a process that is still the host's.
"""

from __future__ import annotations

import gc
import os
import sys

from wherry.errors import Internal, StartError, SyscallError, WherryError
from wherry.linux import namespaces
from wherry.runtime import channel as messages
from wherry.runtime import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable

    Body = Callable[[_socket.socket], None]


def spawn(
    body: Body,
    channel: _socket.socket,
    *,
    flags: int,
    cgroup_fd: int | None,
    helper: Helper | None,
    sibling: bool = False,
) -> tuple[int, int]:
    """Starts `body(channel)` in a new process; (pid, pidfd) of it.

    `sibling`: it becomes the child of our own parent, who must not reap what it does not know before we have answered.

    StartError if the helper fails; `body` reports on the channel itself, see `guard`.
    """
    parent = namespaces.CLONE_PARENT if sibling else 0
    if helper is None:
        pid, pidfd = namespaces.clone(flags | parent, cgroup_fd=cgroup_fd)
        if pid == 0:
            guard(body, channel)
        return pid, pidfd
    ours, theirs = messages.pair()
    try:
        helper_pid, helper_fd = namespaces.clone(parent, cgroup_fd=cgroup_fd)
        if helper_pid == 0:
            guard(lambda end: _help(helper, body, channel, end, flags), theirs)
        theirs.close()
        try:
            message, _ = messages.receive(ours)
        finally:
            os.close(helper_fd)
            if not sibling:
                os.waitpid(helper_pid, 0)
        if message[:1] == messages.FAILED:
            raise messages.read_failure(message)
        if message[:1] != messages.READY:
            raise StartError("namespaces", "the process that prepares the namespaces died", 0)
        pid = int(message[1:])
        return pid, os.pidfd_open(pid)
    finally:
        ours.close()
        theirs.close()


class Helper:
    """What the process in between does: `enter` runs in it, with `keep` beside 0, 1, 2 (which become
    `stdio`) as its only descriptors. The child gets the same."""

    __slots__ = ("enter", "keep", "stdio")

    def __init__(self, enter: Callable[[], None], keep: list[int], stdio: tuple[int, int, int]) -> None:
        self.enter = enter
        self.keep = keep
        self.stdio = stdio


def _help(helper: Helper, body: Body, channel: _socket.socket, end: _socket.socket, flags: int) -> None:
    process.install_stdio(helper.stdio)
    process.close_descriptors([*helper.keep, channel.fileno(), end.fileno()])
    try:
        helper.enter()
        pid, _ = namespaces.clone(flags | namespaces.CLONE_PARENT)
    except WherryError as error:
        raise as_start_error("namespaces", error) from None
    if pid == 0:
        guard(body, channel)
    messages.send(end, messages.READY + b"%d" % pid)
    os._exit(0)


def guard(body: Body, channel: _socket.socket) -> None:
    """Runs a child's body to its end. Whatever it raises goes to the parent as FAILED; then the process ends, without any of Python's own exit."""
    gc.disable()  # a collection would write to every object that the parent has, and so copy all of its memory
    try:
        body(channel)
        error = StartError("exec", "the child's work ended without a program", 0)
    except StartError as caught:
        error = caught
    except BaseException as caught:
        error = as_start_error("init", caught)
    try:
        messages.send(channel, messages.failure(error))
    except OSError:
        # Nobody listens any more (created and started by different processes): the container's own stderr is what is left.
        try:
            os.write(2, f"{error}\n".encode("utf-8", "replace"))
        except OSError:
            pass
        os._exit(255)  # as runc's
    os._exit(127 if error.step == "exec" else 1)


def as_start_error(step: str, error: BaseException) -> StartError:
    """Any failure as the failure of a step."""
    if isinstance(error, StartError):
        return error
    if isinstance(error, SyscallError):
        return StartError(step, str(error), error.errno)
    if isinstance(error, OSError):
        where = f" {os.fsdecode(error.filename)}" if error.filename else ""
        return StartError(step, f"{step}{where}: {(error.strerror or '').lower()}", error.errno or 0)
    if isinstance(error, WherryError):
        return StartError(step, str(error), 0)
    return StartError(step, f"{Internal.__name__}: {type(error).__name__}: {error}{_where(error)}", 0)


def _where(error: BaseException) -> str:
    """Function and line of an unexpected exception; the traceback module is not to be loaded here."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" (in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno})" if trace is not None else ""


def run_steps(steps: tuple[Callable[[], None], ...]) -> None:
    """Runs the steps in order; a failure that does not say its step gets the function's name."""
    for step in steps:
        try:
            step()
        except StartError:
            raise
        except Exception as error:
            raise as_start_error(step.__name__, error) from None


def modules_loaded() -> int:
    """How many modules there are: from pivot_root on the number must not grow, since what would be imported comes from the container."""
    return len(sys.modules)
