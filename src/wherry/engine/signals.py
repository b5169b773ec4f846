"""Signals by name or number, as Docker's clients send them."""

from __future__ import annotations

import signal

from wherry.engine.records import Record
from wherry.errors import InvalidArgument

_NAMES = (
    {name.removeprefix("SIG"): int(value) for name, value in signal.Signals.__members__.items()}
    | {f"RTMIN+{offset}": int(signal.SIGRTMIN) + offset for offset in range(1, 16)}
    | {f"RTMAX-{offset}": int(signal.SIGRTMAX) - offset for offset in range(1, 15)}
)


def parse(text: str) -> int:
    """ "9", "KILL", "SIGKILL", "sigkill" → 9. InvalidArgument for anything else, also 0."""
    if text.isdecimal() and len(text) < 4:
        number = int(text)
        if 0 < number < int(signal.NSIG):
            return number
    else:
        number = _NAMES.get(text.upper().removeprefix("SIG"), 0)
        if number:
            return number
    raise InvalidArgument(f"Invalid signal: {text}")


KILL = int(signal.SIGKILL)


def stop_signal(record: Record) -> int:
    """What `stop` sends: the container's --stop-signal, its image's, or SIGTERM."""
    return parse(record.config.stop_signal or "SIGTERM")
