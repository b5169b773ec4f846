"""`wherry load`."""

from __future__ import annotations

import os

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.progress import show
from wherry.cli.uploads import open_archive, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    source = flags.text("input")
    if not source and os.isatty(0):
        raise CliError("requested load from stdin, but stdin is empty")
    fd = _open(source) if source else 0
    quiet = flags.on("quiet") or not os.isatty(1)
    show(app.images.load(pieces(fd), quiet=quiet, platforms=flags.items("platform")))
    return 0


def _open(path: str) -> int:
    try:
        return open_archive(path)
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


COMMAND = Command(
    run,
    flags=(
        Flag("input", "string", "Read this archive instead of stdin", short="i"),
        Flag("platform", "strings", "Load only what is there for this platform (linux/arm64)"),
        Flag("quiet", "bool", "Do not show progress", short="q"),
    ),
    at_most=0,
    examples=("wherry load -i images.tar", "wherry load < images.tar"),
)
