"""`wherry kill`."""

from __future__ import annotations

from wherry.cli.batch import for_each
from wherry.cli.command import Command
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    signal = flags.text("signal") or None
    return for_each(app, arguments, lambda name: app.containers.kill(name, signal=signal))


COMMAND = Command(
    run,
    arguments="CONTAINER [CONTAINER...]",
    flags=(Flag("signal", "string", "Signal to send (SIGKILL)", short="s"),),
    at_least=1,
    examples=("wherry kill web", "wherry kill -s HUP web"),
)
