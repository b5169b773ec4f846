"""`wherry-runc kill`: a signal for the container's first process, or with --all for every one."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, which would import enum

from wherry.errors import Conflict, InvalidArgument
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "kill [options] <container-id> [signal]"
EXAMPLES = "   wherry-runc kill web KILL\n   wherry-runc kill --all web 15\n"
OPTIONS = (Option("all", "send the signal to all processes inside the container", short="a", kind="switch"),)


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 2, USAGE)
    number = parse_signal((arguments[1] if len(arguments) > 1 else "") or "SIGTERM")
    state = states.load(settings.root, arguments[0])
    if values["all"]:
        state.cgroup().kill(number)
        return 0
    send(state, number)
    return 0


def send(state: states.State, number: int) -> None:
    """To the first process; SIGKILL, where it does not take a pid namespace with it, to all, also when the first has
    ended. Conflict "container not running" when there is nothing to signal.
    """
    import os

    pidfd = state.pidfd()
    if pidfd is None:
        group = state.cgroup()
        if number != _signal.SIGKILL or _owns_pid_namespace(state) or not group.pids():
            raise Conflict("container not running")
        group.kill()
        return

    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise Conflict("container not running") from None
    finally:
        os.close(pidfd)
    if number == _signal.SIGKILL:
        group = state.cgroup()
        if not _owns_pid_namespace(state):
            group.kill()
        elif group.is_frozen():
            group.thaw()  # on cgroup v1 a frozen process dies only when it is thawed


def _owns_pid_namespace(state: states.State) -> bool:
    spaces = state.config()["linux"].get("namespaces") or ()
    return any(space["type"] == "pid" and not space.get("path") for space in spaces)


def parse_signal(text: str) -> int:
    """ "KILL", "SIGKILL", "9", "RTMIN+3" as a number; "0" only asks whether the process is there. InvalidArgument for no signal of this machine."""
    if text.isascii() and text.isdigit():
        if 0 < len(text) < 4 and int(text) < _signal.NSIG:
            return int(text)
        raise InvalidArgument(f"unknown signal {text!r}")
    name = text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if plus and base == "RTMIN" and offset.isascii() and offset.isdigit() and len(offset) < 3:
        number = _signal.SIGRTMIN + int(offset)
        if number <= _signal.SIGRTMAX:
            return int(number)
    number = getattr(_signal, f"SIG{name}", None) if name.isalnum() else None
    if not isinstance(number, int) or name.startswith("_"):
        raise InvalidArgument(f"unknown signal {text!r}")
    return int(number)
