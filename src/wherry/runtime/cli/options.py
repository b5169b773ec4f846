"""Options by hand: a table per verb, parsed as runc's own parser does, printed as help.

One or two dashes before any name, "-name value" or "-name=value", a switch is on by being there or says "=false". They
may come after arguments ("update web --memory 64m"), but where the arguments are a command with options of its own.
"""

from __future__ import annotations

import os

from wherry import errors
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

DEFAULT_ROOT = "/run/wherry-runc"
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def default_root() -> str:
    """Where containers' state lies without --root: for a user, or root in a user namespace who is no user called so, in his
    own directory.
    """
    own = os.getenv("XDG_RUNTIME_DIR")
    if own and (os.geteuid() != 0 or (_in_user_namespace() and os.getenv("USER") != "root")):
        return f"{own}/wherry-runc"
    return DEFAULT_ROOT


def _in_user_namespace() -> bool:
    from wherry.linux import namespaces

    return namespaces.in_user_namespace()


class Option:
    """One option. `kind`: "text", "switch", "number" (a whole number, also negative), "many" (may be repeated),
    "refused" (named, but not done: `about` says why).
    """

    __slots__ = ("about", "default", "kind", "name", "short")

    def __init__(self, name: str, about: str, *, short: str = "", kind: str = "text", default: Any = None) -> None:
        self.name = name
        self.about = about
        self.short = short
        self.kind = kind
        self.default = default

    def initial(self) -> Any:
        if self.default is None:
            return {"switch": False, "many": [], "text": "", "refused": ""}.get(self.kind)
        return self.default


HELP = Option("help", "show help", short="h", kind="switch")


def parse(
    table: Sequence[Option], words: list[str], *, mixed: bool = False, given: dict[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """({option's name: value}, the other words). Options end at "--", and unless `mixed` at the first word that is
    none. `given`: values that stay where an option is not there. InvalidArgument for an unknown option or a bad value, NotImplemented for a
    refused one.
    """
    values = {option.name: option.initial() for option in (*table, HELP)} | (given or {})
    known = {name: option for option in (*table, HELP) for name in (option.name, option.short) if name}
    at = 0
    arguments: list[str] = []
    while at < len(words):
        word = words[at]
        if len(word) < 2 or word[0] != "-":
            if not mixed:
                break
            arguments.append(word)
            at += 1
            continue
        at += 1
        if word == "--":
            break
        name, has_value, value = word.lstrip("-").partition("=")
        option = known.get(name)
        if option is None or word.startswith("---"):
            raise InvalidArgument(f"flag provided but not defined: -{name}")
        if option.kind == "switch":
            values[option.name] = _switch(name, value) if has_value else True
            continue
        if option.kind == "refused" and option.default is False:  # a switch that is not done
            if not has_value or _switch(name, value):
                raise errors.NotImplemented(f"--{option.name} is not supported: {option.about}")
            continue
        if not has_value:
            if at == len(words):
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = words[at]
            at += 1
        if option.kind == "refused":
            raise errors.NotImplemented(f"--{option.name} is not supported: {option.about}")
        if option.kind == "many":
            values[option.name] = [*values[option.name], value]
        elif option.kind == "number":
            values[option.name] = _number(name, value)
        else:
            values[option.name] = value
    return values, arguments + words[at:]


def _switch(name: str, value: str) -> bool:
    if value not in _TRUE + _FALSE:
        raise InvalidArgument(f"invalid boolean value {value!r} for -{name}")
    return value in _TRUE


def true_or_false(name: str, value: str, *, other: Sequence[str]) -> bool | None:
    """A switch that may also be one of `other`: None then."""
    return None if value in other else _switch(name, value)


def _number(name: str, value: str) -> int:
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise InvalidArgument(f"invalid value {value!r} for flag -{name}: not a whole number")
    return int(value)


def size(name: str, value: str) -> int:
    """Bytes of "512", "64m", "1.5GiB"; -1 is unlimited (Docker's RAMInBytes: powers of 1024)."""
    text = value.strip().lower()
    if text == "-1":
        return -1
    number = text.rstrip("bikmgtp ")
    unit = text[len(number) :].strip().removesuffix("b").removesuffix("i")
    if unit not in ("", "k", "m", "g", "t", "p") or not number.replace(".", "", 1).isdigit() or not number.isascii():
        raise InvalidArgument(f"invalid value for {name}: invalid size: {value!r}")
    return int(float(number) * 1024 ** ("", "k", "m", "g", "t", "p").index(unit)) if "." in number else int(number) * 1024 ** (
        "", "k", "m", "g", "t", "p").index(unit)  # fmt: skip


class UsageError(InvalidArgument):
    """Not this many arguments: exit status 1, also from `exec`."""


def expect(arguments: list[str], low: int, high: int | None, usage: str) -> None:
    """UsageError with the verb's usage unless the number of arguments is right; no upper bound for None."""
    if len(arguments) < low or (high is not None and len(arguments) > high):
        wanted = f"exactly {low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        raise UsageError(f"{wanted} argument(s) needed, {len(arguments)} given; usage: wherry-runc {usage}")


def describe(table: Sequence[Option]) -> str:
    """The lines of a table for help."""
    rows = []
    for option in (*table, HELP):
        left = f"--{option.name}" + ("" if option.kind == "switch" or option.default is False else " value")
        if option.short:
            left += f", -{option.short}" + ("" if option.kind == "switch" or option.default is False else " value")
        about = f"(not supported) {option.about}" if option.kind == "refused" else option.about
        if option.default not in (None, False, ""):
            about += f" (default: {option.default})"
        rows.append((left, about))
    width = max(len(left) for left, _ in rows)
    return "".join(f"   {left:<{width}}  {about}\n" for left, about in rows)
