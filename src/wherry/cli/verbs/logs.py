"""`wherry logs`."""

from __future__ import annotations

from wherry.cli.app import write_all
from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.units import timestamp
from wherry.client.stdcopy import STDERR, demultiplex
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    container = app.containers.inspect(arguments[0])
    pieces = app.containers.logs(
        container["Id"],
        follow=flags.on("follow"),
        since=time_flag(flags, "since"),
        until=time_flag(flags, "until"),
        timestamps=flags.on("timestamps"),
        tail=flags.text("tail"),
        details=flags.on("details"),
    )
    if container["Config"]["Tty"]:
        for piece in pieces:
            write_all(1, piece)
        return 0
    for number, payload in demultiplex(pieces):
        write_all(2 if number == STDERR else 1, payload)
    return 0


def time_flag(flags: Flags, name: str) -> str | None:
    """The value of `--since` or `--until` for the engine, None if it was not given."""
    text = flags.text(name)
    if not text:
        return None
    try:
        return timestamp(text)
    except ValueError as error:
        raise InvalidArgument(f'invalid value for "{name}": {error}') from None


COMMAND = Command(
    run,
    arguments="CONTAINER",
    flags=(
        Flag("details", "bool", "Show the extra attributes of the log driver"),
        Flag("follow", "bool", "Keep showing new output as it is written", short="f"),
        Flag("since", "string", "Since this time (2026-01-02T13:23:37Z, or 42m: 42 minutes ago)"),
        Flag("tail", "string", "Number of lines from the end", short="n", default="all"),
        Flag("timestamps", "bool", "Show when each line was written", short="t"),
        Flag("until", "string", "Up to this time"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry logs web", "wherry logs -f --tail 20 web", "wherry logs --since 10m web"),
)
