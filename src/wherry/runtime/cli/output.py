"""Text for people and programs: indented JSON, tables."""

from __future__ import annotations

from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def pretty(value: object, indent: str = "  ", level: int = 0) -> bytes:
    """JSON with one key or item per line, as runc prints it."""
    inner, outer = b"\n" + (indent * (level + 1)).encode(), b"\n" + (indent * level).encode()
    if isinstance(value, dict) and value:
        rows = [inner + fastjson.dumps(key) + b": " + pretty(item, indent, level + 1) for key, item in value.items()]
        return b"{" + b",".join(rows) + outer + b"}"
    if isinstance(value, list | tuple) and value:
        return b"[" + b",".join(inner + pretty(item, indent, level + 1) for item in value) + outer + b"]"
    return fastjson.dumps(value)


def table(rows: Sequence[Sequence[str]]) -> bytes:
    """Columns as runc prints them: at least nine wide, three blanks apart, the last one unpadded."""
    widths = [max(9, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")
