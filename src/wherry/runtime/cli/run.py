"""`wherry-runc run`: create, start, wait, delete. With --detach it ends when the program runs."""

from __future__ import annotations

import os

from wherry.errors import StartError, WherryError
from wherry.linux import namespaces
from wherry.runtime import interrupts
from wherry.runtime.cli import ending, launch, options
from wherry.runtime.cli.foreground import Foreground, become_subreaper
from wherry.runtime.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "run [options] <container-id>"
EXAMPLES = "   wherry-runc run --bundle /containers/web web\n   wherry-runc run --detach --pid-file /run/web.pid web\n"
OPTIONS = (
    *launch.OPTIONS,
    Option("detach", "detach from the container's process", short="d", kind="switch"),
    Option("keep", "do not delete the container after it exits", kind="switch"),
    Option("no-subreaper", "do not reap processes whose parents have died", kind="switch"),
)


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    detached = values["detach"]
    interrupts.heed()
    foreground = None if detached else Foreground()
    if not detached and not values["no-subreaper"]:
        become_subreaper()
    try:
        made = launch.launch(settings, values, arguments[0], verb="run", hold=False, foreground=foreground)
    except StartError as error:
        if detached or not launch.refused_by_execve(error):
            raise
        os.write(2, f"{error}\n".encode("utf-8", "replace"))
        return 255
    state, config, process = made.state, made.config, made.process
    try:
        ending.run_poststart_hooks(state, config)
    except (WherryError, KeyboardInterrupt):
        _abandon(settings, made)
        raise
    if made.notify is not None:
        if foreground is None:
            try:
                with interrupts.waiting:
                    made.notify.wait_until_ready(process.pid, process.pidfd)
            except KeyboardInterrupt:
                _abandon(settings, made)
                raise
        else:
            made.notify.follow(os.getpid(), process.pidfd)
        made.notify.close()
    if foreground is None:
        process.close()
        return 0
    console, process.console = process.console, None
    try:
        return foreground.wait(process.pid, console)
    finally:
        process.close()
        if not values["keep"]:
            ending.destroy(settings, state, config)


def _abandon(settings: Globals, made: launch.Launched) -> None:
    """Ends a container whose program runs already."""
    interrupts.disregard()
    made.state.cgroup().kill()
    namespaces.send_signal(made.process.pidfd, 9)
    os.waitpid(made.process.pid, 0)
    made.process.close()
    ending.destroy(settings, made.state, made.config)
