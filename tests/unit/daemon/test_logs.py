"""The log's two formats."""

from __future__ import annotations

import json
import logging

from wherry.daemon.logs import JsonFormatter, TextFormatter


def record(message: str, name: str = "wherry.api", level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, message, None, None)
    made.created = 1_767_225_600.25
    return made


def test_text_is_dockerds() -> None:
    line = TextFormatter().format(record("cannot do it"))
    assert line == 'time="2026-01-01T00:00:00.250000000Z" level=warning msg="cannot do it" module=api'


def test_json_has_the_same_fields() -> None:
    assert json.loads(JsonFormatter().format(record("x", "wherry", logging.CRITICAL))) == {
        "time": "2026-01-01T00:00:00.250000000Z",
        "level": "fatal",
        "msg": "x",
    }


def test_no_message_makes_two_lines() -> None:
    hostile = 'a\nlevel=error msg="forged"\x1b[2J\u2028'
    for formatter in (TextFormatter(), JsonFormatter()):
        line = formatter.format(record(hostile))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line
