"""`wherry rm`."""

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
    force, volumes, link = flags.on("force"), flags.on("volumes"), flags.on("link")

    def remove(name: str) -> None:
        name = name.strip("/")
        if not name:
            raise InvalidArgument("container name cannot be empty")
        app.containers.remove(name, force=force, volumes=volumes, link=link)

    return for_each(app, arguments, remove, forgive_missing=force)


COMMAND = Command(
    run,
    arguments="CONTAINER [CONTAINER...]",
    flags=(
        Flag("force", "bool", "Kill running containers first", short="f"),
        Flag("link", "bool", "Remove the link of that name", short="l"),
        Flag("volumes", "bool", "Remove the container's anonymous volumes too", short="v"),
    ),
    at_least=1,
    examples=("wherry rm job", "wherry rm -f $(wherry ps -aq)"),
)
