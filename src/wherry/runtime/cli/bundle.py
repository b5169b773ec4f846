"""Writes the file that `preload` reads: the code of all modules that a verb has needed so far, without what only
people and tools read.

Runs at the end of a call of `wherry-runc` that missed a module: the first after an installation, or the first that
goes another way. A directory that cannot be written is left alone.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER

import wherry
from wherry.errors import WherryError
from wherry.runtime.cli import entry, preload
from wherry.runtime.state import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

    from wherry.runtime.cli.preload import Eager, Lazy, Preloaded, Source


_NOT_NEEDED = ("__main__", "__future__", __name__, entry.__name__, preload.__name__)


def refresh(preloaded: Preloaded | None, verb: str) -> None:
    """Replaces the verb's file as a whole: what `preloaded`, the file before, had, and all modules that are loaded now.
    Those that this call needed, and the ones before, are for every call, the others for some. Does nothing where that
    is not possible.
    """
    package = os.path.dirname(os.path.abspath(wherry.__file__))
    directory = f"{package}/__pycache__"
    try:
        if os.access(directory, os.W_OK):
            content = MAGIC_NUMBER + marshal.dumps(_content(package, preloaded))
            write_file(f"{directory}/wherry-runc-{entry.FORMAT}.{sys.implementation.cache_tag}.{verb}", content, 0o644)
    except (OSError, SyntaxError, WherryError):  # a source that is being edited, a disk that is full
        pass  # it is only slower without


def _content(package: str, preloaded: Preloaded | None) -> tuple[CodeType | None, Source, list[Eager], Lazy]:
    paths = _loaded()
    from wherry.runtime.cli import strip  # late: it is not what the verb needs

    always = set(paths)
    if preloaded is not None:
        always.intersection_update(source[0] for source, _ in preloaded.eager)
        for source in [source for source, _ in (*preloaded.eager, *preloaded.lazy.values())]:
            if source[0] not in paths and os.path.exists(path := os.path.join(package, source[1])):
                paths[source[0]] = path
    eager: list[Eager] = []
    lazy: Lazy = {}
    for name, path in strip.dependencies_first(paths):
        source, code = _source(package, name, path), strip.code(path)
        if name in always and (code is None or name.startswith("wherry")):  # others may import in circles
            eager.append((source, code))
        else:
            lazy[name] = source, marshal.dumps(code) if code is not None else b""
    return strip.code(preload.__file__), _source(package, preload.__name__, preload.__file__), eager, lazy


def _source(package: str, name: str, path: str) -> Source:
    status = os.stat(path)
    is_package = os.path.basename(path) == "__init__.py"
    return name, path.removeprefix(f"{package}/"), is_package, status.st_mtime_ns, status.st_size


def _loaded() -> dict[str, str]:
    """The modules, with their paths, that came from files; the interpreter's own start needs encodings."""
    found = {}
    for name, module in sys.modules.items():
        path = getattr(module, "__file__", None)
        frozen = getattr(getattr(module, "__spec__", None), "origin", None) == "frozen"
        if path and not frozen and name not in _NOT_NEEDED and name.partition(".")[0] != "encodings":
            found[name] = os.path.abspath(path)
    return found
