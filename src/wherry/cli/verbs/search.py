"""`wherry search`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.registry_auth import auth_for
from wherry.cli.table import Columns, print_list

from .ps import ellipsis

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    term = arguments[0]
    filters = {key: list(found) for key, found in flags.mapping("filter").items()}
    found = app.images.search(term, limit=flags.value("limit") or None, filters=filters, auth=auth_for(app, term))
    truncate = not flags.on("no-trunc")

    def description(text: str) -> str:
        text = text.replace("\n", " ").strip()
        return ellipsis(text, 45) if truncate else text

    fields = {
        "Name": ("NAME", lambda item: item["name"]),
        "Description": ("DESCRIPTION", lambda item: description(item["description"])),
        "StarCount": ("STARS", lambda item: str(item["star_count"])),
        "IsOfficial": ("OFFICIAL", lambda item: "[OK]" if item["is_official"] else ""),
    }
    columns = Columns(fields, tuple(fields), "*formatter.searchContext")
    print_list(app, columns, found, flags.text("format"), truncate=truncate)
    return 0


COMMAND = Command(
    run,
    arguments="TERM",
    flags=(
        Flag("filter", "filter", "Show only those that match (is-official=true, stars=10)", short="f"),
        Flag("format", "string", "table, json, or a template"),
        Flag("limit", "int", "Show at most this many results"),
        Flag("no-trunc", "bool", "Do not truncate the output"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry search busybox", "wherry search registry.example.com/tools"),
)
