"""The functions of `--format` templates, and how values are written: as Go and Docker do it."""

from __future__ import annotations

from .flags import go_quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REFUSED = frozenset(("html", "js", "urlquery", "call"))


def go_text(value: object) -> str:
    """Go's %v."""
    if value is None:
        return "<no value>"
    return _inner(value)


def _inner(value: object) -> str:
    if value is None:
        return "<nil>"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{_inner(key)}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    return str(value)


def _float(value: float) -> str:
    """The shortest form; exponents from 1e21 on."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa.removesuffix('.0')}e{power}" if exponent else text


def truth(value: object) -> bool:
    return bool(value)


def json_text(value: object) -> str:
    """Compact JSON; non-ASCII characters as they are, as Go's encoder leaves them."""
    if isinstance(value, dict):
        text = "{" + ",".join(f"{json_text(str(key))}:{json_text(item)}" for key, item in value.items()) + "}"
        if hasattr(value, "go_type"):  # a listing's row: Docker writes these as safe for HTML
            text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        return text
    if isinstance(value, list | tuple):
        return "[" + ",".join(json_text(item) for item in value) + "]"
    if isinstance(value, str):
        return _json_string(value)
    if isinstance(value, float):
        return _float(value)
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


_JSON_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _json_string(text: str) -> str:
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    parts = []
    for character in text:
        if character in _JSON_ESCAPES:
            parts.append(_JSON_ESCAPES[character])
        elif character < " " or character in "\u2028\u2029":
            parts.append(f"\\u{ord(character):04x}")
        elif "\ud800" <= character <= "\udfff":
            parts.append("\\ufffd")
        else:
            parts.append(character)
    return '"' + "".join(parts) + '"'


def pretty_json(value: object, indent: str = "    ", level: int = 0) -> str:
    """JSON over several lines, as `inspect` prints it."""
    inner, outer = indent * (level + 1), indent * level
    if isinstance(value, dict) and value:
        rows = (
            f"{inner}{_json_string(str(key))}: {pretty_json(item, indent, level + 1)}" for key, item in value.items()
        )
        return "{\n" + ",\n".join(rows) + f"\n{outer}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(inner + pretty_json(item, indent, level + 1) for item in value) + f"\n{outer}]"
    return json_text(value)


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list | tuple | str):
            if not isinstance(key, int):
                raise ValueError(f"cannot index slice/array with type {type(key).__name__}")
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = value[key]
        elif value is None:
            raise ValueError("index of untyped nil")
        else:
            raise ValueError(f"can't index item of type {type(value).__name__}")
    return value


def _slice(value: object, *bounds: int) -> object:
    if not isinstance(value, list | str):
        raise ValueError(f"can't slice item of type {type(value).__name__}")
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= start <= end <= len(value):
        raise IndexError(f"index out of range: {end}")
    return value[start:end]


def _println(*values: object) -> str:
    return " ".join(_inner(value) for value in values) + "\n"


def _print(*values: object) -> str:
    """A space between operands when neither is a string."""
    out = ""
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out += " "
        out += _inner(value)
    return out


def _printf(form: str, *values: object) -> str:
    """%v %s %d %q %t %f %g %x %% with flags, width and precision."""
    out: list[str] = []
    pending = list(values)
    position = 0
    while position < len(form):
        character = form[position]
        position += 1
        if character != "%":
            out.append(character)
            continue
        start = position
        while position < len(form) and form[position] in "+-# 0123456789.":
            position += 1
        options, verb = form[start:position], form[position : position + 1]
        position += 1
        if verb == "%":
            out.append("%")
            continue
        if not pending:
            out.append(f"%!{verb}(MISSING)")
            continue
        out.append(_verb(verb, options, pending.pop(0)))
    if pending:
        out.append("%!(EXTRA " + ", ".join(f"{type(item).__name__}={_inner(item)}" for item in pending) + ")")
    return "".join(out)


def _verb(verb: str, options: str, value: object) -> str:
    if verb in ("v", "s"):
        return str.__mod__(f"%{options}s", (_inner(value),))
    if verb == "q":
        return str.__mod__(f"%{options}s", (go_quote(_inner(value)),))
    if verb == "t":
        return str.__mod__(f"%{options}s", (_inner(value),))
    if verb in ("d", "x", "X", "o", "c", "f", "g", "e", "F", "G", "E") and isinstance(value, int | float):
        return str.__mod__(f"%{options}{verb}", (value,))
    return f"%!{verb}({type(value).__name__}={_inner(value)})"


def _eq(first: object, *others: object) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_same(first, other) for other in others)


def _same(first: object, second: object) -> bool:
    if first is None or second is None:
        return first is second
    if isinstance(first, bool) != isinstance(second, bool) or isinstance(first, str) != isinstance(second, str):
        raise ValueError("incompatible types for comparison")
    return first == second


def _order(first: object, second: object) -> int:
    if isinstance(first, str) and isinstance(second, str):
        return (first > second) - (first < second)
    if isinstance(first, int | float) and isinstance(second, int | float):
        return (first > second) - (first < second)
    raise ValueError("incompatible types for comparison")


def _truncate(text: str, length: int) -> str:
    return text if len(text) < length else text[:length]


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, list | tuple | dict):
        return len(value)
    if value is None:
        return 0
    raise ValueError(f"len of type {type(value).__name__}")


def _join(values: object, separator: str) -> str:
    if not isinstance(values, list | tuple):
        if values is None:
            return ""
        raise ValueError(f"wrong type for value; expected []string; got {type(values).__name__}")
    return separator.join(_inner(item) for item in values)


def _title(text: str) -> str:
    """The first letter of each word in upper case."""
    out, start = [], True
    for character in text:
        out.append(character.upper() if start else character)
        start = not (character.isalnum() or character in "_'")
    return "".join(out)


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "json": json_text,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "join": _join,
    "title": _title,
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": _truncate,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "not": lambda value: not truth(value),
    "eq": _eq,
    "ne": lambda first, second: not _same(first, second),
    "lt": lambda first, second: _order(first, second) < 0,
    "le": lambda first, second: _order(first, second) <= 0,
    "gt": lambda first, second: _order(first, second) > 0,
    "ge": lambda first, second: _order(first, second) >= 0,
}

HEADER_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "json": lambda value: value,
    "title": lambda value: value,
    "lower": lambda value: value,
    "upper": lambda value: value,
    "truncate": lambda value, _length: value,
    "split": lambda value, _separator: value,
    "join": lambda value, _separator: value,
    "pad": lambda value, _before, _after: value,
    "slice": lambda value, *_bounds: value,
    "index": lambda value, *_keys: value,
    "len": lambda value: value,
}
"""What functions do in the header of a `table …` format: nothing, the column keeps its name."""
