"""Progress of pulls, loads and imports: plain lines, or live bars (rich, imported only then) when a terminal shows them."""

from __future__ import annotations

import os

from .app import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Json = dict[str, Any]

_BARS = ("Downloading", "Extracting", "Loading layer")


def show(progress: Iterator[Json], *, quiet: bool = False, fd: int = 1) -> None:
    """Consumes the progress stream and shows it on `fd`; errors in it are raised by the iterator."""
    if quiet:
        for _ in progress:
            pass
    elif os.isatty(fd) and os.environ.get("TERM", "dumb") != "dumb":
        _show_bars(progress, fd)
    else:
        _show_lines(progress, fd)


def _show_lines(progress: Iterator[Json], fd: int) -> None:
    """What does not change is a line; the many messages of a bar are not shown."""
    for message in progress:
        line = _line(message)
        if line and not (message.get("progressDetail") or {}).get("current"):
            write_all(fd, line.encode("utf-8", "surrogateescape"))


def _line(message: Json) -> str:
    if message.get("stream"):
        return str(message["stream"])
    status = message.get("status")
    if not status:
        return ""
    prefix = f"{message['id']}: " if message.get("id") else ""
    return f"{prefix}{status}\n"


def _show_bars(progress: Iterator[Json], fd: int) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    with open(fd, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as file:
        console = Console(file=file, highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), DownloadColumn())
        done_columns = TextColumn("{task.description}", markup=False)
        tasks: dict[str, Any] = {}
        with Progress(*columns, console=console) as bars:
            for message in progress:
                layer, status = str(message.get("id") or ""), str(message.get("status") or "")
                detail = message.get("progressDetail") or {}
                if layer and (layer in tasks or status.startswith(_BARS) or "layer" in status.lower()):
                    if layer not in tasks:
                        tasks[layer] = bars.add_task(layer, total=None)
                    total, current = detail.get("total"), detail.get("current")
                    bars.update(tasks[layer], description=f"{layer}: {status}", total=total, completed=current or 0)
                    if not detail and status.endswith(("complete", "exists")):
                        bars.update(tasks[layer], total=1, completed=1)
                elif line := _line(message):
                    console.print(line, end="", markup=False)
        del done_columns
