"""`wherry top`."""

from __future__ import annotations

from wherry.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_TAB = 20


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    name, *options = arguments
    answer = app.containers.top(name, " ".join(options) if options else None)
    rows = [answer["Titles"], *answer["Processes"]]
    # columns at least _TAB wide, three blanks apart
    widths = [max([_TAB] + [len(row[index]) + 3 for row in rows]) for index in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        lines.append("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1])
    app.out("\n".join(lines) + "\n")
    return 0


COMMAND = Command(
    run,
    arguments="CONTAINER [ps OPTIONS]",
    at_least=1,
    interspersed=False,
    examples=("wherry top web", "wherry top web -o pid,args"),
)
