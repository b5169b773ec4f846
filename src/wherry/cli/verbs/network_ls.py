"""`wherry network ls`."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, print_list

from .ps import labels, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    networks = sorted(app.networks.list(flags.mapping("filter")), key=lambda network: network["Name"])
    truncate, form = not flags.on("no-trunc"), flags.text("format")
    if flags.on("quiet") and form in ("", "table"):
        app.out("".join(f"{short_id(item['Id']) if truncate else item['Id']}\n" for item in networks))
        return 0
    fields = {
        "ID": ("NETWORK ID", lambda item: short_id(item["Id"]) if truncate else item["Id"]),
        "Name": ("NAME", lambda item: item["Name"]),
        "Driver": ("DRIVER", lambda item: item["Driver"]),
        "Scope": ("SCOPE", lambda item: item["Scope"]),
        "IPv4": ("IPV4", lambda item: _bool(item.get("EnableIPv4"))),
        "IPv6": ("IPV6", lambda item: _bool(item.get("EnableIPv6"))),
        "Internal": ("INTERNAL", lambda item: _bool(item.get("Internal"))),
        "Labels": ("LABELS", lambda item: labels(item.get("Labels"))),
        "Label": ("", lambda item: lambda name: (item.get("Labels") or {}).get(name, "")),
        "CreatedAt": ("CREATED AT", lambda item: units.go_time(item.get("Created", ""))),
    }
    columns = Columns(fields, ("ID", "Name", "Driver", "Scope"), "*network.networkContext")
    print_list(app, columns, networks, form, truncate=truncate)
    return 0


def _bool(value: object) -> str:
    return "true" if value else "false"


COMMAND = Command(
    run,
    flags=(
        Flag("filter", "filter", "Show only those that match (driver=bridge, name=web …)", short="f"),
        Flag("format", "string", "table, json, or a template"),
        Flag("no-trunc", "bool", "Do not truncate the output"),
        Flag("quiet", "bool", "Print only IDs", short="q"),
    ),
    at_most=0,
    examples=("wherry network ls",),
)
