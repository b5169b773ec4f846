"""`wherry rename`."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.main import describe
from wherry.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    old, new = (argument.strip() for argument in arguments)
    if not old or not new:
        raise CliError("Error: Neither old nor new names may be empty")
    try:
        app.containers.rename(old, new)
    except ApiError as error:
        raise CliError(f"{describe(error)}\nError: failed to rename container named {old}") from None
    return 0


COMMAND = Command(run, arguments="CONTAINER NEW_NAME", at_least=2, at_most=2, examples=("wherry rename web old-web",))
