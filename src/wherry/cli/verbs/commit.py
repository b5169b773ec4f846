"""`wherry commit`, `wherry container commit`."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    if flags.given("pause") and flags.given("no-pause"):
        raise CliError("conflicting options: --no-pause and --pause cannot be used together")
    reference = arguments[1] if len(arguments) > 1 else ""
    id = app.containers.commit(
        arguments[0],
        reference=reference,
        message=flags.text("message"),
        author=flags.text("author"),
        changes=flags.items("change"),
        pause=flags.on("pause") and not flags.on("no-pause"),
    )
    app.out(f"{id}\n")
    return 0


COMMAND = Command(
    run,
    arguments="CONTAINER [REPOSITORY[:TAG]]",
    flags=(
        Flag("author", "string", "Who made it", short="a"),
        Flag("change", "list", "Apply a Dockerfile instruction (CMD, ENV, …)", short="c"),
        Flag("message", "string", "What was changed", short="m"),
        Flag("no-pause", "bool", "Let the container run on meanwhile"),
        Flag("pause", "bool", "Pause the container meanwhile", short="p", default=True),
    ),
    at_least=1,
    at_most=2,
    examples=("wherry commit web web:patched", "wherry commit -c 'CMD [\"serve\"]' web web:2"),
)
