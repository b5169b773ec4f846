"""`wherry manifest rm`: lists that are being made here."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.manifests import Store, named
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    store, problems = Store(app), []
    for text in arguments:
        try:
            if not store.remove(named(text)):
                problems.append(f"No such manifest: {named(text)}")
        except InvalidArgument as error:
            problems.append(str(error))
    if problems:
        raise CliError("\n".join(problems))
    return 0


COMMAND = Command(
    run,
    arguments="MANIFEST_LIST [MANIFEST_LIST...]",
    at_least=1,
    examples=("wherry manifest rm registry.example/app:1",),
)
