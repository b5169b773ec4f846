"""`wherry ps`, `wherry container ls`."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import Command
from wherry.cli.flags import Flag, go_quote
from wherry.cli.table import Columns, print_list
from wherry.client.reference import familiar_name, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Json = dict[str, Any]

_SHOWN = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    last = flags.number("last")
    if flags.on("latest"):
        last = 1
    form = flags.text("format")
    size = flags.on("size") or (not flags.on("quiet") and (".Size" in form or "{{json .}}" in form))
    containers = app.containers.list(
        all=flags.on("all"),
        limit=last if last > 0 else None,
        size=size,
        filters=flags.mapping("filter"),
    )
    truncate = not flags.on("no-trunc")
    if flags.on("quiet") and form in ("", "table"):
        app.out("".join(f"{short_id(item['Id']) if truncate else item['Id']}\n" for item in containers))
        return 0
    columns = Columns(fields(truncate=truncate), (*_SHOWN, "Size") if size else _SHOWN, "*formatter.ContainerContext")
    print_list(app, columns, containers, form, truncate=truncate)
    return 0


def short_id(text: str) -> str:
    """The first twelve hex digits of an id, with or without `sha256:`."""
    return text.removeprefix("sha256:")[:12]


def ellipsis(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def fields(*, truncate: bool) -> dict[str, tuple[str, Any]]:
    return {
        "ID": ("CONTAINER ID", lambda item: short_id(item["Id"]) if truncate else item["Id"]),
        "Names": ("NAMES", lambda item: names(item, truncate=truncate)),
        "Image": ("IMAGE", lambda item: _image(item, truncate=truncate)),
        "Command": ("COMMAND", lambda item: go_quote(ellipsis(item["Command"], 20) if truncate else item["Command"])),
        "CreatedAt": ("CREATED AT", lambda item: units.created_at(item["Created"])),
        "RunningFor": ("CREATED", lambda item: units.ago(item["Created"])),
        "Ports": ("PORTS", lambda item: ports(item.get("Ports") or [])),
        "State": ("STATE", lambda item: item.get("State", "")),
        "Status": ("STATUS", lambda item: item.get("Status", "")),
        "Size": ("SIZE", _size),
        "Labels": ("LABELS", lambda item: labels(item.get("Labels"))),
        "Label": ("", lambda item: lambda name: (item.get("Labels") or {}).get(name, "")),
        "Mounts": ("MOUNTS", lambda item: _mounts(item, truncate=truncate)),
        "LocalVolumes": (
            "LOCAL VOLUMES",
            lambda item: str(sum(m.get("Driver") == "local" for m in item.get("Mounts") or ())),
        ),
        "Networks": ("NETWORKS", lambda item: ",".join((item.get("NetworkSettings") or {}).get("Networks") or {})),
        "Platform": ("PLATFORM", _platform),
    }


def _platform(item: Json) -> object:
    return (item.get("ImageManifestDescriptor") or {}).get("platform")


def names(item: Json, *, truncate: bool) -> str:
    found = [name.removeprefix("/") for name in item.get("Names") or ()]
    if truncate:
        return next((name for name in found if "/" not in name), "")
    return ",".join(found)


def _image(item: Json, *, truncate: bool) -> str:
    image = str(item.get("Image") or "")
    if not image:
        return "<no image>"
    if not truncate:
        return image
    short = short_id(str(item.get("ImageID", "")))
    if short == short_id(image):
        return short
    name, tag = split(image)
    return familiar_name(name) + (f":{tag}" if tag and ":" not in tag else "")


def _size(item: Json) -> str:
    own = units.decimal_size(item.get("SizeRw") or 0, 3)
    whole = item.get("SizeRootFs") or 0
    return f"{own} (virtual {units.decimal_size(whole, 3)})" if whole > 0 else own


def labels(found: dict[str, str] | None) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in (found or {}).items()))


def _mounts(item: Json, *, truncate: bool) -> str:
    found = [mount.get("Name") or mount.get("Source", "") for mount in item.get("Mounts") or ()]
    return ",".join(ellipsis(name, 15) if truncate else name for name in found)


def ports(found: list[Json]) -> str:
    """ "0.0.0.0:8080->80/tcp, 443/tcp"; neighbours with equal numbers inside and outside are written as ranges."""
    ordered = sorted(
        found, key=lambda p: (p["PrivatePort"], p.get("IP") or "", p.get("PublicPort") or 0, p.get("Type") or "")
    )
    groups: dict[str, list[int]] = {}
    ranges: list[str] = []
    mappings: list[str] = []
    for port in ordered:
        address, private, kind = port.get("IP") or "", port["PrivatePort"], port.get("Type") or "tcp"
        key = kind
        if address:
            if port.get("PublicPort") != private:
                mappings.append(f"{_host_port(address, port.get('PublicPort') or 0)}->{private}/{kind}")
                continue
            key = f"{address}/{kind}"
        group = groups.get(key)
        if group is None:
            groups[key] = [private, private]
        elif private == group[1] + 1:
            group[1] = private
        elif private != group[1]:
            ranges.append(_port_range(key, *group))
            groups[key] = [private, private]
    ranges += [_port_range(key, *group) for key, group in groups.items()]
    return ", ".join(ranges + mappings)


def _host_port(address: str, port: int | str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _port_range(key: str, first: int, last: int) -> str:
    address, slash, kind = key.rpartition("/")
    text = str(first) if first == last else f"{first}-{last}"
    return f"{_host_port(address, text)}->{text}/{kind}" if slash else f"{text}/{kind}"


COMMAND = Command(
    run,
    flags=(
        Flag("all", "bool", "Include stopped containers", short="a"),
        Flag("filter", "filter", "Show only those that match (status=exited, name=web, label=x=y …)", short="f"),
        Flag("format", "string", "table, json, or a template ('{{.ID}} {{.Names}}')"),
        Flag("last", "int", "Show the n containers created last, including stopped ones", short="n", default=-1),
        Flag("latest", "bool", "Show the container created last, running or not", short="l"),
        Flag("no-trunc", "bool", "Do not truncate the output"),
        Flag("quiet", "bool", "Print only IDs", short="q"),
        Flag("size", "bool", "Show the disk usage of each", short="s"),
    ),
    at_most=0,
    examples=(
        "wherry ps -a",
        "wherry ps --filter status=exited -q",
        "wherry ps --format 'table {{.Names}}\\t{{.Status}}'",
    ),
)
