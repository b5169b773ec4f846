"""Loads the modules that a verb needs from one file instead of forty: imports are most of what `wherry-runc` adds to
the interpreter's own start.

The files (`bundle` makes them, one for each verb) lie beside the package's compiled modules, in `__pycache__`, and are
trusted as they are. Each holds modules' code, and the size and time of each source; a source that has changed is
imported the usual way, so a stale file costs time and nothing else. This module's own code is a file's first part:
`entry` executes it before anything of wherry is imported, so it imports only what the interpreter has built in.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec, _load  # type: ignore[attr-defined]
from _frozen_importlib_external import ExtensionFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType

    from _typeshed import StrOrBytesPath as Path

    # module, path (below the package's folder if it is of wherry), is it a package, its mtime in ns, its size
    Source = tuple[str, str, bool, int, int]
    Eager = tuple[Source, CodeType | None]  # None: an extension
    Lazy = dict[str, tuple[Source, bytes]]  # module: …, marshalled code; b"": an extension


class Preloaded:
    """What a file holds. Itself the finder and loader (importlib.abc.MetaPathFinder, Loader) of the modules that only
    some calls of the verb need.
    """

    def __init__(self, package: str, eager: Sequence[Eager], lazy: Lazy) -> None:
        self.package = package
        self.eager = eager
        self.lazy = lazy
        self.missed = False
        """Whether a module of wherry was not in the file, or not in its present form."""

    def load(self) -> None:
        """Executes the modules that every call needs, in their order: each finds those that it imports loaded, and the
        import system has nothing to do.
        """
        for source, code in self.eager:
            name, _, is_package, _, _ = source
            if name in sys.modules or not (path := self.current(source)):
                continue
            if code is None:
                _load(_extension(name, path))
                continue
            module = type(sys)(name)
            module.__file__ = path
            parent, _, child = name.rpartition(".")
            if parent and parent not in sys.modules:
                __import__(parent)  # its source has changed
            module.__package__ = name if is_package else parent
            if is_package:
                module.__path__ = [path.rpartition("/")[0]]
            sys.modules[name] = module
            exec(code, module.__dict__)
            if parent:
                setattr(sys.modules[parent], child, module)

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source, code = self.lazy.get(name, (None, b""))
        path = self.current(source) if source is not None else None
        if source is None or path is None:
            self.missed = self.missed or name.startswith("wherry")
            return None
        if not code:
            return _extension(name, path)
        is_package = source[2]
        spec = ModuleSpec(name, self, origin=path, is_package=is_package)  # type: ignore[arg-type]  # a Loader by what it does
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [path.rpartition("/")[0]]
        return spec

    def create_module(self, _spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        code: CodeType = marshal.loads(self.lazy[module.__name__][1])
        exec(code, module.__dict__)

    def current(self, source: Source) -> str | None:
        """The source's path, if it is as it was."""
        _, path, _, mtime, size = source
        if not path.startswith("/"):
            path = f"{self.package}/{path}"
        try:
            status = posix.stat(path)
        except OSError:
            status = None
        if status is None or status.st_mtime_ns != mtime or status.st_size != size:
            self.missed = True
            return None
        return path


def _extension(name: str, path: str) -> ModuleSpec:
    spec = ModuleSpec(name, ExtensionFileLoader(name, path), origin=path)
    spec.has_location = True  # it gets its __file__, by which `bundle` knows it
    return spec


def make_os() -> None:
    """`os` without its half in Python, which costs a millisecond (classes for os.environ, functions over directory trees)
    and of which a verb rarely needs anything. When something does, the real one is loaded, and this becomes the same.
    """
    os = type(sys)("os")
    names = vars(os)
    names.update(vars(posix))
    del names["environ"]  # it is of bytes
    encoding = sys.getfilesystemencoding()

    def fsencode(path: Path) -> bytes:
        plain = posix.fspath(path)
        return plain.encode(encoding, "surrogateescape") if isinstance(plain, str) else plain

    def fsdecode(path: Path) -> str:
        plain = posix.fspath(path)
        return plain.decode(encoding, "surrogateescape") if isinstance(plain, bytes) else plain

    def getenv(key: str, default: str | None = None) -> str | None:
        value = posix.environ.get(fsencode(key))
        return default if value is None else fsdecode(value)

    def find(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        del sys.modules["os"]
        names.update(vars(__import__("os")))
        return getattr(sys.modules["os"], name)

    names.update(fsencode=fsencode, fsdecode=fsdecode, getenv=getenv, __getattr__=find)
    sys.modules["os"] = os
    names["path"] = sys.modules["os.path"] = __import__("posixpath")


def install(package: str, own: Source, eager: Sequence[Eager], lazy: Lazy) -> Preloaded:
    """`package` is the folder of wherry that the file was found in; the rest is what it holds. `own` is this module."""
    preloaded = Preloaded(package, eager, lazy)
    preloaded.current(own)
    sys.meta_path.insert(0, preloaded)
    make_os()
    preloaded.load()
    return preloaded
