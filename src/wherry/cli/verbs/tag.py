"""`wherry tag`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.client.reference import split
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    source, target = arguments
    name, tag = split(target)
    if "@" in target:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    app.images.tag(source, name, tag or "latest")
    return 0


COMMAND = Command(
    run,
    arguments="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    at_least=2,
    at_most=2,
    examples=("wherry tag busybox registry.example.com/tools:1",),
)
