"""JSON for processes that start on a hot path: the standard library's C scanner without the modules around it.

`import json` costs several milliseconds of interpreter start (it pulls in `re` and `enum`); the C accelerator `_json`
alone costs none. Used by the zygote, the shim, and the runtime. Output is ASCII; input is UTF-8. Falls back to `json`
on an interpreter without the accelerator.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_WHITESPACE = " \t\n\r"

try:
    from _json import encode_basestring
    from _json import encode_basestring_ascii as _quote
    from _json import make_scanner as _make_scanner

    class _Context:
        """The attributes that the C scanner reads from its owner."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        memo: dict[str, str] = {}  # noqa: RUF012 - the scanner's own cache of keys

        @staticmethod
        def parse_constant(name: str) -> object:
            raise ValueError(f"{name} is not JSON")

    _scan = _make_scanner(_Context())  # type: ignore[arg-type]

    def loads(data: bytes | str) -> object:
        """The value that `data` encodes. ValueError when it is not exactly one JSON value (RFC 8259; no NaN or
        Infinity).
        """
        text = data if isinstance(data, str) else str(data, "utf-8")
        start = len(text) - len(text.lstrip(_WHITESPACE))
        try:
            value, end = _scan(text, start)
        except StopIteration as error:
            raise ValueError(f"no JSON value at character {error.value}") from None
        except SystemError:  # the scanner words its errors with json.decoder, which is not there until now
            import json

            return json.loads(text)
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None
        if text[end:].strip(_WHITESPACE):
            raise ValueError(f"more than one JSON value: character {end}")
        return value

    def dumps(value: object) -> bytes:
        """Compact JSON of None, bool, int, float, str, list, tuple and dict with string keys. TypeError for anything
        else.
        """
        parts: list[str] = []
        _encode(value, parts.append)
        return "".join(parts).encode("ascii")

    def _encode(value: object, write: Callable[[str], None]) -> None:
        if isinstance(value, str):
            write(_quote(value))
        elif value is None:
            write("null")
        elif value is True:
            write("true")
        elif value is False:
            write("false")
        elif isinstance(value, int):
            write(int.__repr__(value))
        elif isinstance(value, float):
            if value != value or value in (float("inf"), float("-inf")):
                raise ValueError("NaN and infinity are not JSON")
            write(float.__repr__(value))
        elif isinstance(value, dict):
            separator = "{"
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"JSON keys are strings, not {type(key).__name__}")
                write(f"{separator}{_quote(key)}:")
                _encode(item, write)
                separator = ","
            write("}" if value else "{}")
        elif isinstance(value, list | tuple):
            separator = "["
            for item in value:
                write(separator)
                _encode(item, write)
                separator = ","
            write("]" if value else "[]")
        else:
            raise TypeError(f"{type(value).__name__} has no JSON form")

except ImportError:  # an interpreter without the C accelerator
    import json
    from json.encoder import encode_basestring

    def _refuse_constant(name: str) -> object:
        raise ValueError(f"{name} is not JSON")

    def loads(data: bytes | str) -> object:
        text = data if isinstance(data, str) else str(data, "utf-8")
        return json.loads(text, parse_constant=_refuse_constant)

    def dumps(value: object) -> bytes:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def quote(text: str) -> str:
    """`text` as a JSON string, in quotes; beyond ASCII it stays as it is."""
    return encode_basestring(text)
