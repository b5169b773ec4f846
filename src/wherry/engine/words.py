"""Words of Dockerfile instructions: split at spaces outside of quotes, and expanded: quotes and backslashes go, `$NAME` becomes its value. Pure.

Source: the Dockerfile reference, "Environment replacement"; dockerd 20.10 for what it leaves open. A name that is not set is empty.
Deliberately absent: pattern removal and replacement (`${NAME#x}`, `${NAME%x}`, `${NAME/x/y}`): refused, as by dockerd 20.10.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]")
_WORD = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s'"\\])+""", re.DOTALL)
MAX_DEPTH = 16


def split(text: str) -> list[str]:
    """Words as they are written. ValueError for a quote that nothing ends."""
    words, position = [], 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        matched = _WORD.match(text, position)
        if matched is None:
            raise ValueError(
                f"unexpected end of statement in {text[position:][:200]!r}: a quote or a backslash ends nowhere"
            )
        words.append(matched[0])
        position = matched.end()
    return words


def expand(word: str, values: Mapping[str, str]) -> str:
    """ValueError when it cannot be: it says why."""
    try:
        scanner = _Scanner(word, values)
        found = scanner.until("")
    except ValueError as error:
        raise ValueError(f'failed to process "{word[:200]}": {error}') from None
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
                    raise ValueError(f"unexpected end of statement while looking for {end}")
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
            raise ValueError("bad substitution")
        character = self._next()
        if character == "}":
            return self._values.get(name, "")
        with_colon = character == ":"
        modifier = self._next() if with_colon else character
        if modifier not in ("-", "+", "?") or not modifier:
            raise ValueError(
                f"unsupported modifier ({modifier}) in substitution" if modifier else "missing '}' in substitution"
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
            raise ValueError(f"{name}: {word or 'not set'}")
        return self._values[name] if is_set else word
