"""`wherry volume ls`."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, print_list

from .ps import labels

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    volumes = app.volumes.list(flags.mapping("filter")).get("Volumes") or []
    volumes.sort(key=lambda volume: volume["Name"])
    form = flags.text("format")
    if flags.on("quiet") and form in ("", "table"):
        app.out("".join(f"{volume['Name']}\n" for volume in volumes))
        return 0
    print_list(app, Columns(FIELDS, ("Driver", "Name"), "*formatter.volumeContext"), volumes, form)
    return 0


def _links(volume: dict[str, Any]) -> str:
    usage = volume.get("UsageData")
    return str(usage["RefCount"]) if usage else "N/A"


def _size(volume: dict[str, Any]) -> str:
    usage = volume.get("UsageData")
    return units.decimal_size(usage["Size"]) if usage else "N/A"


def _not_in_a_cluster(volume: dict[str, Any]) -> str:
    return "N/A"


FIELDS: dict[str, tuple[str, Any]] = {
    "Driver": ("DRIVER", lambda volume: volume["Driver"]),
    "Name": ("VOLUME NAME", lambda volume: volume["Name"]),
    "Scope": ("SCOPE", lambda volume: volume["Scope"]),
    "Mountpoint": ("MOUNTPOINT", lambda volume: volume["Mountpoint"]),
    "Labels": ("LABELS", lambda volume: labels(volume.get("Labels"))),
    "Label": ("", lambda volume: lambda name: (volume.get("Labels") or {}).get(name, "")),
    "Links": ("LINKS", _links),
    "Size": ("SIZE", _size),
    "Availability": ("AVAILABILITY", _not_in_a_cluster),
    "Group": ("GROUP", _not_in_a_cluster),
    "Status": ("STATUS", _not_in_a_cluster),
}

COMMAND = Command(
    run,
    flags=(
        Flag("cluster", "bool", refused="there are no clusters"),
        Flag("filter", "filter", "Show only those that match (dangling=true, name=data …)", short="f"),
        Flag("format", "string", "table, json, or a template"),
        Flag("quiet", "bool", "Print only names", short="q"),
    ),
    at_most=0,
    examples=("wherry volume ls", "wherry volume ls -q -f dangling=true"),
)
