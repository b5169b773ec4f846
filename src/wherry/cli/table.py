"""Lists of objects: Docker's tables and `--format`, and on a terminal columns that fit.

A listing is described by `Columns`: names, headings, and the function that gives a cell's text for an object. Templates are interpreted only when
`--format` asks for one.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from .app import App
    from .template import Template

    Cell = Callable[[Any], Any]

_MINIMUM, _PADDING = 10, 3
_NARROWEST = 8


class Columns:
    """`fields`: name → (heading, function of the object); `shown` are those of the plain table; `go_type` is how error texts call an object."""

    __slots__ = ("fields", "go_type", "shown")

    def __init__(self, fields: Mapping[str, tuple[str, Cell]], shown: Sequence[str], go_type: str) -> None:
        self.fields = fields
        self.shown = shown
        self.go_type = go_type


def print_list(app: App, columns: Columns, objects: Sequence[Any], form: str, *, truncate: bool = True) -> None:
    """Prints the listing: a table for "" or "table", otherwise by the template."""
    if form in ("", "table"):
        rows = [[columns.fields[name][0] for name in columns.shown]]
        rows += [[str(columns.fields[name][1](item)) for name in columns.shown] for item in objects]
        app.out(layout(rows, fit=truncate))
        return
    app.out(render(columns, objects, form))


def render(columns: Columns, objects: Sequence[Any], form: str) -> str:
    """The text by a template: `json`, `table TEMPLATE`, or a template per object."""
    from . import template

    is_table = form.startswith("table ")
    if form == "json":
        form = "{{json .}}"
    if is_table:
        form = form[len("table ") :].strip()
    form = form.replace("\\t", "\t").replace("\\n", "\n")
    try:
        parsed = template.parse(form)
    except template.TemplateError as error:
        raise template.TemplateError(f"failed to parse template: {error}") from None
    try:
        return _apply(columns, objects, parsed, is_table=is_table)
    except template.TemplateError as error:
        raise template.TemplateError(f"failed to execute template: {error}") from None


def _apply(columns: Columns, objects: Sequence[Any], parsed: Template, *, is_table: bool) -> str:
    from .template_functions import HEADER_FUNCTIONS

    lines: list[str] = []
    if is_table:
        headings: dict[str, Any] = {name: heading for name, (heading, _) in columns.fields.items()}
        if "Label" in columns.fields:
            headings["Label"] = lambda name: name.rsplit(".", 1)[-1].replace("-", " ").replace("_", " ")
        lines.append(parsed.execute(headings, HEADER_FUNCTIONS))
    lines += [parsed.execute(_Fields(columns, item)) for item in objects]
    if not is_table:
        return "".join(line + "\n" for line in lines)
    return layout([line.split("\t") for text in lines for line in text.split("\n")], fit=False)


class _Fields(dict[str, "Any"]):
    """An object's fields, each made when the template asks for it."""

    def __init__(self, columns: Columns, item: Any) -> None:
        super().__init__()
        self.go_type = columns.go_type
        self._columns = columns
        self._item = item

    def __contains__(self, name: object) -> bool:
        return name in self._columns.fields

    def __getitem__(self, name: str) -> Any:
        return self._columns.fields[name][1](self._item)

    def items(self) -> Any:
        """All fields by name, for `json`; what takes arguments is left out."""
        pairs = ((name, self[name]) for name in sorted(self._columns.fields))
        return [(name, value) for name, value in pairs if not callable(value)]


def layout(rows: Sequence[Sequence[str]], *, fit: bool) -> str:
    """Columns aligned as Docker aligns them; with `fit`, the widest are cut so that a line fits the terminal, if stdout is one."""
    count = max((len(row) for row in rows), default=0)
    widths = [max((_width(row[index]) for row in rows if index < len(row)), default=0) for index in range(count)]
    if fit:
        available = _terminal_width()
        if available:
            rows = _shrink(rows, widths, available)
    text = []
    for row in rows:
        *cells, last = row if row else ("",)
        line = "".join(
            cell + " " * (max(_MINIMUM, widths[index] + _PADDING) - _width(cell)) for index, cell in enumerate(cells)
        )
        text.append(line + last + "\n")
    return "".join(text)


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(1).columns
    except OSError:
        return 0


def _shrink(rows: Sequence[Sequence[str]], widths: list[int], available: int) -> Sequence[Sequence[str]]:
    """Cuts the widest columns, one after the other, as far as it is sensible. The first and the last column are never cut: they name the object."""

    def total() -> int:
        return sum(max(_MINIMUM, width + _PADDING) for width in widths[:-1]) + widths[-1]

    limits = list(widths)
    while (excess := total() - available) > 0 and len(widths) > 2:
        middle = range(1, len(widths) - 1)
        widest = max(middle, key=lambda index: widths[index])
        if widths[widest] <= _NARROWEST:
            break
        others = sorted((widths[index] for index in middle if index != widest), reverse=True)
        floor = max(_NARROWEST, widths[widest] - excess, min(others[0] if others else 0, widths[widest] - 1))
        widths[widest] = limits[widest] = floor
    return [[_cut(cell, limits[index]) for index, cell in enumerate(row)] for row in rows]


def _cut(cell: str, width: int) -> str:
    return cell if _width(cell) <= width else cell[: max(width - 1, 0)] + "…"


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1 for character in text)
