"""`wherry manifest inspect`: a manifest or an index, in a registry or of a list that is being made here."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.manifests import Store, described, fetch, indented, index_of, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags
    from wherry.cli.manifests import Entry


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    found = _find(app, arguments, insecure=flags.on("insecure"))
    if flags.on("verbose"):
        listed = f"[{','.join(described(entry) for entry in found)}]" if isinstance(found, list) else described(found)
        app.out(indented(listed) + "\n")
    elif isinstance(found, list):
        app.out(index_of(found).decode() + "\n")
    else:
        app.out(indented(found.data.decode()) + "\n")
    return 0


def _find(app: App, arguments: list[str], *, insecure: bool) -> Entry | list[Entry]:
    store, reference = Store(app), named(arguments[-1])
    if len(arguments) == 2:
        entry = store.get(named(arguments[0]), reference)
        if entry is None:
            raise CliError(f"No such manifest: {reference}")
        return entry
    return store.entries(reference) or fetch(app, reference, insecure=insecure)


COMMAND = Command(
    run,
    arguments="[MANIFEST_LIST] MANIFEST",
    flags=(
        Flag("insecure", "bool", "Talk to the registry without verified TLS"),
        Flag("verbose", "bool", "Also descriptor, platform and raw bytes of each manifest", short="v"),
    ),
    at_least=1,
    at_most=2,
    examples=("wherry manifest inspect debian:12",),
)
