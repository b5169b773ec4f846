"""`--help`: made from the tables, wrapped to the terminal."""

from __future__ import annotations

import os

from . import commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .command import Command
    from .flags import Flag

_METAVARS = {"uint16": "uint16", "uint64": "uint", "strings": "strings"}


def width() -> int:
    """Columns to fill: the terminal's, 80 where there is none."""
    try:
        columns = os.get_terminal_size(1).columns
    except OSError:
        columns = 80
    return max(min(columns, 120), 60)


def program() -> str:
    """`wherry --help`."""
    from .main import GLOBAL_FLAGS

    lines = ["Usage:  wherry [OPTIONS] COMMAND", "", "A container engine: images, containers, volumes, networks", ""]
    for heading, rows in commands.sections():
        lines += [f"{heading}:", *_rows(rows), ""]
    lines += ["Global Options:", *flag_lines([flag for flag in GLOBAL_FLAGS if not flag.refused]), ""]
    lines += [
        "Examples:",
        "  wherry run --rm hello-world",
        "  wherry run --rm -it busybox sh",
        "  wherry doctor",
        "",
        "Run 'wherry COMMAND --help' for more information on a command.",
    ]
    return "\n".join(lines) + "\n"


def group(name: str) -> str:
    """`wherry container --help`."""
    lines = [f"Usage:  wherry {name} COMMAND", "", commands.GROUPS[name], "", "Commands:", *_rows(commands.group(name))]
    lines += ["", f"Run 'wherry {name} COMMAND --help' for more information on a command."]
    return "\n".join(lines) + "\n"


def verb(path: str, command: Command) -> str:
    """`wherry run --help`."""
    lines = [f"Usage:  {command.usage(path)}", "", commands.summary(path)]
    names = commands.synonyms(path)
    if len(names) > 1:
        lines += ["", "Aliases:", "  " + ", ".join(f"wherry {name}" for name in names)]
    if command.examples:
        lines += ["", "Examples:", *(f"  {line}" for line in command.examples)]
    shown = [flag for flag in command.flags if not flag.hidden and not flag.refused]
    if shown:
        lines += ["", "Options:", *flag_lines(shown)]
    refused = [f"--{flag.name}" for flag in command.flags if flag.refused]
    if refused:
        lines += ["", "Docker options that wherry does not support:", *_wrap(", ".join(refused), width() - 2, "  ")]
    return "\n".join(lines) + "\n"


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    column = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{column}}   {text}" for name, text in rows]


def flag_lines(table: Sequence[Flag]) -> list[str]:
    """The options of a verb, one paragraph each, sorted by name."""
    rows = []
    for flag in sorted(table, key=lambda flag: flag.name):
        kind = "" if flag.kind == "bool" else " " + _METAVARS.get(flag.kind, flag.kind)
        head = f"  -{flag.short}, --{flag.name}{kind}" if flag.short else f"      --{flag.name}{kind}"
        default = flag.default
        suffix = (
            f' (default "{default}")'
            if isinstance(default, str) and default
            else f" (default {default})"
            if default
            else ""
        )
        if default is True:
            suffix = " (default true)"
        rows.append((head, flag.help + suffix))
    column = max((len(head) for head, _ in rows), default=0) + 3
    lines = []
    for head, text in rows:
        first, *more = _wrap(text, max(width() - column, 24), "")
        lines.append(f"{head:<{column}}{first}")
        lines += [" " * column + line for line in more]
    return lines


def _wrap(text: str, columns: int, indent: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > columns:
            lines.append(word)
        else:
            lines[-1] += (" " if lines[-1] else "") + word
    return [indent + line for line in lines]
