"""`wherry diff`, `wherry container diff`."""

from __future__ import annotations

from wherry.cli.command import CliError, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_LETTERS = "CAD"


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    if not arguments[0].strip():
        raise CliError("container name cannot be empty")
    found = app.containers.changes(arguments[0])
    app.out("".join(f"{_LETTERS[change['Kind']]} {change['Path']}\n" for change in found))
    return 0


COMMAND = Command(run, arguments="CONTAINER", at_least=1, at_most=1, examples=("wherry diff web",))
