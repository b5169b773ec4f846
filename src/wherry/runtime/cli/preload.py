"""Finds modules of wherry in one file instead of forty: imports are most of what `wherry-runc` adds to the
interpreter's own start.

The file (`bundle.write` makes it) lies beside the package's compiled modules, in `__pycache__`, and is trusted as
they are. It holds the modules' code without docstrings, and the size and time of each source; a source that has
changed is imported the usual way, so a stale file costs time and nothing else. This module's own code is the file's
first part: the launcher executes it before anything of wherry is imported, so it imports only what the interpreter
has built in.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    Entry = tuple[str, bool, int, int, bytes]  # source, is a package, its mtime in ns, its size, marshalled code


class Preloaded:
    """A finder and loader for `sys.meta_path` (importlib.abc.MetaPathFinder, Loader)."""

    def __init__(self, modules: dict[str, Entry], path: str) -> None:
        self.modules = modules
        self.path = path
        """Of the file; where the next one is to be written."""
        self.missed = not modules
        """Whether a module of wherry was not in the file, or not in its present form."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        entry = self.modules.get(name)
        if entry is None:
            self.missed = self.missed or name.startswith("wherry")
            return None
        source, is_package, mtime, size, _ = entry
        try:
            status = posix.stat(source)
        except OSError:
            status = None
        if status is None or status.st_mtime_ns != mtime or status.st_size != size:
            self.missed = True
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=is_package)  # type: ignore[arg-type]  # a Loader by what it does
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [source.rpartition("/")[0]]
        return spec

    def create_module(self, _spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        code: CodeType = marshal.loads(self.modules[module.__name__][4])
        exec(code, module.__dict__)


def install(modules: dict[str, Entry], path: str) -> Preloaded:
    finder = Preloaded(modules, path)
    sys.meta_path.insert(0, finder)
    return finder
