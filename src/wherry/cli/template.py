"""The part of Go's text/template that `--format` is used with, interpreted: fields, pipelines, variables, if, range, with, and Docker's functions.

`parse` gives a Template, `execute` its text for one value. Values are what JSON gives (None, bool, int, float, str, list, dict); a callable in a
dictionary is a method (`{{.Label "x"}}`). What this interpreter does not know is an error that names it, never silence. Source of the rules: the
documentation of text/template. Absent: define, template, block, `html`, `js`, `call`, `urlquery`.
"""

from __future__ import annotations

from .template_functions import FUNCTIONS, go_text, truth
from .template_parser import Parser, TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Node = tuple[Any, ...]

__all__ = ["Template", "TemplateError", "parse"]

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
    return Template(source, Parser(source).parse())


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
        arguments = (*(self._operand(item, dot, scope, line) for item in operands), *last)
        function = self._functions[name]
        try:
            return function(*arguments)
        except TemplateError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            fault = _wrong_number(name, function, len(arguments)) or f"error calling {name}: {error}"
            raise TemplateError(f'template: :{line}: executing "" at <{name}>: {fault}') from None

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


def _wrong_number(name: str, function: Callable[..., object], got: int) -> str:
    """Go's words when a function has too few arguments or too many; "" when their number is right."""
    import inspect  # only for who has failed already: it takes 10 ms

    parameters = inspect.signature(function).parameters.values()
    wanted = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    if wanted < len(parameters):
        return f"wrong number of args for {name}: want at least {wanted} got {got}" if got < wanted else ""
    return f"wrong number of args for {name}: want {wanted} got {got}" if got != wanted else ""


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
