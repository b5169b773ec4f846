"""`wherry restart`."""

from __future__ import annotations

from wherry.cli.batch import for_each
from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    signal = flags.text("signal") or None
    if flags.given("time") and flags.given("timeout"):
        raise InvalidArgument("conflicting options: cannot specify both --timeout and --time")
    name = "time" if flags.given("time") else "timeout"
    timeout = flags.number(name) if flags.given(name) else None
    return for_each(app, arguments, lambda ref: app.containers.restart(ref, timeout=timeout, signal=signal))


COMMAND = Command(
    run,
    arguments="CONTAINER [CONTAINER...]",
    flags=(
        Flag("signal", "string", "Signal to send first", short="s"),
        Flag("timeout", "int", "Seconds to wait before SIGKILL; -1: for ever", short="t"),
        Flag("time", "int", hidden=True),
    ),
    at_least=1,
    examples=("wherry restart web", "wherry restart -t 30 web"),
)
