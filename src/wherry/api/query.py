"""The query string and the values in it, read as strictly as Docker reads them: what is malformed is InvalidArgument in Docker's words.

Pure functions over text. Deliberately absent: form bodies; no Docker client sends them.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from wherry.errors import InvalidArgument

Values = dict[str, list[str]]

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_UNSIGNED = re.compile(r"-?[0-9]+\Z")
_TIMESTAMP = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{0,20}))?\Z")
_FALSE = frozenset({"", "0", "no", "false", "none"})


def unescape(text: str, *, plus: bool = False) -> str:
    """Percent-decoded, strictly: a lone `%` or bytes that are not UTF-8 are InvalidArgument."""
    if plus:
        text = text.replace("+", " ")
    if "%" not in text:
        return text
    bad = _BAD_ESCAPE.search(text)
    if bad is not None:
        raise InvalidArgument(f'invalid URL escape "{bad[0]}"')
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidArgument("invalid URL escape: not UTF-8") from None


def parse_query(text: str) -> Values:
    """`a=1&a=2&b` → {"a": ["1", "2"], "b": [""]}."""
    values: Values = {}
    if not text:
        return values
    if ";" in text:
        raise InvalidArgument("invalid semicolon separator in query")
    for pair in text.split("&"):
        if pair:
            key, _, value = pair.partition("=")
            values.setdefault(unescape(key, plus=True), []).append(unescape(value, plus=True))
    return values


def as_flag(text: str) -> bool:
    """Docker's reading of a boolean: everything is true but the few words for false."""
    return text.strip().lower() not in _FALSE


def as_integer(text: str) -> int:
    """A signed decimal number of 64 bits."""
    if _INTEGER.match(text) is None:
        raise InvalidArgument(f"strconv.Atoi: parsing {quote(text)}: invalid syntax")
    number = int(text) if len(text) <= 20 else 1 << 64
    if not -(1 << 63) <= number < 1 << 63:
        raise InvalidArgument(f"strconv.Atoi: parsing {quote(text)}: value out of range")
    return number


def as_dimension(text: str, what: str) -> int:
    """A number of 32 bits without sign, for the height and width of a terminal."""
    if _UNSIGNED.match(text) is None:
        raise InvalidArgument(f"invalid resize {what} {quote(text)}: invalid syntax")
    number = int(text) if len(text) <= 20 else -1
    if text.startswith("-") or not 0 <= number < 1 << 32:
        raise InvalidArgument(f"invalid resize {what} {quote(text)}: value out of range")
    return number


def as_timestamp(text: str, name: str) -> int | None:
    """Seconds since 1970 with up to nine decimal places → nanoseconds; None when empty."""
    if not text:
        return None
    match = _TIMESTAMP.match(text)
    if match is None:
        raise InvalidArgument(f"invalid value for {name}: invalid timestamp {quote(text)}")
    fraction = (match[2] or "")[:9].ljust(9, "0")
    return int(match[1]) * 1_000_000_000 + int(fraction)


def as_filters(text: str) -> dict[str, list[str]]:
    """Docker's `filters`: {"name": {"value": true}} or the older {"name": ["value"]}."""
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text.encode(), type=dict[str, dict[str, bool] | list[str]])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        raise InvalidArgument("invalid filter") from None
    return {name: list(values) for name, values in raw.items()}


def quote(text: str) -> str:
    """The text between double quotes, cut to a length that an error message can bear."""
    shown = text if len(text) <= 128 else text[:128] + "…"
    return msgspec.json.encode(shown.encode("utf-8", "replace").decode()).decode()
