"""What the `prune` verbs share: the question before, the report after."""

from __future__ import annotations

import sys

from .command import CliError
from .units import decimal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .app import App

    Json = dict[str, Any]


def confirm(app: App, warning: str, what: str) -> None:
    """Asks on the terminal; CliError unless the answer is yes."""
    app.out(f"{warning}\nAre you sure you want to continue? [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CliError(f"{what} has been cancelled")


def containers_report(answer: Json) -> str:
    return _section("Deleted Containers:", answer.get("ContainersDeleted") or [])


def volumes_report(answer: Json) -> str:
    return _section("Deleted Volumes:", answer.get("VolumesDeleted") or [])


def images_report(answer: Json) -> str:
    lines = []
    for item in answer.get("ImagesDeleted") or ():
        lines.append(f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item.get('Deleted', '')}")
    return _section("Deleted Images:", lines)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *lines]) + "\n\n" if lines else ""


def total(*answers: Json) -> str:
    return f"Total reclaimed space: {decimal_size(sum(answer.get('SpaceReclaimed') or 0 for answer in answers))}\n"
