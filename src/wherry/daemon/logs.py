"""wherryd's log: one line a record on stderr, in dockerd's `key=value` text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_NAMES = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class _Formatter(logging.Formatter):
    def fields(self, record: logging.LogRecord) -> dict[str, str]:
        instant = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
        fields = {"time": instant, "level": _NAMES.get(record.levelno, "fatal"), "msg": record.getMessage()}
        if record.name != "wherry":
            fields["module"] = record.name.removeprefix("wherry.")
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return fields


class TextFormatter(_Formatter):
    """time="…" level=info msg="…" module=api"""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(
            f"{name}={value if name in ('level', 'module') else _quoted(value)}"
            for name, value in self.fields(record).items()
        )


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record))


def _quoted(text: str) -> str:
    """One line, whatever the text: a client's input must not forge records."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def configure(level: str, log_format: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    if level != "debug":
        logging.getLogger("asyncio").setLevel(logging.WARNING)
