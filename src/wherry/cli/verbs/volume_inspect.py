"""`wherry volume inspect`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.inspecting import inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    return inspect(app, arguments, flags.text("format"), app.volumes.inspect)


COMMAND = Command(
    run,
    arguments="VOLUME [VOLUME...]",
    flags=(Flag("format", "string", "json, or a template", short="f"),),
    at_least=1,
    examples=("wherry volume inspect data",),
)
