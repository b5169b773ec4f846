"""`wherry system df`: what takes how much disk."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, layout, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Json = dict[str, Any]

_ALIVE = ("running", "paused", "restarting")


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    usage = app.system.disk_usage()
    form = flags.text("format")
    if flags.on("verbose"):
        if form not in ("", "table"):
            raise CliError("--format with --verbose is not supported by wherry")
        app.out(_verbose(usage))
        return 0
    fields = {
        "Type": ("TYPE", lambda row: row["Type"]),
        "TotalCount": ("TOTAL", lambda row: str(row["TotalCount"])),
        "Active": ("ACTIVE", lambda row: str(row["Active"])),
        "Size": ("SIZE", lambda row: units.decimal_size(row["Size"])),
        "Reclaimable": ("RECLAIMABLE", _reclaimable),
    }
    columns = Columns(fields, tuple(fields), "*formatter.diskUsageContext")
    print_list(app, columns, [_images(usage), _containers(usage), _volumes(usage), _build_cache(usage)], form)
    return 0


def _row(kind: str, total: int, active: int, size: int, reclaimable: int, *, percent: bool) -> Json:
    return {
        "Type": kind,
        "TotalCount": total,
        "Active": active,
        "Size": size,
        "Reclaimable": reclaimable,
        "Percent": percent,
    }


def _reclaimable(row: Json) -> str:
    text = units.decimal_size(row["Reclaimable"])
    return f"{text} ({row['Reclaimable'] * 100 // row['Size']}%)" if row["Percent"] and row["Size"] > 0 else text


def _images(usage: Json) -> Json:
    images, size = usage.get("Images") or [], usage.get("LayersSize") or 0
    used = [image for image in images if image.get("Containers", 0) > 0]
    if "ImageUsage" in usage:  # from API 1.52 on the engine knows
        return _row("Images", len(images), len(used), size, usage["ImageUsage"]["Reclaimable"], percent=True)
    kept = sum(
        image["Size"] - image.get("SharedSize", 0)
        for image in images
        if image.get("Containers", 0) != 0 and image["Size"] != -1 and image.get("SharedSize", 0) != -1
    )
    return _row("Images", len(images), len(used), size, size - kept, percent=True)


def _containers(usage: Json) -> Json:
    containers = usage.get("Containers") or []
    alive = [item for item in containers if any(word in str(item.get("State")) for word in _ALIVE)]
    size = sum(item.get("SizeRw") or 0 for item in containers)
    kept = sum(item.get("SizeRw") or 0 for item in alive)
    return _row("Containers", len(containers), len(alive), size, size - kept, percent=True)


def _volumes(usage: Json) -> Json:
    volumes = usage.get("Volumes") or []
    sized = [item["UsageData"] for item in volumes if item.get("UsageData")]
    size = sum(item["Size"] for item in sized if item["Size"] != -1)
    free = sum(item["Size"] for item in sized if item["Size"] != -1 and item["RefCount"] == 0)
    return _row("Local Volumes", len(volumes), sum(item["RefCount"] > 0 for item in sized), size, free, percent=True)


def _build_cache(usage: Json) -> Json:
    records = usage.get("BuildCache") or []
    free = sum(item.get("Size", 0) for item in records if not item.get("InUse") and not item.get("Shared"))
    size = sum(item.get("Size", 0) for item in records if not item.get("Shared"))
    return _row(
        "Build Cache", len(records), sum(bool(item.get("InUse")) for item in records), size, free, percent=False
    )


def _verbose(usage: Json) -> str:
    from . import images, ps, volume_ls

    sections: list[str] = []
    image_fields = images.fields(truncate=True)
    image_names = ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers")
    image_rows = [images.rows(image, digests=False)[0] for image in usage.get("Images") or ()]
    sections.append("Images space usage:\n\n" + _table(image_fields, image_names, image_rows))
    container_fields = ps.fields(truncate=True)
    container_names = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    container_rows = [{**item, "SizeRootFs": 0} for item in usage.get("Containers") or ()]
    sections.append("Containers space usage:\n\n" + _table(container_fields, container_names, container_rows))
    sections.append(
        "Local Volumes space usage:\n\n"
        + _table(volume_ls.FIELDS, ("Name", "Links", "Size"), usage.get("Volumes") or [])
    )
    records = usage.get("BuildCache") or []
    size = units.decimal_size(_build_cache(usage)["Size"])
    sections.append(f"Build cache usage: {size}\n\n" + _table(_CACHE_FIELDS, tuple(_CACHE_FIELDS), records))
    return "\n".join(sections)


def _since(moment: str | None) -> str:
    return units.ago(units.parse_rfc3339(moment) / 1e9) if moment else ""


_CACHE_FIELDS = {
    "ID": ("CACHE ID", lambda record: record["ID"][:12] + ("*" if record["InUse"] else "")),
    "CacheType": ("CACHE TYPE", lambda record: record["Type"]),
    "Size": ("SIZE", lambda record: units.decimal_size(record["Size"], 3)),
    "CreatedSince": ("CREATED", lambda record: _since(record["CreatedAt"])),
    "LastUsedSince": ("LAST USED", lambda record: _since(record.get("LastUsedAt"))),
    "UsageCount": ("USAGE", lambda record: record["UsageCount"]),
    "Shared": ("SHARED", lambda record: str(record["Shared"]).lower()),
}


def _table(fields: dict[str, tuple[str, Any]], names: tuple[str, ...], items: list[Any]) -> str:
    rows = [[fields[name][0] for name in names]]
    rows += [[str(fields[name][1](item)) for name in names] for item in items]
    return layout(rows, fit=True)


COMMAND = Command(
    run,
    flags=(
        Flag("format", "string", "table, json, or a template"),
        Flag("verbose", "bool", "Tell about each object", short="v"),
    ),
    at_most=0,
    examples=("wherry system df", "wherry system df -v"),
)
