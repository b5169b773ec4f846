"""`wherry logout`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.registry_auth import Logins, registry_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    key = registry_key(arguments[0] if arguments else "")
    if Logins(app).remove(key):
        app.out(f"Removing login credentials for {key}\n")
    else:
        app.out(f"Not logged in to {key}\n")
    return 0


COMMAND = Command(run, arguments="[SERVER]", at_most=1, examples=("wherry logout localhost:5000",))
