"""What spares wherry-runc its imports: a file of stripped code per verb, and `os` without its half in Python."""

from __future__ import annotations

import marshal
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import pytest
from tests import wherry_runc

from wherry.runtime.cli import preload, strip

REPOSITORY = Path(__file__).resolve().parents[4]


def python(code: str) -> str:
    """What an interpreter as wherry-runc starts it prints."""
    command = [sys.executable, "-I", "-S", "-c", code, preload.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


LEAN = """
import sys
space = {"__name__": "wherry.runtime.cli.preload"}
exec(compile(open(sys.argv[1]).read(), "preload", "exec"), space)
before = set(sys.modules)
space["make_os"]()
import os
"""


def test_the_lean_os_does_what_os_does() -> None:
    code = """
path = "/tmp/\\udcff\\u00e4"
print(os.fsencode(path) == path.encode("utf-8", "surrogateescape"), os.fsdecode(os.fsencode(path)) == path, os.fsencode(b"x") == b"x")
print(os.path.join("a", "b"), os.getpid() > 0, "_collections_abc" in sys.modules)
print(os.getenv("PATH") != "", os.getenv("NO_SUCH", "none"))
"""
    assert python(LEAN + code).split() == ["True", "True", "True", "a/b", "True", "False", "True", "none"]


def test_the_lean_os_becomes_the_real_one_when_more_is_needed() -> None:
    code = """
lean = os
print(os.environ["PATH"] != "", lean.makedirs is sys.modules["os"].makedirs, lean.environ is sys.modules["os"].environ)
import os, shutil, subprocess
print(os.walk is lean.walk, hasattr(lean, "no_such_thing"))
"""
    assert python(LEAN + code).split() == ["True", "True", "True", "True", "False"]


SOURCE = '''"""Module."""
from __future__ import annotations
TYPE_CHECKING = False
if TYPE_CHECKING:
    from nowhere import Nothing

class Kind:
    """Class."""
    value: Nothing
    other: int = 4
    "about it"

def double(number: Nothing, *rest: Nothing, **more: Nothing) -> Nothing:
    """Function."""
    twice: int = number * 2
    return twice

def empty() -> None:
    """Nothing but this."""
'''


def test_stripped_code_does_the_same(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(SOURCE)
    code = strip.code(str(source))
    assert code is not None
    space: dict[str, object] = {"__name__": "module"}
    exec(code, space)
    double, empty, kind = space["double"], space["empty"], space["Kind"]
    assert callable(double) and callable(empty)
    assert (double(21), empty(), kind.other) == (42, None, 4)  # type: ignore[attr-defined]
    assert (double.__doc__, double.__annotations__, kind.__doc__) == (None, {}, None)


def test_what_a_module_imports_comes_before_it(tmp_path: Path) -> None:
    texts = {
        "a": "import b\nfrom c import x",
        "b": "from c import x",
        "c": "try:\n    import d\nexcept ImportError:\n    pass",
        "d": "",
    }
    paths = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        paths[name] = str(tmp_path / f"{name}.py")
    assert [name for name, _ in strip.dependencies_first(paths)] == ["d", "c", "b", "a"]


@pytest.fixture(params=["launcher", "script"])
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """wherry-runc in a small installation of its own, with a copy of the package's part that it needs."""
    launcher = request.param == "launcher"
    if launcher and not wherry_runc.LAUNCHER.exists():
        pytest.skip("needs x86_64, aarch64")
    packages = wherry_runc.packages(tmp_path)
    for part in ("__init__.py", "errors.py", "linux", "runtime", "spec", "wire"):
        source, target = REPOSITORY / "src/wherry" / part, packages / "wherry" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            for path in source.rglob("*.py"):
                (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                (target / path.relative_to(source)).write_bytes(path.read_bytes())
        else:
            target.write_bytes(source.read_bytes())
    (packages / "wherry/__pycache__").mkdir()
    return wherry_runc.install_programs(tmp_path, launcher=launcher)


def run(program: str | Path, *before: str | Path) -> str:
    """What `state` of an unknown container says; `before` is put before the words."""
    words = [*before, program, "--root", "/nowhere", "state", "none"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


def file_of(program: Path) -> Path:
    [path] = program.parent.parent.glob("lib/*/site-packages/wherry/__pycache__/wherry-runc-*")
    assert path.name.endswith(".state")
    return path


def test_the_first_run_writes_it_and_later_ones_leave_it(program: Path) -> None:
    assert "does not exist: none" in run(program)
    written = file_of(program).stat().st_mtime_ns
    assert "does not exist: none" in run(program)
    assert file_of(program).stat().st_mtime_ns == written


def test_a_changed_source_counts_at_once(program: Path) -> None:
    run(program)
    [source] = program.parent.parent.glob("lib/*/site-packages/wherry/runtime/state.py")
    source.write_text(source.read_text().replace("container does not exist", "nothing of that name"))
    assert "nothing of that name" in run(program)
    written = file_of(program).stat().st_mtime_ns
    assert "nothing of that name" in run(program)
    assert file_of(program).stat().st_mtime_ns == written


def test_a_changed_entry_counts_at_once(program: Path) -> None:
    run(program)
    [source] = program.parent.parent.glob("lib/*/site-packages/wherry/runtime/cli/entry.py")
    source.write_text(source.read_text().replace("posix._exit(status)", "print('other'); sys.exit(status)"))
    words = [program, "state", "none"]
    assert subprocess.run(words, capture_output=True, text=True, check=False).stdout == "other\n"


def test_interpreters_of_several_versions_beside_each_other(program: Path) -> None:
    run(program)
    [compiled] = program.parent.parent.glob("lib/*/site-packages/wherry/runtime/cli/__pycache__/entry.*")
    compiled.with_name("entry.cpython-399.pyc").write_bytes(b"of another one")
    assert "does not exist: none" in run(program)


def test_a_changed_package_counts_for_the_modules_in_it(program: Path) -> None:
    run(program)
    for source in program.parent.parent.glob("lib/*/site-packages/wherry/**/__init__.py"):
        source.write_text(source.read_text() + "\n# changed\n")
    written = file_of(program).stat().st_mtime_ns
    assert "does not exist: none" in run(program)
    assert file_of(program).stat().st_mtime_ns > written


def test_a_changed_loader_counts_from_the_next_call_on(program: Path) -> None:
    run(program)
    written = file_of(program).stat().st_mtime_ns
    [source] = program.parent.parent.glob("lib/*/site-packages/wherry/runtime/cli/preload.py")
    source.write_text(source.read_text() + "\n# changed\n")
    run(program)
    assert file_of(program).stat().st_mtime_ns > written


def test_a_copy_of_an_installation_is_its_own(program: Path, tmp_path: Path) -> None:
    run(program)
    for folder in list(tmp_path.iterdir()):
        shutil.copytree(folder, tmp_path / "copy" / folder.name, symlinks=True)
    copied = tmp_path / "copy/bin/wherry-runc"
    [source] = (tmp_path / "copy").glob("lib/*/site-packages/wherry/runtime/state.py")
    source.write_text(source.read_text().replace("container does not exist", "nothing of that name"))
    assert "nothing of that name" in run(copied)
    assert "does not exist" in run(program)


def test_modules_come_from_it_without_the_import_system(program: Path) -> None:
    run(program)
    [package] = program.parent.parent.glob("lib/*/site-packages/wherry")
    compiled = cache_from_source(package / "runtime/cli/entry.py")
    said = run(compiled, program.parent / "python3", "-I", "-S", "-v")
    assert "import 'posixpath'" in said
    assert "import 'wherry" not in said


def test_what_only_some_calls_need_is_loaded_when_it_is_needed(program: Path) -> None:
    run(program)
    words = [program, "state", "--help"]
    assert "wherry-runc state" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "does not exist: none" in run(program)


@pytest.mark.parametrize("damage", [b"", b"junk", b"\0" * 100])
def test_a_file_of_another_interpreter_is_replaced(program: Path, damage: bytes) -> None:
    run(program)
    file_of(program).write_bytes(damage)
    assert "does not exist: none" in run(program)
    assert file_of(program).stat().st_size > 1000


def test_extensions_stay_among_what_every_call_needs(program: Path) -> None:
    """Also when a later call has needed more, and the file was written again. By the import system they cost a look into each directory."""
    words = [program, "--root", "/nowhere", "delete"]
    subprocess.run([*words, "none"], capture_output=True, check=False)
    [path] = program.parent.parent.glob("lib/*/site-packages/wherry/__pycache__/wherry-runc-*.delete")
    for _ in range(2):
        subprocess.run([*words, "--force", "none"], capture_output=True, check=True)
    _, _, eager, lazy = marshal.loads(path.read_bytes()[len(MAGIC_NUMBER) :])
    assert "wherry.runtime.oci_validate" in lazy
    assert ("_json", None) in [(source[0], code) for source, code in eager]
