"""`wherry export`."""

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
    check_output(output, "export container")
    write_output(output, lambda: app.containers.export(arguments[0]))
    return 0


COMMAND = Command(
    run,
    arguments="CONTAINER",
    flags=(Flag("output", "string", "Write to this file instead of stdout", short="o"),),
    at_least=1,
    at_most=1,
    examples=("wherry export web > rootfs.tar", "wherry export -o rootfs.tar web"),
)
