"""`wherry system fsck`: is the store what it says it is. Exit status 1 when problems are left."""

from __future__ import annotations

import os

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_COLUMNS = Columns(
    {
        "Kind": ("KIND", lambda row: row["Kind"]),
        "Object": ("OBJECT", lambda row: row["Object"]),
        "State": ("STATE", lambda row: "mended" if row["Mended"] else "broken"),
        "Text": ("PROBLEM", lambda row: row["Text"]),
    },
    ("Kind", "Object", "State", "Text"),
    "fsck.Problem",
)


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    problems: list[Any] = []
    summary: dict[str, int] = {}
    live = os.isatty(2)
    for message in app.system.fsck(repair=flags.on("repair"), auths=_logins(app) if flags.on("repair") else None):
        if "problem" in message:
            problems.append(message["problem"])
        summary = message.get("summary", summary)
        detail = message.get("progressDetail")
        if live and detail:
            app.err(f"\r{message['status']} {detail['current']}/{detail['total']}\x1b[K")
    if live:
        app.err("\r\x1b[K")
    form = flags.text("format")
    if problems or form:
        print_list(app, _COLUMNS, problems, form)
    left = summary["Problems"] - summary["Mended"]
    if not form:
        app.out(
            f"{summary['Blobs']} blobs, {summary['Layers']} layers: {summary['Problems']} problems, "
            f"{summary['Mended']} mended, {left} left\n"
        )
    return 1 if left else 0


def _logins(app: App) -> dict[str, dict[str, str]]:
    """For the registries that the images came from."""
    from wherry.cli.registry_auth import auth_for
    from wherry.client.reference import domain

    sources = {domain(ref): ref for image in app.images.list(all=True) for ref in image.get("RepoDigests") or ()}
    found = {registry: auth_for(app, ref) for registry, ref in sources.items()}
    return {registry: auth for registry, auth in found.items() if auth}


COMMAND = Command(
    run,
    flags=(
        Flag("format", "string", "table, json, or a template"),
        Flag("repair", "bool", "Mend: remove what nothing needs, fetch again and unpack again what is broken"),
    ),
    at_most=0,
    examples=("wherry system fsck", "wherry system fsck --repair", "wherry system fsck --format json"),
)
