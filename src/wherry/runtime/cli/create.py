"""`wherry-runc create`: a container that is ready and waits for `start`."""

from __future__ import annotations

from wherry.runtime import interrupts
from wherry.runtime.cli import launch, options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "create [options] <container-id>"
EXAMPLES = "   wherry-runc create --bundle /containers/web --pid-file /run/web.pid web\n"
OPTIONS = launch.OPTIONS


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    interrupts.heed()
    launch.launch(settings, values, arguments[0], verb="create", hold=True, foreground=None).process.close()
    return 0
