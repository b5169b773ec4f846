"""Flags: declared in a table per verb, parsed with the meaning that Docker's users know (GNU long and short options, `-it`, `-e=x`, `--flag=false`).

Errors have the words of Docker's parser, because scripts and people know them. A value is checked when it is parsed: the error names its flag.
A flag that Docker has and wherry does not carry out is declared `refused`: giving it is an error that names it, never silence.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_INT_RANGES = {
    "int": (-(1 << 63), (1 << 63) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint64": (0, (1 << 64) - 1),
}
REPEATABLE = frozenset(("list", "map", "filter", "strings", "mount", "ulimit", "network"))


class FlagError(InvalidArgument):
    """The command line is not understood. The text is Docker's."""


class Flag:
    """One flag. `kind` says what a value is and how `--help` calls it; `check` (value → value, ValueError) looks at each value given.

    Kinds: bool, string, int, uint16, uint64, bytes (`512m`), decimal (CPUs, kept in units of 1e-9), duration (nanoseconds), list and the named
    kinds of list, map (`key=value`, a dictionary), filter (name → values), strings (comma-separated, repeatable).
    """

    __slots__ = ("check", "default", "help", "hidden", "kind", "name", "refused", "short")

    def __init__(
        self,
        name: str,
        kind: str = "bool",
        help: str = "",
        *,
        short: str = "",
        default: object = None,
        check: Callable[[Any], object] | None = None,
        refused: str = "",
        hidden: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.short = short
        self.default = default
        self.check = check
        self.refused = refused
        self.hidden = hidden

    def shown(self) -> str:
        """How error texts name it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    def initial(self) -> Any:
        if self.kind in ("map", "filter"):
            return {}
        if self.kind in REPEATABLE:
            return []
        if self.default is not None:
            return self.default
        return {"bool": False, "string": ""}.get(self.kind, 0)


class Flags:
    """The values of one command line. A flag that was not given has its default."""

    __slots__ = ("_given", "_values")

    def __init__(self, table: Iterable[Flag]) -> None:
        self._values: dict[str, Any] = {flag.name: flag.initial() for flag in table}
        self._given: set[str] = set()

    def set(self, flag: Flag, text: str) -> None:
        """Takes one occurrence. FlagError with Docker's words when the value is wrong."""
        if flag.refused:
            raise FlagError(f"--{flag.name} is not supported by wherry: {flag.refused}")
        try:
            value = convert(flag.kind, text)
            if flag.check is not None:
                value = flag.check(value)
        except (ValueError, InvalidArgument) as error:
            raise FlagError(f"invalid argument {go_quote(text)} for {go_quote(flag.shown())} flag: {error}") from None
        current = self._values[flag.name]
        if flag.kind == "map":
            current[value[0]] = value[1]
        elif flag.kind == "filter":
            if value:
                current.setdefault(value[0], []).append(value[1])
        elif flag.kind == "strings":
            current.extend(value)
        elif flag.kind in REPEATABLE:
            current.append(value)
        else:
            self._values[flag.name] = value
        self._given.add(flag.name)

    def given(self, name: str) -> bool:
        """Whether the command line has it."""
        return name in self._given

    def on(self, name: str) -> bool:
        return bool(self._values[name])

    def text(self, name: str) -> str:
        value = self._values[name]
        return value if isinstance(value, str) else str(value)

    def number(self, name: str) -> int:
        return int(self._values[name])

    def items(self, name: str) -> list[Any]:
        value: list[Any] = self._values[name]
        return value

    def value(self, name: str) -> Any:
        """As its kind is kept; for tables that pass values on."""
        return self._values[name]

    def mapping(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self._values[name]
        return value


def convert(kind: str, text: str) -> Any:
    """The value that `text` means for a flag of this kind. ValueError with the words that follow "flag: "."""
    if kind == "bool":
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise ValueError(f"strconv.ParseBool: parsing {go_quote(text)}: invalid syntax")
    if kind in _INT_RANGES:
        return _integer(text, *_INT_RANGES[kind], signed=kind == "int")
    if kind == "bytes":
        from .units import parse_bytes

        return parse_bytes(text)
    if kind == "decimal":
        from .units import parse_cpus

        return parse_cpus(text)
    if kind == "duration":
        from .units import parse_duration

        return parse_duration(text)
    if kind == "map":
        key, _, value = text.partition("=")
        return key, value
    if kind == "filter":
        return _filter(text)
    if kind == "strings":
        return [part for part in text.split(",") if part]
    return text


def _integer(text: str, low: int, high: int, *, signed: bool) -> int:
    function = "ParseInt" if signed else "ParseUint"
    try:
        plain = text.lstrip("+-")
        octal = len(plain) > 1 and plain.isdigit() and plain[0] == "0"
        value = int(text, 8 if octal else 0)
        if text != text.strip():
            raise ValueError
    except ValueError:
        raise ValueError(f"strconv.{function}: parsing {go_quote(text)}: invalid syntax") from None
    if not signed and text.startswith("-"):
        raise ValueError(f"strconv.{function}: parsing {go_quote(text)}: invalid syntax")
    if not low <= value <= high:
        raise ValueError(f"strconv.{function}: parsing {go_quote(text)}: value out of range")
    return value


def _filter(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError("bad format of filter (expected name=value)")
    return name.strip().lower(), value.strip()


def parse(
    table: Sequence[Flag], arguments: Sequence[str], *, interspersed: bool = True
) -> tuple[Flags, list[str], bool]:
    """(values, what is left, whether help is asked for). Without `interspersed` the first word that is no flag ends the flags."""
    long = {flag.name: flag for flag in table}
    short = {flag.short: flag for flag in table if flag.short}
    values = Flags(table)
    rest: list[str] = []
    pending = iter(arguments)
    for word in pending:
        if word == "--":
            rest.extend(pending)
            break
        if word.startswith("--"):
            if _parse_long(word, long, values, pending):
                return values, rest, True
        elif word.startswith("-") and word != "-":
            if _parse_short(word, short, values, pending):
                return values, rest, True
        else:
            rest.append(word)
            if not interspersed:
                rest.extend(pending)
                break
    return values, rest, False


def _parse_long(word: str, long: dict[str, Flag], values: Flags, pending: Iterable[str]) -> bool:
    name, separator, text = word[2:].partition("=")
    if not name or name.startswith("-"):
        raise FlagError(f"bad flag syntax: {word}")
    flag = long.get(name)
    if flag is None:
        if name == "help":
            return True
        raise FlagError(f"unknown flag: --{name}")
    if separator:
        values.set(flag, text)
    elif flag.kind == "bool":
        values.set(flag, "true")
    else:
        for text in pending:
            values.set(flag, text)
            break
        else:
            raise FlagError(f"flag needs an argument: --{name}")
    return False


def _parse_short(word: str, short: dict[str, Flag], values: Flags, pending: Iterable[str]) -> bool:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = short.get(letter)
        if flag is None:
            if letter == "h":
                return True
            raise FlagError(f"unknown shorthand flag: {letter!r} in {word}")
        if letters.startswith("="):
            values.set(flag, letters[1:])
            return False
        if flag.kind == "bool":
            values.set(flag, "true")
        elif letters:
            values.set(flag, letters)
            return False
        else:
            for text in pending:
                values.set(flag, text)
                break
            else:
                raise FlagError(f"flag needs an argument: {letter!r} in {word}")
    return False


def go_quote(text: str) -> str:
    """A string the way Go's %q writes it, which is how Docker's error texts quote."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    escapes = {
        '"': '\\"',
        "\\": "\\\\",
        "\n": "\\n",
        "\t": "\\t",
        "\r": "\\r",
        "\a": "\\a",
        "\b": "\\b",
        "\f": "\\f",
        "\v": "\\v",
    }
    parts = []
    for character in text:
        if character in escapes:
            parts.append(escapes[character])
        elif character.isprintable():
            parts.append(character)
        elif "\udc80" <= character <= "\udcff":
            parts.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif ord(character) < 0x80:
            parts.append(f"\\x{ord(character):02x}")
        elif ord(character) < 0x10000:
            parts.append(f"\\u{ord(character):04x}")
        else:
            parts.append(f"\\U{ord(character):08x}")
    return '"' + "".join(parts) + '"'
