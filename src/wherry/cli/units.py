"""Sizes, durations, CPUs and times: as Docker's users type them and as they read them."""

from __future__ import annotations

import time

_BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DECIMAL_NAMES = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY_NAMES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_DURATION_UNITS = (  # longest names first: "ms" before "m"
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
)
SECOND = 1_000_000_000


# -- sizes -----------------------------------------------------------------------------------------------------------------------------------


def parse_bytes(text: str) -> int:
    """ "512m", "1.5GiB", "-1" → bytes; powers of 1024. ValueError with Docker's words."""
    if text == "-1":  # --memory-swap: without limit
        return -1
    end = max((text.rfind(character) for character in "0123456789. "), default=-1)
    if end < 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = text[: end + 1].rstrip(" "), text[end + 1 :].lower()
    try:
        if number != number.strip() or "_" in number:
            raise ValueError
        size = float(number)
    except ValueError:
        from .flags import go_quote

        raise ValueError(f"strconv.ParseFloat: parsing {go_quote(number)}: invalid syntax") from None
    if size < 0 or size != size:
        raise ValueError(f"invalid size: '{text}'")
    if suffix in ("", "b"):
        return int(size)
    unit = _BINARY.get(suffix[0])
    if unit is None or suffix[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(size * unit)


def _general(value: float, digits: int) -> str:
    """C's and Go's %.{digits}g. Python's has the same rule, but writes exponents with two digits as Go does."""
    return f"{value:.{digits}g}"


def decimal_size(size: float, digits: int = 4) -> str:
    """Powers of 1000: "4.26MB"."""
    index = 0
    while size >= 1000 and index < len(_DECIMAL_NAMES) - 1:
        size /= 1000
        index += 1
    return _general(size, digits) + _DECIMAL_NAMES[index]


def binary_size(size: float) -> str:
    """Powers of 1024: "7.75GiB"."""
    index = 0
    while size >= 1024 and index < len(_BINARY_NAMES) - 1:
        size /= 1024
        index += 1
    return _general(size, 4) + _BINARY_NAMES[index]


def parse_cpus(text: str) -> int:
    """ "1.5" or "3/2" → CPUs in units of 1e-9."""
    problem = f"failed to parse {text} as a rational number"
    try:
        if any(character not in "0123456789.+-/eE" for character in text):
            raise ValueError
        top, slash, bottom = text.partition("/")
        numerator, scale = _exact(top)
        denominator, under = (int(bottom), 1) if slash else (1, 1)
        if slash and (not bottom or scale != 1):
            raise ValueError
        value = numerator * 1_000_000_000 * under
        divisor = scale * denominator
        if divisor == 0:
            raise ValueError
    except ValueError:
        raise ValueError(problem) from None
    if value % divisor:
        raise ValueError("value is too precise")
    return value // divisor


def _exact(text: str) -> tuple[int, int]:
    """A decimal number as (numerator, denominator)."""
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    power = int(exponent) if exponent else 0
    if abs(power) > 64 or ("e" in text.lower() and not exponent):
        raise ValueError
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    if not digits.strip("+-"):
        raise ValueError
    power -= len(fraction)
    value = int(digits)
    return (value * 10**power, 1) if power >= 0 else (value, 10**-power)


# -- durations -------------------------------------------------------------------------------------------------------------------------------


def parse_duration(text: str) -> int:
    """Go's durations: "1h30m", "1.5s", "250ms", "0" → nanoseconds. ValueError with Go's words."""
    from .flags import go_quote

    rest = text
    sign = 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"time: invalid duration {go_quote(text)}")
    total = 0
    while rest:
        length = 0
        while length < len(rest) and rest[length] in "0123456789.":
            length += 1
        number, rest = rest[:length], rest[length:]
        whole, _, fraction = number.partition(".")
        if not (whole or fraction) or "." in fraction:
            raise ValueError(f"time: invalid duration {go_quote(text)}")
        unit_length = 0
        while unit_length < len(rest) and rest[unit_length] not in "0123456789.":
            unit_length += 1
        name, rest = rest[:unit_length], rest[unit_length:]
        unit = dict(_DURATION_UNITS).get(name)
        if not name:
            raise ValueError(f"time: missing unit in duration {go_quote(text)}")
        if unit is None:
            raise ValueError(f"time: unknown unit {go_quote(name)} in duration {go_quote(text)}")
        total += int(whole or 0) * unit + int(int(fraction or 0) * unit // 10 ** len(fraction))
    if total > (1 << 63) - 1:
        raise ValueError(f"time: invalid duration {go_quote(text)}")
    return sign * total


def human_duration(seconds: float) -> str:
    """ "3 minutes", "About an hour" …; what `ps` and `images` say."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
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
    return f"{int(seconds / 3600) // 24 // 365} years"


# -- times -----------------------------------------------------------------------------------------------------------------------------------


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar."""
    year -= month <= 2
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


def parse_rfc3339(text: str, *, local: bool = False) -> int:
    """Unix nanoseconds of "2026-01-02T03:04:05.123456789Z", with Docker's shorter forms ("2026-01-02", "2026-01-02T03:04"). ValueError.

    A time without a zone is UTC, or local time if `local`.
    """
    date, _, clock = text.replace("t", "T").partition("T")
    year, month, day = (int(part) for part in date.split("-"))
    if not (1 <= month <= 12 and 1 <= day <= 31 and len(date) == 10):
        raise ValueError(text)
    zone, nanoseconds, hour, minute, second = "", 0, 0, 0, 0
    for mark in ("Z", "z", "+", "-"):
        if mark in clock:
            clock, zone = clock[: clock.index(mark)], clock[clock.index(mark) :]
            break
    if clock:
        clock, _, fraction = clock.partition(".")
        if fraction:
            nanoseconds = int(fraction.ljust(9, "0")[:9])
        parts = [int(part) for part in clock.split(":")]
        if len(parts) > 3 or not all(0 <= part < 61 for part in parts):
            raise ValueError(text)
        hour, minute, second = (parts + [0, 0])[:3]
    seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    if zone in ("Z", "z"):
        pass
    elif zone:
        hours, _, minutes = zone[1:].partition(":")
        seconds -= (int(hours) * 3600 + int(minutes or 0) * 60) * (1 if zone[0] == "+" else -1)
    elif local:
        seconds = int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    return seconds * SECOND + nanoseconds


def timestamp(text: str, now_ns: int | None = None) -> str:
    """What `--since` and `--until` mean, for the engine: "42m", RFC 3339 or unix seconds → "seconds.nanoseconds". ValueError."""
    now = time.time_ns() if now_ns is None else now_ns
    try:
        return _seconds(now - parse_duration(text))
    except ValueError:
        pass
    if "-" in text:
        try:
            return _seconds(parse_rfc3339(text, local=True))
        except ValueError:
            pass
    whole, _, fraction = text.partition(".")
    if not whole.lstrip("-").isdigit() or (fraction and not fraction.isdigit()):
        from .flags import go_quote

        raise ValueError(f"failed to parse value as time or duration: {go_quote(text)}")
    return text


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // SECOND}.{nanoseconds % SECOND:09d}"


def local_time(unix_ns: int, *, fraction: bool = True) -> str:
    """RFC 3339 in the local zone: "2026-01-02T03:04:05.123456789+01:00"."""
    broken = time.localtime(unix_ns // SECOND)
    offset = broken.tm_gmtoff
    sign = "+" if offset >= 0 else "-"
    zone = f"{sign}{abs(offset) // 3600:02d}:{abs(offset) // 60 % 60:02d}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", broken) + (f".{unix_ns % SECOND:09d}" if fraction else "") + zone


def created_at(unix_seconds: int) -> str:
    """The `.CreatedAt` of Docker's templates: "2026-01-02 03:04:05 +0000 UTC"."""
    broken = time.localtime(unix_seconds)
    offset = broken.tm_gmtoff
    sign = "+" if offset >= 0 else "-"
    zone = f"{sign}{abs(offset) // 3600:02d}{abs(offset) // 60 % 60:02d} {broken.tm_zone}"
    return time.strftime("%Y-%m-%d %H:%M:%S ", broken) + zone


def go_time(text: str) -> str:
    """An RFC 3339 time as Go prints one: "2026-01-02 03:04:05.0006 +0000 UTC"; no zeros at the end of a second's fraction."""
    date, _, clock = text.partition("T")
    for sign in "+-":
        clock, found, zone = clock.partition(sign)
        if found:
            zone = sign + zone.replace(":", "")
            zone = f"{zone} {zone}"
            break
    else:
        clock, zone = clock.removesuffix("Z"), "+0000 UTC"
    if "." in clock:
        clock = clock.rstrip("0").rstrip(".")
    return f"{date} {clock} {zone}" if date else text


def ago(unix_seconds: float, now: float | None = None) -> str:
    """ "3 minutes ago"."""
    return human_duration((time.time() if now is None else now) - unix_seconds) + " ago"
