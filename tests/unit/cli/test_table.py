"""Tables: Docker's widths, and columns that fit a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from wherry.cli import table
from wherry.cli.table import Columns, layout, render
from wherry.cli.template import TemplateError

COLUMNS = Columns(
    {
        "ID": ("ID", lambda item: item["id"]),
        "Name": ("NAME", lambda item: item["name"]),
        "Label": ("", lambda item: lambda name: item.get(name, "")),
    },
    ("ID", "Name"),
    "*thing",
)
ITEMS: list[dict[str, Any]] = [{"id": "1", "name": "<web>", "a.b": "x"}, {"id": "2", "name": "db"}]


def test_columns_are_at_least_ten_wide_and_three_apart() -> None:
    rows = [["ID", "LONG HEADING", "LAST"], ["1", "x", "y"]]
    assert layout(rows, fit=False) == "ID        LONG HEADING   LAST\n1         x              y\n"


def test_wide_characters_count_double() -> None:
    assert layout([["中文中文中文中", "x"]], fit=False) == "中文中文中文中   x\n"
    assert layout([["cafe\u0301", "x"]], fit=False) == "cafe\u0301      x\n"


def test_a_table_wider_than_the_terminal_is_cut_in_its_widest_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_terminal_width", lambda: 50)
    rows = [["ID", "COMMAND", "PORTS", "NAMES"], ["0123456789ab", "c" * 40, "p" * 20, "name"]]
    lines = layout(rows, fit=True).splitlines()
    assert all(len(line) <= 50 for line in lines)
    assert lines[1].startswith("0123456789ab")
    assert lines[1].endswith("name")
    assert "…" in lines[1]


def test_a_narrow_terminal_does_not_make_columns_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_terminal_width", lambda: 5)
    assert "c" * 7 + "…" in layout([["a", "c" * 40, "name"]], fit=True)


def test_without_a_terminal_nothing_is_cut() -> None:
    assert "c" * 400 in layout([["a", "c" * 400, "name"]], fit=True)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{{.Name}}", "<web>\ndb\n"),
        ("json", '{"ID":"1","Name":"\\u003cweb\\u003e"}\n{"ID":"2","Name":"db"}\n'),
        ("{{json .Name}}", '"<web>"\n"db"\n'),
        ("table {{.Name}}\\t{{.ID}}", "NAME      ID\n<web>     1\ndb        2\n"),
        ('table {{.ID}}\\t{{.Label "a.b"}}', "ID        b\n1         x\n2         \n"),
        ("table {{upper .Name}}", "NAME\n<WEB>\nDB\n"),
    ],
)
def test_a_format_is_applied_to_each_object(form: str, expected: str) -> None:
    assert render(COLUMNS, ITEMS, form) == expected


def test_errors_of_a_format_say_whether_it_was_wrong_or_failed() -> None:
    with pytest.raises(TemplateError, match="failed to parse template: template: :1: unclosed action"):
        render(COLUMNS, ITEMS, "{{")
    with pytest.raises(TemplateError, match=r"failed to execute template: .*can't evaluate field Nope in type \*thing"):
        render(COLUMNS, ITEMS, "{{.Nope}}")
