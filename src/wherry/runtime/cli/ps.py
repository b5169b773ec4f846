"""`wherry-runc ps`: the container's processes, as a list of pids or through the host's ps(1)."""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.options import Option
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "ps [options] <container-id> [ps options]"
EXAMPLES = "   wherry-runc ps web\n   wherry-runc ps --format json web\n   wherry-runc ps web -o pid,comm\n"
OPTIONS = (Option("format", "table or json", short="f", default="table"),)


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, None, USAGE)
    if values["format"] not in ("table", "json"):
        raise InvalidArgument(f"invalid format option: {values['format']!r}")
    pids = states.load(settings.root, arguments[0]).cgroup().pids()
    if values["format"] == "json":
        os.write(1, fastjson.dumps(pids) + b"\n")
        return 0
    import subprocess

    try:
        found = subprocess.run(
            ["ps", *(arguments[1:] or ["-ef"])], capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise FailedPrecondition("ps: not found in PATH (use --format json)") from None
    if found.returncode:
        reason = found.stderr.strip().removeprefix("ps: ") or f"exit status {found.returncode}"
        raise InvalidArgument(f"ps: {reason}")
    head, *lines = found.stdout.splitlines() or [""]
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgument("ps: the options leave no PID field")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    chosen = [line for line in lines if len(line.split()) > column and line.split()[column] in wanted]
    os.write(1, "".join(f"{line}\n" for line in (head, *chosen)).encode())
    return 0
