"""Words of Dockerfile instructions: split at spaces outside of quotes, and expanded: quotes and backslashes go, `$NAME` becomes its value. Pure.

Source: the Dockerfile reference, "Environment replacement"; dockerd 20.10 for what it leaves open. A name that is not set is empty.
Deliberately absent: pattern removal and replacement (`${NAME#x}`, `${NAME%x}`, `${NAME/x/y}`): refused, as by dockerd 20.10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from wherry.wire import fastjson

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]")
_WORD = re.compile(r"""(?:\\.|'[^']*(?:'|\Z)|"(?:\\.|[^"\\])*(?:"|(?=\\?\Z))|[^\s'"\\])+""", re.DOTALL)
_FLAG = re.compile(
    r"""\s*(--(?:\\.|'(?:\\.|[^'\\])*+(?:'|(?=\\?\Z))|"(?:\\.|[^"\\])*+(?:"|(?=\\?\Z))|[^\s'"\\])*+)(?:\\\Z)?""",
    re.DOTALL,
)
MAX_DEPTH = 16


def split(text: str) -> list[str]:
    """Words as they are written. A quote that nothing ends goes on to the end; a backslash there is dropped."""
    return _WORD.findall(text)


def flags(text: str) -> tuple[tuple[str, ...], str]:
    """The words beginning with "--" that come first, without their quotes, and what follows them or a "--" alone."""
    found, position = [], 0
    while matched := _FLAG.match(text, position):
        position = matched.end()
        if matched[1] == "--":
            break
        found.append(re.sub(r"""\\(.)|['"]""", r"\1", matched[1], flags=re.DOTALL))
    return tuple(found), text[position:]


def quote(text: str) -> str:
    """As Go's %q, near enough for a message."""
    return fastjson.quote(text[:200])


def expand(word: str, values: Mapping[str, str]) -> str:
    """ValueError when it cannot be: it says why."""
    try:
        scanner = _Scanner(word, values)
        found = scanner.until("")
    except ValueError as error:
        raise ValueError(f"failed to process {quote(word)}: {error}") from None
    return found


class _Scanner:
    def __init__(self, text: str, values: Mapping[str, str]) -> None:
        self._text = text
        self._values = values
        self._at = 0
        self._depth = 0

    def _next(self) -> str:
        """One character; "" at the end."""
        character = self._text[self._at : self._at + 1]
        self._at += 1
        return character

    def until(self, end: str) -> str:
        """What comes before `end` ("": all), which is passed over."""
        out: list[str] = []
        while (character := self._next()) != end:
            match character:
                case "":
                    raise ValueError("syntax error: missing '}'")
                case "'":
                    out.append(self._single())
                case '"':
                    out.append(self._double())
                case "\\":
                    out.append(self._next())
                case "$":
                    out.append(self._value())
                case _:
                    out.append(character)
        return "".join(out)

    def _single(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise ValueError("unexpected end of statement while looking for matching single-quote")
        found, self._at = self._text[self._at : end], end + 1
        return found

    def _double(self) -> str:
        out: list[str] = []
        while (character := self._next()) != '"':
            match character:
                case "":
                    raise ValueError("unexpected end of statement while looking for matching double-quote")
                case "$":
                    out.append(self._value())
                case "\\":
                    escaped = self._next()
                    out.append(escaped if escaped in ('"', "$", "\\") else f"\\{escaped}")
                case _:
                    out.append(character)
        return "".join(out)

    def _name(self) -> str:
        matched = _NAME.match(self._text, self._at)
        if matched is None:
            return ""
        self._at = matched.end()
        return matched[0]

    def _value(self) -> str:
        """After "$"."""
        if self._text[self._at : self._at + 1] != "{":
            name = self._name()
            return self._values.get(name, "") if name else "$"
        self._at += 1
        name = self._name()
        if not name:
            raise ValueError("syntax error: bad substitution")
        character = self._next()
        if character == "}":
            return self._values.get(name, "")
        with_colon = character == ":"
        modifier = self._next() if with_colon else character
        if modifier not in ("-", "+", "?") or not modifier:
            raise ValueError(
                f"unsupported modifier ({modifier}) in substitution" if modifier else "syntax error: missing '}'"
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError("substitutions are nested too deep")
        word = self.until("}")
        self._depth -= 1
        is_set = bool(self._values.get(name)) if with_colon else name in self._values
        if modifier == "+":
            return word if is_set else ""
        if not is_set and modifier == "?":
            raise ValueError(
                f"{name}: {word or 'is not allowed to be ' + ('unset' if name not in self._values else 'empty')}"
            )
        return self._values[name] if is_set else word
