"""`wherry manifest create`: a list of manifests, kept here until it is pushed as an index."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.manifests import Store, fetch, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    store, listing = Store(app), named(arguments[0])
    if store.entries(listing) is not None and not flags.on("amend"):
        raise CliError("refusing to amend an existing manifest list with no --amend flag")
    for text in arguments[1:]:
        reference = named(text)
        entry = store.get(listing, reference) or fetch(app, reference, insecure=flags.on("insecure"))
        if isinstance(entry, list):
            raise CliError(f"{reference} is a manifest list")
        store.put(listing, reference, entry)
    app.out(f"Created manifest list {listing}\n")
    return 0


COMMAND = Command(
    run,
    arguments="MANIFEST_LIST MANIFEST [MANIFEST...]",
    flags=(
        Flag("amend", "bool", "Add to a list that is there already", short="a"),
        Flag("insecure", "bool", "Talk to the registry without verified TLS"),
    ),
    at_least=2,
    examples=(
        "wherry manifest create registry.example/app:1 registry.example/app:1-amd64 registry.example/app:1-arm64",
    ),
)
