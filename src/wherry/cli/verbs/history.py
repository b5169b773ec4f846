"""`wherry history`."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, print_list

from .ps import ellipsis, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_YEAR_2000 = 946684800


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    layers = app.images.history(arguments[0], platform=flags.text("platform"))
    truncate, human, form = not flags.on("no-trunc"), flags.on("human"), flags.text("format")

    def identity(layer: dict[str, Any]) -> str:
        return short_id(layer["Id"]) if truncate else str(layer["Id"])

    if flags.on("quiet") and form in ("", "table"):
        app.out("".join(identity(layer) + "\n" for layer in layers))
        return 0
    fields = {
        "ID": ("IMAGE", identity),
        "CreatedSince": ("CREATED" if human else "CREATED AT", lambda layer: _created(layer["Created"], human=human)),
        "CreatedAt": ("CREATED AT", lambda layer: _rfc3339(layer["Created"])),
        "CreatedBy": ("CREATED BY", lambda layer: _created_by(layer["CreatedBy"], truncate=truncate)),
        "Size": ("SIZE", lambda layer: units.decimal_size(layer["Size"], 3) if human else str(layer["Size"])),
        "Comment": ("COMMENT", lambda layer: layer.get("Comment") or ""),
    }
    shown = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
    print_list(app, Columns(fields, shown, "*image.historyContext"), layers, form, truncate=truncate)
    return 0


def _rfc3339(created: int) -> str:
    return units.local_time(created * units.SECOND, fraction=False).replace("+00:00", "Z")


def _created(created: int, *, human: bool) -> str:
    if not human:
        return _rfc3339(created)
    return units.ago(created) if created > _YEAR_2000 else "N/A"


def _created_by(text: str, *, truncate: bool) -> str:
    text = text.replace("\t", " ")
    return ellipsis(text, 45) if truncate else text


COMMAND = Command(
    run,
    arguments="IMAGE",
    flags=(
        Flag("format", "string", "table, json, or a template"),
        Flag("human", "bool", "Print sizes and dates in human-readable form", short="H", default=True),
        Flag("no-trunc", "bool", "Do not truncate the output"),
        Flag("platform", "string", "Show the image for this platform, of one for several (linux/arm64)"),
        Flag("quiet", "bool", "Print only IDs", short="q"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry history busybox",),
)
