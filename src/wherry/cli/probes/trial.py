"""Trying something out in a child process with namespaces of its own, so that nothing of it stays."""

from __future__ import annotations

import os

from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def attempt(flags: int, action: Callable[[], None] | None = None) -> str:
    """Unshares `flags` (CLONE_NEW*) in a forked child and runs `action` there; "" if that went well, else what went wrong.

    A private mount namespace is also made private to the outside before `action` runs.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(writer, flags, action)
    os.close(writer)
    text = b""
    while piece := os.read(reader, 4096):
        text += piece
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if status and not text:
        return f"the trial ended with status {os.waitstatus_to_exitcode(status)}"
    return text.decode("utf-8", "replace")


def _child(writer: int, flags: int, action: Callable[[], None] | None) -> None:
    problem = ""
    try:
        from wherry.linux import mounts, namespaces, syscalls

        if flags:
            syscalls.unshare(flags, namespaces.names(flags))
        if flags & namespaces.NEWNS:
            mounts.set_propagation("/", mounts.PRIVATE)
        if action is not None:
            action()
    except (WherryError, OSError) as error:
        problem = str(error) or type(error).__name__
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        os.write(writer, problem.encode())
        os._exit(1 if problem else 0)
