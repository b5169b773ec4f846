"""`wherry network inspect`."""

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
        app, arguments, flags.text("format"), lambda name: app.networks.inspect(name, verbose=flags.on("verbose"))
    )


COMMAND = Command(
    run,
    arguments="NETWORK [NETWORK...]",
    flags=(
        Flag("format", "string", "json, or a template", short="f"),
        Flag("verbose", "bool", "Tell more, for diagnosis", short="v"),
    ),
    at_least=1,
    examples=("wherry network inspect bridge",),
)
