"""`wherry tag`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import go_quote
from wherry.client.reference import split
from wherry.errors import InvalidArgument
from wherry.spec.reference import parse, parse_any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    source, target = arguments
    _check(source, parse_any)
    _check(target, parse)
    name, tag = split(target)
    if "@" in target:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    app.images.tag(source, name, tag or "latest")
    return 0


def _check(text: str, read: Callable[[str], object]) -> None:
    try:
        read(text)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"Error parsing reference: {go_quote(text)} is not a valid repository/tag: {error}"
        ) from None


COMMAND = Command(
    run,
    arguments="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    at_least=2,
    at_most=2,
    examples=("wherry tag busybox registry.example.com/tools:1",),
)
