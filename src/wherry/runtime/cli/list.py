"""`wherry-runc list`: the containers under --root."""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument, NotFound
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.options import Option, default_root
from wherry.runtime.cli.output import table
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "list [options]"
EXAMPLES = "   wherry-runc list\n   wherry-runc --root /run/other list --format json\n"
OPTIONS = (
    Option("format", "table or json", short="f", default="table"),
    Option("quiet", "display only container IDs", short="q", kind="switch"),
)
_PASSWD_LIMIT = 16 << 20


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 0, 0, USAGE)
    if values["format"] not in ("table", "json"):
        raise InvalidArgument(f"invalid format option: {values['format']!r}")
    if not os.path.isdir(settings.root) and settings.root != default_root():
        raise NotFound(f"open {settings.root}: no such file or directory")
    found = states.every(settings.root)
    if values["quiet"]:
        os.write(1, "".join(f"{state.id}\n" for state in found).encode())
        return 0
    reports = []
    names = _names_of_users()
    for state in found:
        try:
            reports.append({**state.report(state.config()), "owner": names.get(b"%d" % state.owner, f"#{state.owner}")})
        except NotFound:
            continue  # deleted meanwhile
    if values["format"] == "json":
        os.write(1, fastjson.dumps(reports) + b"\n")
        return 0
    rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    rows += [(r["id"], str(r["pid"]), r["status"], r["bundle"], r["created"], r["owner"]) for r in reports]
    os.write(1, table(rows))
    return 0


def _names_of_users() -> dict[bytes, str]:
    """By their numbers, as the host's /etc/passwd has them, which is where runc looks for who has made a container."""
    try:
        with open("/etc/passwd", "rb") as file:
            rows = [line.split(b":") for line in file.read(_PASSWD_LIMIT).split(b"\n")]
    except OSError:
        return {}
    return {
        row[2]: row[0].decode("utf-8", "replace") for row in reversed(rows) if len(row) > 2
    }  # the first of a number counts
