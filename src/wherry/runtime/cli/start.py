"""`wherry-runc start`: lets the program of a created container run."""

from __future__ import annotations

import os

from wherry.errors import Conflict
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.ending import run_poststart_hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "start <container-id>"
EXAMPLES = "   wherry-runc start web\n"
OPTIONS = ()


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    state = states.load(settings.root, arguments[0])
    status = state.status()
    if status == states.STOPPED:
        raise Conflict("cannot start a container that has stopped")
    if status != states.CREATED:
        raise Conflict("cannot start an already running container")
    notify = None
    if (manager := os.getenv("NOTIFY_SOCKET")) and os.path.isdir(f"{state.directory}/notify"):
        from wherry.runtime.cli import notify_socket

        notify = notify_socket.Proxy(manager, state)
    pidfd = state.pidfd() if notify is not None else None
    path = f"{state.directory}/{states.FIFO}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # nobody reads: it has ended between the look and now, or another start was quicker
        raise Conflict("cannot start a container that has stopped") from None
    try:
        os.unlink(path)
        os.write(fd, b"0")
    except FileNotFoundError:
        raise Conflict("cannot start an already running container") from None
    finally:
        os.close(fd)
    run_poststart_hooks(state, state.config())
    if notify is not None and pidfd is not None:
        notify.wait_until_ready(state.pid, pidfd)
    return 0
