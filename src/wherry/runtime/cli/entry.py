"""The first of wherry's modules that a call of `wherry-runc` runs: loads the verb's modules, calls it, ends the process.

`bin/wherry-runc` gives the interpreter the compiled file of this module, since a script would be compiled at each call
(0.5 ms); then this is `__main__`. Where there is none, a script of that name imports this module instead.
"""

import gc
import marshal
import posix
import sys
from _frozen_importlib_external import MAGIC_NUMBER
from _signal import SIG_DFL, SIGINT, default_int_handler, getsignal, signal  # type: ignore[import-not-found,unused-ignore]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from wherry.runtime.cli.preload import Preloaded

FORMAT = 5
"""Part of the names of the verbs' files. Another one whenever `preload.install` takes something else."""


def start(package: str) -> "NoReturn":
    """`package` is wherry's folder."""
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)  # until main(): no traceback of an import that was interrupted
    if directory := posix.environ.pop(b"WHERRY_RUNC_STDIN", b""):  # see src/bin/wherry-runc, `interpreter`
        posix.dup2(int(directory), 0)
        posix.close(int(directory))
    if not sys.flags.isolated and posix.environ.pop(b"PYTHONPATH", b""):  # not the caller's: bin/wherry-runc's
        posix.unsetenv(b"PYTHONPATH")
        del sys.path[0]  # of `lean`
    gc.disable()  # short-lived, and nothing in it makes garbage in cycles
    sys.path.append(package.rpartition("/")[0])
    preloaded = _preload(f"{package}/__pycache__/wherry-runc-{FORMAT}.{sys.implementation.cache_tag}")
    from wherry.runtime.cli import main

    status = main.main(sys.argv[1:])
    if preloaded is None or preloaded.missed:
        for verb in sys.argv[1:]:
            if verb in main.VERBS:
                from wherry.runtime.cli import bundle

                bundle.refresh(preloaded, verb)
                break
    posix._exit(status)  # the interpreter's orderly end costs 3 ms and does nothing for us


def _preload(prefix: str) -> "Preloaded | None":
    """What `preload` has of the verb, which is the first word that it has a file for."""
    for verb in sys.argv[1:]:
        if not verb.isalpha():
            continue
        try:
            with open(f"{prefix}.{verb}", "rb", 0) as file:
                data = file.read()
        except OSError:
            continue
        if data.startswith(MAGIC_NUMBER):
            loader, *modules = marshal.loads(memoryview(data)[len(MAGIC_NUMBER) :])
            namespace: dict[str, Any] = {"__name__": "wherry.runtime.cli.preload"}
            exec(loader, namespace)
            preloaded: Preloaded = namespace["install"](prefix.rpartition("/__pycache__/")[0], *modules)
            return preloaded
    return None


def _is_current(compiled: str, source: str) -> bool:
    """Whether the compiled file is of the source as it is now (PEP 552: flags, time and size of the source)."""
    with open(compiled, "rb", 0) as file:
        header = file.read(16)
    status = posix.stat(source)
    made_of = int(status.st_mtime).to_bytes(4, "little") + status.st_size.to_bytes(4, "little")
    return header[4:] == bytes(4) + made_of


if __name__ == "__main__":
    package = sys.argv[0].removesuffix(f"/runtime/cli/__pycache__/entry.{sys.implementation.cache_tag}.pyc")
    if not _is_current(sys.argv[0], f"{package}/runtime/cli/entry.py"):
        sys.path.append(package.rpartition("/")[0])
        from wherry.runtime.cli.entry import start
    start(package)
