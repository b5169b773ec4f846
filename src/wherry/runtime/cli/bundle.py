"""Writes the file that `preload` reads: the code of all modules of wherry that this process has loaded, and those
that were in the file before.

Runs at the end of a call of `wherry-runc` that missed a module: the first after an installation, or the first of
another verb. A directory that cannot be written is left alone.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER

import wherry
from wherry.errors import WherryError
from wherry.runtime.cli import preload
from wherry.runtime.state import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.cli.preload import Entry, Preloaded


def refresh(finder: Preloaded | None) -> None:
    """Replaces the file of `finder` as a whole; without one, makes it where the launcher looks for it. Does nothing
    where that is not possible.
    """
    if finder is None:
        package = os.path.dirname(os.path.abspath(wherry.__file__))
        finder = preload.Preloaded({}, f"{package}/__pycache__/wherry-runc.{sys.implementation.cache_tag}")
    if not os.access(os.path.dirname(finder.path), os.W_OK):
        return
    entries: dict[str, Entry] = {}
    sources = {name: source for name, (source, *_) in finder.modules.items()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "wherry" and getattr(module, "__file__", None):
            sources[name] = str(module.__file__)
    for name, source in sources.items():
        entry = _entry(source)
        if entry is not None:
            entries[name] = entry
    loader = _entry(preload.__file__)
    if loader is None:
        return
    try:
        write_file(finder.path, MAGIC_NUMBER + marshal.dumps((loader[4], entries)), 0o644)
    except WherryError:
        pass  # it is only slower without


def _entry(source: str) -> Entry | None:
    """The module in its present form; None when its source is gone."""
    import ast

    try:
        with open(source, "rb") as file:
            status = os.fstat(file.fileno())
            tree = ast.parse(file.read(), source)
    except (OSError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body[0:1] = (
                [] if isinstance(node, ast.Module) or len(node.body) > 1 else [ast.Pass(lineno=1, col_offset=0)]
            )
    code = compile(tree, source, "exec", dont_inherit=True)
    return source, os.path.basename(source) == "__init__.py", status.st_mtime_ns, status.st_size, marshal.dumps(code)
