"""`wherry images`, `wherry image ls`."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, layout, print_list
from wherry.client.reference import familiar_name, split

from .ps import short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Json = dict[str, Any]
    Row = tuple[Json, str, str, str]


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    filters = {key: list(found) for key, found in flags.mapping("filter").items()}
    if arguments:
        filters.setdefault("reference", []).append(arguments[0])
    if flags.on("tree"):
        return _tree(app, flags, filters)
    images = app.images.list(all=flags.on("all"), filters=filters)
    form, truncate, digests = flags.text("format"), not flags.on("no-trunc"), flags.on("digests")
    found = [row for image in images for row in rows(image, digests=digests or ".Digest" in form)]
    if flags.on("quiet") and form in ("", "table"):
        app.out("".join(f"{short_id(row[0]['Id']) if truncate else row[0]['Id']}\n" for row in found))
        return 0
    shown = ("Repository", "Tag", *(("Digest",) if digests else ()), "ID", "CreatedSince", "Size")
    columns = Columns(fields(truncate=truncate), shown, "*formatter.imageContext")
    print_list(app, columns, found, form, truncate=truncate)
    return 0


def _tree(app: App, flags: Flags, filters: dict[str, list[str]]) -> int:
    """Each image with what is there of it for each platform."""
    for name in ("quiet", "no-trunc", "digests", "format"):
        if flags.given(name):
            raise CliError(f"--{name} is not yet supported with --tree")
    lines: list[list[str]] = []
    for image in app.images.list(all=flags.on("all"), filters=filters, manifests=True):
        found = [manifest for manifest in image.get("Manifests") or () if manifest["Kind"] == "image"]
        here = [manifest for manifest in found if manifest["Available"]]
        sizes = [manifest["Size"] for manifest in here]
        names = image.get("RepoTags") or ["<untagged>"]
        lines += [[name, "", "", "", ""] for name in names[:-1]]
        used = "U" if any(manifest["ImageData"]["Containers"] for manifest in found) else ""
        total, content = (sum(size[key] for size in sizes) for key in ("Total", "Content"))
        lines.append([names[-1], short_id(image["Id"]), _size(total), _size(content), used])
        for manifest in found:
            end = "└─" if manifest is found[-1] else "├─"
            size, data = manifest["Size"], manifest["ImageData"]
            platform = "/".join(data["Platform"].get(key) or "" for key in ("os", "architecture", "variant")).rstrip(
                "/"
            )
            shown = (size["Total"], size["Content"]) if manifest["Available"] else (0, 0)
            mark = "U" if data["Containers"] else ""
            lines.append([f"{end} {platform}", short_id(manifest["ID"]), _size(shown[0]), _size(shown[1]), mark])
    app.out(layout([["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE"], *lines], fit=False))
    return 0


def _size(number: int) -> str:
    return units.decimal_size(number, 3)


def rows(image: Json, *, digests: bool) -> list[Row]:
    """A row per tag; per digest where there is no tag."""
    tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
    known = [digest for digest in image.get("RepoDigests") or () if digest != "<none>@<none>"]
    if not tags and not known:
        return [(image, "<none>", "<none>", "<none>")]
    by_name: dict[str, list[str]] = {}
    for reference in known:
        name, digest = split(reference)
        by_name.setdefault(familiar_name(name), []).append(digest)
    rows: list[Row] = []
    for reference in tags:
        name, tag = split(reference)
        name = familiar_name(name)
        for digest in (by_name.get(name) if digests else None) or ["<none>"]:
            rows.append((image, name, tag, digest))
    tagged = {row[1] for row in rows}
    for name, found in by_name.items():
        if name not in tagged:
            rows += [(image, name, "<none>", digest) for digest in (found if digests else found[:1])]
    return rows


def fields(*, truncate: bool) -> dict[str, tuple[str, Any]]:
    return {
        "ID": ("IMAGE ID", lambda row: short_id(row[0]["Id"]) if truncate else row[0]["Id"]),
        "Repository": ("REPOSITORY", lambda row: row[1]),
        "Tag": ("TAG", lambda row: row[2]),
        "Digest": ("DIGEST", lambda row: row[3]),
        "CreatedSince": ("CREATED", lambda row: units.ago(row[0]["Created"])),
        "CreatedAt": ("CREATED AT", lambda row: units.created_at(row[0]["Created"])),
        "Size": ("SIZE", lambda row: units.decimal_size(row[0]["Size"], 3)),
        "Containers": ("CONTAINERS", lambda row: _count(row[0].get("Containers", -1))),
        "SharedSize": ("SHARED SIZE", lambda row: _bytes(row[0].get("SharedSize", -1))),
        "UniqueSize": ("UNIQUE SIZE", _unique),
        "VirtualSize": ("SIZE", lambda row: units.decimal_size(row[0].get("VirtualSize") or row[0]["Size"], 4)),
    }


def _count(number: int) -> str:
    return "N/A" if number == -1 else str(number)


def _bytes(number: int) -> str:
    return "N/A" if number == -1 else units.decimal_size(number)


def _unique(row: Row) -> str:
    shared, size = row[0].get("SharedSize", -1), row[0]["Size"]
    return "N/A" if shared == -1 else units.decimal_size(size - shared)


COMMAND = Command(
    run,
    arguments="[REPOSITORY[:TAG]]",
    flags=(
        Flag("all", "bool", "Include intermediate images", short="a"),
        Flag("digests", "bool", "Show digests"),
        Flag("filter", "filter", "Show only those that match (dangling=true, reference=busybox …)", short="f"),
        Flag("format", "string", "table, json, or a template"),
        Flag("no-trunc", "bool", "Do not truncate the output"),
        Flag("quiet", "bool", "Print only IDs", short="q"),
        Flag("tree", "bool", "Show which platforms of each image are here"),
    ),
    at_most=1,
    examples=("wherry images", "wherry images --format '{{.Repository}}:{{.Tag}} {{.Size}}'"),
)
