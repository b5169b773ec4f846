"""`wherry container inspect`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.inspecting import inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    return inspect(
        app, arguments, flags.text("format"), lambda name: app.containers.inspect(name, size=flags.on("size"))
    )


COMMAND = Command(
    run,
    arguments="CONTAINER [CONTAINER...]",
    flags=(
        Flag("format", "string", "json, or a template", short="f"),
        Flag("size", "bool", "Include the disk usage", short="s"),
    ),
    at_least=1,
    examples=("wherry container inspect web",),
)
