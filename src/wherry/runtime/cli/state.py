"""`wherry-runc state`: the OCI state of a container, as JSON."""

from __future__ import annotations

import os

from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.output import pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "state <container-id>"
EXAMPLES = "   wherry-runc state web\n"
OPTIONS = ()


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    state = states.load(settings.root, arguments[0])
    os.write(1, pretty(state.report(state.config())) + b"\n")
    return 0
