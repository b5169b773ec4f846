"""`wherry image inspect`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.inspecting import inspect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    platform = flags.text("platform")
    return inspect(app, arguments, flags.text("format"), lambda ref: app.images.inspect(ref, platform=platform))


COMMAND = Command(
    run,
    arguments="IMAGE [IMAGE...]",
    flags=(
        Flag("format", "string", "json, or a template", short="f"),
        Flag("platform", "string", "Of an image for several platforms the one for this (linux/arm64)"),
    ),
    at_least=1,
    examples=("wherry image inspect busybox",),
)
