"""`wherry ping`, `wherry system ping`: is there an engine?"""

from __future__ import annotations

import time

from wherry.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    session = app.session
    start = time.perf_counter()
    version = app.system.ping()
    elapsed = (time.perf_counter() - start) * 1000
    app.out(f"{session.address.text}: API {version}, {elapsed:.1f} ms\n")
    return 0


COMMAND = Command(run, at_most=0, examples=("wherry ping", "wherry -H tcp://build:2376 ping"))
