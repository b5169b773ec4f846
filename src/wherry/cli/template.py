"""The part of Go's text/template that `--format` is used with, interpreted: fields, pipelines, variables, if, range, with, and Docker's functions.

`parse` gives a Template, `execute` its text for one value. Values are what JSON gives (None, bool, int, float, str, list, dict); a callable in a
dictionary is a method (`{{.Label "x"}}`). What this interpreter does not know is an error that names it, never silence. Source of the rules: the
documentation of text/template. Absent: define, template, block, `html`, `js`, `call`, `urlquery`.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

from .template_functions import FUNCTIONS, REFUSED, go_text, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Node = tuple[Any, ...]

_OPTIONAL = frozenset(  # fields that engines leave out when they are empty, and templates ask for all the same
    [
        "Health",
        "Healthcheck",
        "Error",
        "ExposedPorts",
        "Volumes",
        "OnBuild",
        "Shell",
        "StopTimeout",
        "Entrypoint",
        "Cmd",
        "Labels",
        "Options",
        "Mounts",
        "Platform",
        "Annotations",
        "Tmpfs",
        "Runtime",
        "Init",
        "SizeRw",
        "SizeRootFs",
        "StorageOpt",
        "Sysctls",
        "Ulimits",
        "ArgsEscaped",
        "NetworkDisabled",
        "MacAddress",
        "StopSignal",
        "HostIp",
        "HostPort",
        "Comment",
        "Author",
        "Descriptor",
        "Variant",
    ]
)


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


class _Parser:
    """Builds the tree. Nodes: ("text", s), ("print", pipe), ("if"|"with", pipe, body, else), ("range", names, pipe, body, else), ("set", …)."""

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


# -- execution -------------------------------------------------------------------------------------------------------------------------------


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template. `execute` may be called for many values."""

    def __init__(self, source: str, nodes: list[Node]) -> None:
        self.source = source
        self._nodes = nodes

    def execute(self, value: object, functions: Mapping[str, Callable[..., object]] | None = None) -> str:
        """The text for `value`. `functions` replace the usual ones (a table's header uses that). TemplateError."""
        out: list[str] = []
        run = _Run(value, {**FUNCTIONS, **(functions or {})}, out)
        run.block(self._nodes, value, {"": value})
        return "".join(out)


def parse(source: str) -> Template:
    """TemplateError when it is not one, or uses what is not supported."""
    return Template(source, _Parser(source).parse())


class _Run:
    def __init__(self, root: object, functions: Mapping[str, Callable[..., object]], out: list[str]) -> None:
        self._root = root
        self._functions = functions
        self._out = out

    def block(self, nodes: list[Node], dot: object, scope: dict[str, object]) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                self._out.append(node[1])
            elif kind == "print":
                self._out.append(go_text(self.pipe(node[1], dot, scope)))
            elif kind == "set":
                if node[1] == "=" and node[2] not in scope:
                    raise TemplateError(f'template: undefined variable "${node[2]}"')
                self._assign(scope, node[2], self.pipe(node[3], dot, scope), declare=node[1] == ":=")
            elif kind in ("if", "with"):
                inner = _Scope(scope)
                value = self.pipe(node[1], dot, inner)
                if truth(value):
                    self.block(node[2], value if kind == "with" else dot, inner)
                else:
                    self.block(node[3], dot, inner)
            elif kind == "range":
                self._range(node, dot, scope)
            elif kind == "break":
                raise _Break
            else:
                raise _Continue

    @staticmethod
    def _assign(scope: dict[str, object], name: str, value: object, *, declare: bool) -> None:
        target: dict[str, object] | None = scope
        while not declare and isinstance(target, _Scope) and name not in target.own:
            target = target.outer
        if isinstance(target, _Scope):
            target.own.add(name)
        (scope if target is None else target)[name] = value
        scope[name] = value

    def _range(self, node: Node, dot: object, scope: dict[str, object]) -> None:
        _, names, pipe, body, otherwise = node
        value = self.pipe(pipe, dot, scope)
        pairs: list[tuple[object, object]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, list | tuple):
            pairs = list(enumerate(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(value)]
        elif value is None:
            pairs = []
        else:
            raise TemplateError(f"range can't iterate over {go_text(value)}")
        if not pairs:
            self.block(otherwise, dot, _Scope(scope))
        for key, item in pairs:
            inner = _Scope(scope)
            if len(names) == 1:
                self._assign(inner, names[0], item, declare=True)
            elif names:
                self._assign(inner, names[0], key, declare=True)
                self._assign(inner, names[1], item, declare=True)
            try:
                self.block(body, item, inner)
            except _Continue:
                continue
            except _Break:
                break

    def pipe(self, node: Node, dot: object, scope: dict[str, object]) -> object:
        value: object = None
        if node[0] == "assign":
            value = self.pipe(node[2], dot, scope)
            self._assign(scope, node[1], value, declare=True)
            return value
        for index, command in enumerate(node[1]):
            value = self._command(command, dot, scope, (value,) if index else ())
        return value

    def _command(self, node: Node, dot: object, scope: dict[str, object], last: tuple[object, ...]) -> object:
        _, operands, line = node
        first, *rest = operands
        if first[0] == "function":
            return self._call(first[1], rest, dot, scope, last, line)
        if first[0] == "field" and first[2]:
            value = self._walk(dot, first[2], first[1])
            if callable(value):
                arguments = [self._operand(item, dot, scope, line) for item in rest]
                return value(*arguments, *last)
            if not rest and not last:
                return value
        elif not rest and not last:
            return self._operand(first, dot, scope, line)
        raise TemplateError(
            f'template: :{line}: executing "" at <{_shown(first)}>: can\'t give argument to non-function {_shown(first)}'
        )

    def _call(
        self,
        name: str,
        operands: list[Node],
        dot: object,
        scope: dict[str, object],
        last: tuple[object, ...],
        line: int,
    ) -> object:
        if name in ("and", "or"):  # these stop at the first that decides
            decisive: object = None
            for index in range(len(operands) + len(last)):
                decisive = self._operand(operands[index], dot, scope, line) if index < len(operands) else last[0]
                if truth(decisive) != (name == "and"):
                    return decisive
            return decisive
        arguments = [self._operand(item, dot, scope, line) for item in operands]
        try:
            return self._functions[name](*arguments, *last)
        except TemplateError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise TemplateError(f'template: :{line}: executing "" at <{name}>: error calling {name}: {error}') from None

    def _operand(self, node: Node, dot: object, scope: dict[str, object], line: int) -> object:
        kind = node[0]
        if kind == "constant":
            return node[1]
        if kind == "field":
            value = self._walk(dot, node[2], node[1])
            return value() if callable(value) else value
        if kind == "variable":
            if node[1] not in scope:
                raise TemplateError(f'template: :{line}: undefined variable "${node[1]}"')
            return self._walk(scope[node[1]], node[3], node[2])
        if kind == "group":
            return self._walk(self.pipe(node[1], dot, scope), node[3], node[2])
        return self._call(node[1], [], dot, scope, (), line)

    @staticmethod
    def _walk(value: object, names: tuple[str, ...], where: str) -> object:
        path = "." + ".".join(names)
        for name in names:
            if isinstance(value, dict):
                if name in value:
                    value = value[name]
                    continue
                kind = getattr(value, "go_type", "")
                if name in _OPTIONAL and not kind:
                    value = None
                    continue
                missing = (
                    f"can't evaluate field {name} in type {kind}" if kind else f'map has no entry for key "{name}"'
                )
                raise TemplateError(f'template: :{where}: executing "" at <{path}>: {missing}')
            if value is None:
                raise TemplateError(
                    f'template: :{where}: executing "" at <{path}>: nil pointer evaluating interface {{}}.{name}'
                )
            raise TemplateError(
                f'template: :{where}: executing "" at <{path}>: can\'t evaluate field {name} in type {_type_name(value)}'
            )
        return value


class _Scope(dict[str, object]):
    """Variables of a block: reads see the outer ones, declarations stay inside."""

    def __init__(self, outer: dict[str, object]) -> None:
        super().__init__(outer)
        self.outer = outer
        self.own: set[str] = set()


def _shown(node: Node) -> str:
    if node[0] == "field":
        return "." + ".".join(node[2])
    return str(node[1])


def _type_name(value: object) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), type(value).__name__)
