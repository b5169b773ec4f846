"""Progress of pulls, loads and imports: plain lines, or live bars (rich, imported only then) when a terminal shows them."""

from __future__ import annotations

import os

from .app import write_all
from .units import decimal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from rich.progress import Progress

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
    """A bar per layer; what is said after the first bar and belongs to none follows at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    after: list[str] = []
    with open(fd, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as file:
        console = Console(file=file, highlight=False)
        columns = (
            TextColumn("{task.fields[layer]}:", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30 if console.width >= 100 else 12),
            TextColumn("{task.fields[size]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
        )
        with Progress(*columns, console=console) as bars:
            layers: dict[str, _Layer] = {}
            for message in progress:
                name, status = str(message.get("id") or ""), str(message.get("status") or "")
                if name in layers or (name and (status.startswith(_BARS) or status.endswith((" layer", " exists")))):
                    if name not in layers:
                        layers[name] = _Layer(bars, name)
                    layers[name].update(status, message.get("progressDetail") or {})
                elif layers:
                    after.append(_line(message))
                else:
                    bars.console.print(_line(message), end="", markup=False)
    write_all(fd, "".join(after).encode("utf-8", "surrogateescape"))


class _Layer:
    """One layer's bar, with speed and time left: it runs once for the download and once for the unpacking."""

    def __init__(self, bars: Progress, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task("", total=None, layer=name, size="", rate="")
        self._total = 0
        self._status = ""

    def update(self, status: str, detail: Json) -> None:
        self._total = int(detail.get("total") or self._total)
        current = int(detail.get("current") or 0)
        if status.endswith(("complete", "exists", "Checksum")):
            current = self._total or 1
        if status != self._status:
            self._bars.reset(self._task)
            self._status = status
        size = f"{decimal_size(current, 3)}/{decimal_size(self._total, 3)}" if self._total else ""
        self._bars.update(
            self._task,
            description=status,
            total=self._total or current or None,
            completed=current,
            size=size,
            rate=self._rate() if status.startswith(_BARS) else "",
        )

    def _rate(self) -> str:
        """As of the messages before: "12.3MB/s 1:05"."""
        task = next(task for task in self._bars.tasks if task.id == self._task)
        if not task.speed or task.time_remaining is None:
            return ""
        minutes, seconds = divmod(int(task.time_remaining), 60)
        return f"{decimal_size(int(task.speed), 3)}/s {minutes}:{seconds:02}"
