"""Docker's two ways to write a time: RFC 3339 with nanoseconds, and "3 minutes ago"."""

from __future__ import annotations

import time

from wherry.errors import InvalidArgument

ZERO = "0001-01-01T00:00:00Z"
"""How Go prints a time that never was; clients compare with it."""


def rfc3339_nano(ns: int) -> str:
    """Unix nanoseconds as Go's RFC3339Nano in UTC; 0 is Go's zero time. Trailing zeros of the fraction are cut, as Go does."""
    if ns == 0:
        return ZERO
    seconds, fraction = divmod(ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def parse_rfc3339_nano(text: str) -> int:
    """The inverse, for times that wherry or Docker wrote (UTC or with an offset). ValueError otherwise."""
    from calendar import timegm

    base, rest = text[:19], text[19:]
    seconds = timegm(time.strptime(base, "%Y-%m-%dT%H:%M:%S"))
    nanoseconds = 0
    if rest.startswith("."):
        end = 1
        while end < len(rest) and rest[end].isdigit():
            end += 1
        nanoseconds = int(rest[1:end][:9].ljust(9, "0"))
        rest = rest[end:]
    if rest not in ("Z", "z", ""):
        sign = {"+": 1, "-": -1}.get(rest[:1])
        if sign is None or len(rest) != 6 or rest[3] != ":":
            raise ValueError(f"not a time: {text!r}")
        seconds -= sign * (int(rest[1:3]) * 3600 + int(rest[4:6]) * 60)
    return seconds * 1_000_000_000 + nanoseconds


def human_duration(seconds: float) -> str:
    """go-units' HumanDuration: "Less than a second", "5 seconds", "About a minute", "3 hours", "2 weeks" …"""
    whole = int(seconds)
    minutes, hours = whole // 60, int(whole / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{whole // 3600 // 24 // 365} years"


def parse_timestamp(text: str, *, now_ns: int) -> int:
    """A client's `since`/`until`: unix seconds with an optional fraction, RFC 3339, or a duration before now ("10m")."""
    try:
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 1_000_000_000 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
    except ValueError:
        pass
    try:
        return parse_rfc3339_nano(text)
    except ValueError:
        pass
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    total, number = 0.0, ""
    for character in text:
        if character.isdigit() or character == ".":
            number += character
        elif character in units and number:
            total += float(number) * units[character]
            number = ""
        else:
            raise InvalidArgument(f'failed to parse value as time or duration: "{text}"')
    if number or not text:
        raise InvalidArgument(f'failed to parse value as time or duration: "{text}"')
    return now_ns - int(total * 1e9)
