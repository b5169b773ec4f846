"""`wherry pause`."""

from __future__ import annotations

from wherry.cli.batch import for_each
from wherry.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    return for_each(app, arguments, app.containers.pause)


COMMAND = Command(
    run,
    arguments="CONTAINER [CONTAINER...]",
    at_least=1,
    examples=("wherry pause web",),
)
