"""`wherry-runc pause`: stops every process of a container where it is."""

from __future__ import annotations

from wherry.errors import Conflict
from wherry.runtime import state as states
from wherry.runtime.cli import options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "pause <container-id>"
EXAMPLES = "   wherry-runc pause web\n"
OPTIONS = ()


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    state = states.load(settings.root, arguments[0])
    status = state.status()
    if status not in (states.RUNNING, states.CREATED):
        raise Conflict(f"container not running or created: {status}")
    state.cgroup().freeze()
    return 0
