"""`wherry save`, `wherry image save`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.downloads import check_output, write_output
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    output = flags.text("output")
    check_output(output, "save image")
    write_output(output, lambda: app.images.save(arguments, platforms=flags.items("platform")))
    return 0


COMMAND = Command(
    run,
    arguments="IMAGE [IMAGE...]",
    flags=(
        Flag("output", "string", "Write to this file instead of stdout", short="o"),
        Flag("platform", "strings", "Save only what is there for this platform (linux/arm64)"),
    ),
    at_least=1,
    examples=("wherry save -o images.tar busybox app:1", "wherry save app:1 | ssh other wherry load"),
)
