"""Modules' code without what only people and tools read: docstrings, annotations, blocks for type checkers. `bundle`
uses it, so it may import what is slow.
"""

from __future__ import annotations

import ast
from types import CodeType


def code(path: str) -> CodeType | None:
    """The compiled source; None for what is no Python source, an extension."""
    if not path.endswith(".py"):
        return None
    tree = ast.fix_missing_locations(_Strip().visit(_tree(path)))
    return _without_lines(compile(tree, path, "exec", dont_inherit=True))


def _without_lines(code: CodeType) -> CodeType:
    consts = tuple(_without_lines(item) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_consts=consts, co_linetable=b"", co_qualname=code.co_name)


def dependencies_first(paths: dict[str, str]) -> list[tuple[str, str]]:
    """The modules and their paths in an order in which each comes after those of them that it imports."""
    order: dict[str, str] = {}
    seen: set[str] = set()

    def add(name: str) -> None:
        if name not in paths or name in seen:
            return
        seen.add(name)
        add(name.rpartition(".")[0])
        if paths[name].endswith(".py"):
            for node in _tree(paths[name]).body:
                for imported in _imported(node):
                    add(imported)
        order[name] = paths[name]

    for name in paths:
        add(name)
    return list(order.items())


def _tree(path: str) -> ast.Module:
    with open(path, "rb") as file:
        return ast.parse(file.read(), path)


def _imported(node: ast.stmt) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [module, *(f"{module}.{alias.name}" for alias in names)]
        case ast.Try(body=body):
            return [name for inner in body for name in _imported(inner)]
    return []


class _Strip(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._with_body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._with_body(node)

    def _with_body(self, node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node
