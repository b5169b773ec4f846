"""Archives that the engine sends, written to a file or to stdout. A file appears under its name when it is whole, or not at all."""

from __future__ import annotations

import os

from wherry.cli.app import write_all
from wherry.cli.command import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def check_output(path: str, task: str) -> None:
    """Before anything is asked for. CliError in Docker's words; `task`: "export container"."""
    if not path:
        if os.isatty(1):
            raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise CliError(f"failed to {task}: invalid output path: stat {directory}: no such file or directory")
    if os.path.exists(path) and not os.path.isfile(path):
        raise CliError(f"failed to {task}: invalid output path: {path} is not a regular file")


def write_output(path: str, fetch: Callable[[], Iterable[bytes]]) -> None:
    """What `fetch` gives, to the file, or to stdout for ""."""
    if not path:
        for piece in fetch():
            write_all(1, piece)
        return
    pieces = fetch()
    temporary = f"{path}.{os.getpid()}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            for piece in pieces:
                write_all(fd, piece)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
