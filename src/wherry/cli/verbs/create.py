"""`wherry create`: a container that is not started."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.container_flags import CONTAINER_FLAGS
from wherry.cli.lifecycle import build_request
from wherry.cli.lifecycle import create as create_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    body = build_request(app, flags, arguments)
    app.out(create_container(app, flags, body) + "\n")
    return 0


COMMAND = Command(
    run,
    arguments="IMAGE [COMMAND] [ARG...]",
    flags=CONTAINER_FLAGS,
    at_least=1,
    interspersed=False,
    examples=("wherry create --name job busybox true", "wherry start -a job"),
)
