"""`wherry wait`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.main import describe
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    failed = 0
    for name in arguments:
        try:
            code, problem = app.containers.wait(name).result()
        except WherryError as error:
            app.err(describe(error) + "\n")
            failed = 1
            continue
        if problem:
            app.err(f"Error waiting for container: {problem}\n")
            failed = 1
        else:
            app.out(f"{code}\n")
    return failed


COMMAND = Command(run, arguments="CONTAINER [CONTAINER...]", at_least=1, examples=("wherry wait job",))
