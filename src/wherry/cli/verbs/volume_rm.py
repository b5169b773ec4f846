"""`wherry volume rm`."""

from __future__ import annotations

from wherry.cli.batch import for_each
from wherry.cli.command import Command
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    return for_each(app, arguments, lambda name: app.volumes.remove(name, force=flags.on("force")))


COMMAND = Command(
    run,
    arguments="VOLUME [VOLUME...]",
    flags=(Flag("force", "bool", "No error if it does not exist", short="f"),),
    at_least=1,
    examples=("wherry volume rm data",),
)
