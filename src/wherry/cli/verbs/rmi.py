"""`wherry rmi`, `wherry image rm`."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.main import describe
from wherry.errors import NotFound, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    problems: list[str] = []
    fatal = False
    for name in arguments:
        try:
            answer = app.images.remove(
                name, force=flags.on("force"), no_prune=flags.on("no-prune"), platforms=flags.items("platform")
            )
        except WherryError as error:
            fatal = fatal or not isinstance(error, NotFound)
            problems.append(describe(error))
            continue
        app.out("".join(f"{key}: {item[key]}\n" for item in answer for key in ("Untagged", "Deleted") if item.get(key)))
    if problems and (fatal or not flags.on("force")):
        raise CliError("\n".join(problems))
    if problems:
        app.err("\n".join(problems) + "\n")
    return 0


COMMAND = Command(
    run,
    arguments="IMAGE [IMAGE...]",
    flags=(
        Flag("force", "bool", "Remove it even if stopped containers use it or it has several tags", short="f"),
        Flag("no-prune", "bool", "Keep untagged parents"),
        Flag("platform", "strings", "Remove only what is there for this platform (linux/arm64)"),
    ),
    at_least=1,
    examples=("wherry rmi busybox", "wherry rmi -f $(wherry images -q)"),
)
