"""`wherry-runc resume`: lets the processes of a paused container go on."""

from __future__ import annotations

from wherry.errors import Conflict
from wherry.runtime import state as states
from wherry.runtime.cli import options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "resume <container-id>"
EXAMPLES = "   wherry-runc resume web\n"
OPTIONS = ()


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    state = states.load(settings.root, arguments[0])
    if not state.is_alive() or not state.cgroup().is_frozen():
        raise Conflict("container not paused")
    state.cgroup().thaw()
    return 0
