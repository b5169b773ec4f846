"""Templates of `--format` read: text and actions, tokens, and the tree that `template` carries out. Sans effects.

Nodes are tuples: ("text", s), ("print", pipe), ("set", operator, name, pipe), ("if" or "with", pipe, body, else),
("range", names, pipe, body, else), ("break",), ("continue",); a pipe is ("pipe", commands) or ("assign", name, pipe); a
command ("command", operands, line). Operands carry the place that Go's error texts name.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

from .template_functions import FUNCTIONS, REFUSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]


class TemplateError(InvalidArgument):
    """A template that cannot be parsed or carried out; the text is that of Go's package where there is one."""


# -- lexing ----------------------------------------------------------------------------------------------------------------------------------

_NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_NAME = _NAME_START | frozenset("0123456789")
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "0": "\0",
}


def _split(source: str) -> list[tuple[str, str, int, int]]:
    """[("text" | "action", content, line, column)], white space trimmed at {{- and -}}."""
    pieces: list[tuple[str, str, int, int]] = []
    position, line, trim_next = 0, 1, False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        shown = text.lstrip(" \t\r\n") if trim_next else text
        trim_next = False
        if start < 0:
            pieces.append(("text", shown, line, 0))
            return pieces
        body = start + 2
        if source[body : body + 1] == "-" and source[body + 1 : body + 2].isspace():
            shown = shown.rstrip(" \t\r\n")
            body += 2
        pieces.append(("text", shown, line, 0))
        line += text.count("\n")
        end = _action_end(source, body, line)
        content = source[body:end]
        position = end + 2
        if content.endswith("-") and content[-2:-1].isspace():
            content, trim_next = content[:-1], True
        if not content.strip().startswith("/*"):
            column = body + len(content) - len(content.lstrip()) - (source.rfind("\n", 0, body) + 1)
            pieces.append(("action", content.strip(), line, column))
        line += source[start:position].count("\n")


def _action_end(source: str, position: int, line: int) -> int:
    if source[position:].lstrip().startswith("/*"):
        end = source.find("*/", position)
        end = source.find("}}", end) if end >= 0 else -1
    else:
        end, quote = position, ""
        while end < len(source):
            character = source[end]
            if quote:
                if character == "\\" and quote == '"':
                    end += 1
                elif character == quote:
                    quote = ""
            elif character in '"`':
                quote = character
            elif source.startswith("}}", end):
                break
            end += 1
        else:
            end = -1
    if end < 0:
        raise TemplateError(f"template: :{line}: unclosed action")
    return end


def _tokens(text: str, line: int) -> list[tuple[str, Any, int]]:
    """[(kind, value, offset)]: field, variable, name, string, number, and punctuation as its own kind."""
    found: list[tuple[str, Any, int]] = []
    position = 0
    while position < len(text):
        character = text[position]
        start = position
        if character.isspace():
            position += 1
            found.append(("space", " ", start))
        elif character in '"`':
            value, position = _string(text, position, line)
            found.append(("string", value, start))
        elif character == "." or character == "$":
            position += 1
            while position < len(text) and text[position] in _NAME:
                position += 1
            if character == "." and start + 1 < len(text) and text[start + 1].isdigit():
                raise TemplateError(f"template: :{line}: bad number syntax: {text[start:position]!r}")
            found.append(("field" if character == "." else "variable", text[start + 1 : position], start))
        elif character in _NAME_START:
            while position < len(text) and text[position] in _NAME:
                position += 1
            found.append(("name", text[start:position], start))
        elif character.isdigit() or (character in "+-" and text[start + 1 : start + 2].isdigit()):
            position += 1
            while position < len(text) and (text[position] in _NAME or text[position] == "."):
                position += 1
            found.append(("number", _number(text[start:position], line), start))
        elif text.startswith(":=", position):
            position += 2
            found.append((":=", ":=", start))
        elif character in "|(),=":
            position += 1
            found.append((character, character, start))
        else:
            raise TemplateError(f"template: :{line}: unexpected {character!r} in command")
    return found


def _string(text: str, position: int, line: int) -> tuple[str, int]:
    quote = text[position]
    end = position + 1
    parts: list[str] = []
    while end < len(text) and text[end] != quote:
        if text[end] == "\\" and quote == '"':
            end += 1
            if text[end : end + 1] not in _ESCAPES:
                raise TemplateError(f"template: :{line}: invalid escape in string constant")
            parts.append(_ESCAPES[text[end]])
        else:
            parts.append(text[end])
        end += 1
    if end >= len(text):
        raise TemplateError(f"template: :{line}: unterminated quoted string")
    return "".join(parts), end + 1


def _number(text: str, line: int) -> int | float:
    try:
        return int(text, 0)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise TemplateError(f"template: :{line}: bad number syntax: {text!r}") from None


# -- parsing ---------------------------------------------------------------------------------------------------------------------------------


class Parser:
    """Builds the tree of one template. TemplateError when it is none, or uses what is not supported."""

    def __init__(self, source: str) -> None:
        self._pieces = _split(source)
        self._position = 0
        self._column = 0  # of the action that is being parsed
        self._action = ""

    def parse(self) -> list[Node]:
        body, end = self._block()
        if end:
            raise TemplateError(f"template: :{self._line()}: unexpected {{{{{end}}}}}")
        return body

    def _line(self) -> int:
        return self._pieces[min(self._position, len(self._pieces)) - 1][2]

    def _block(self) -> tuple[list[Node], str]:
        """Nodes up to an `end` or `else`, and which of them ended the block ("" at the end of the template)."""
        nodes: list[Node] = []
        while self._position < len(self._pieces):
            kind, content, line, column = self._pieces[self._position]
            self._position += 1
            self._column = column
            if kind == "text":
                if content:
                    nodes.append(("text", content))
                continue
            self._action = content
            word, _, rest = content.partition(" ")
            word = word.split("(")[0] if word.split("(")[0] in ("if", "range", "with") else word
            rest = content[len(word) :].strip()
            if word in ("end", "else"):
                return nodes, content
            if word in ("if", "with"):
                nodes.append(self._branch(word, rest, line))
            elif word == "range":
                nodes.append(self._range(rest, line))
            elif word in ("break", "continue") and not rest:
                nodes.append((word,))
            elif word in ("define", "template", "block"):
                raise TemplateError(f"template: :{line}: {{{{{word}}}}} is not supported by wherry")
            else:
                nodes.append(self._statement(content, line))
        return nodes, ""

    def _branch(self, word: str, rest: str, line: int) -> Node:
        pipe = self._pipeline(rest, line, word)
        body, end = self._block()
        otherwise: list[Node] = []
        if end.startswith("else"):
            more = end[4:].strip()
            if more.startswith((f"{word} ", "if ")):
                inner = more.split(" ", 1)
                otherwise = [self._branch(inner[0], inner[1].strip(), line)]
                return word, pipe, body, otherwise
            if more:
                raise TemplateError(f"template: :{line}: unexpected {more!r} in else clause")
            otherwise, end = self._block()
        if end != "end":
            raise TemplateError(f"template: :{self._line()}: unexpected EOF")
        return word, pipe, body, otherwise

    def _range(self, rest: str, line: int) -> Node:
        names: list[str] = []
        if ":=" in rest:
            left, _, rest = rest.partition(":=")
            for part in left.split(","):
                if not part.strip().startswith("$"):
                    raise TemplateError(f"template: :{line}: range can only initialize variables")
                names.append(part.strip()[1:])
        pipe = self._pipeline(rest, line, "range")
        body, end = self._block()
        otherwise: list[Node] = []
        if end == "else":
            otherwise, end = self._block()
        if end != "end":
            raise TemplateError(f"template: :{self._line()}: unexpected EOF")
        return "range", names, pipe, body, otherwise

    def _statement(self, content: str, line: int) -> Node:
        tokens = _tokens(content, line)
        kinds = [kind for kind, *_ in tokens if kind != "space"]
        if len(kinds) > 1 and kinds[0] == "variable" and kinds[1] in (":=", "="):
            name = tokens[0][1]
            cut = next(index for index, token in enumerate(tokens) if token[0] == kinds[1])
            return "set", kinds[1], name, self._parse_pipe(tokens[cut + 1 :], line, "command", 0)
        return "print", self._parse_pipe(tokens, line, "command", 0)

    def _pipeline(self, text: str, line: int, context: str) -> Node:
        if ":=" in text and text.lstrip().startswith("$"):
            left, _, right = text.partition(":=")
            return (
                "assign",
                left.strip()[1:],
                self._parse_pipe(_tokens(right, line), line, context, self._offset(right)),
            )
        return self._parse_pipe(_tokens(text, line), line, context, self._offset(text))

    def _offset(self, text: str) -> int:
        return max(self._action.rfind(text), 0)

    def _parse_pipe(self, tokens: list[tuple[str, Any, int]], line: int, context: str, offset: int) -> Node:
        reader = _Reader(tokens, line, self._column + offset)
        pipe = reader.pipe()
        if reader.peek():
            raise TemplateError(f"template: :{line}: unexpected {reader.peek()!r} in {context}")
        if not pipe[1]:
            raise TemplateError(f"template: :{line}: missing value for {context}")
        return pipe


class _Reader:
    """Recursive descent over one action's tokens."""

    def __init__(self, tokens: list[tuple[str, Any, int]], line: int, column: int) -> None:
        self._tokens = tokens
        self._at = 0
        self._line = line
        self._column = column

    def peek(self) -> str:
        self._skip_space()
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _skip_space(self) -> bool:
        before = self._at
        while self._at < len(self._tokens) and self._tokens[self._at][0] == "space":
            self._at += 1
        return self._at > before

    def pipe(self) -> Node:
        commands: list[Node] = []
        while self.peek() not in ("", ")"):
            commands.append(self._command())
            if self.peek() != "|":
                break
            self._at += 1
            if self.peek() in ("", ")"):
                raise TemplateError(f"template: :{self._line}: missing value for command")
        return "pipe", commands

    def _command(self) -> Node:
        operands: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            operands.append(self._operand())
        if not operands:
            raise TemplateError(f"template: :{self._line}: missing value for command")
        return "command", operands, self._line

    def _operand(self) -> Node:
        kind, value, offset = self._tokens[self._at]
        self._at += 1
        if kind == "field":
            return self._chain(("field", offset, (value,) if value else ()))
        if kind == "variable":
            return self._chain(("variable", value, offset, ()))
        if kind == "name":
            if value in ("true", "false"):
                return "constant", value == "true"
            if value == "nil":
                return "constant", None
            if value in REFUSED:
                raise TemplateError(f"template: :{self._line}: function {value!r} is not supported by wherry")
            if value not in FUNCTIONS and value not in ("and", "or"):
                raise TemplateError(f'template: :{self._line}: function "{value}" not defined')
            return "function", value
        if kind in ("string", "number"):
            return "constant", value
        if kind == "(":
            inner = self.pipe()
            if self.peek() != ")":
                raise TemplateError(f"template: :{self._line}: unclosed left paren")
            self._at += 1
            return self._chain(("group", inner, offset, ()))
        raise TemplateError(f"template: :{self._line}: unexpected {kind!r} in operand")

    def _chain(self, base: Node) -> Node:
        """`base` with the field names that follow; its position is that of the first of these, as in Go's error texts."""
        names: list[str] = []
        offset = base[-2]
        while self._at < len(self._tokens) and self._tokens[self._at][0] == "field" and self._tokens[self._at][1]:
            if not names:
                offset = self._tokens[self._at][2]
            names.append(self._tokens[self._at][1])
            self._at += 1
        where = f"{self._line}:{self._column + offset}"
        return (*base[:-2], where, (*base[-1], *names))
