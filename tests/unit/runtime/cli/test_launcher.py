"""wherry-runc's launcher: the committed programs are what the generator makes, each starts the interpreter as it should, and leaves to
the script what it does not do itself.
"""

from __future__ import annotations

import os
import platform
import py_compile
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests import wherry_runc

REPOSITORY = Path(__file__).resolve().parents[4]
COMMITTED = REPOSITORY / "src/launcher"
SHOWS = """#!/bin/sh
echo "$0"; for word; do echo "<$word>"; done; env | sort
"""
VERSION = "import sys; print(sys.version_info[1])"
COMPILE = "import py_compile, sys; py_compile.compile(sys.argv[1], sys.argv[2])"
PROBE = "import os, sys; print(bool(os.statvfs('/proc/self/exe').f_flag & os.ST_RDONLY), os.readlink('/proc/self/exe'), sys.argv[1:])"


def compiled(minor: int = 11, place: str = ".{0}/site-packages") -> str:
    return f"lib/python3{place.format(minor)}/wherry/runtime/cli/__pycache__/entry.cpython-3{minor}.pyc"


def test_the_committed_programs_are_what_the_generator_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    made = runpy.run_path(str(REPOSITORY / "tools/make_launcher.py"))["build"]()
    assert {path.parent.name: path.read_bytes() for path in COMMITTED.glob("*/wherry-runc")} == made


def test_they_are_executable() -> None:
    assert all(os.access(path, os.X_OK) for path in COMMITTED.glob("*/wherry-runc"))


class Installation:
    """The launcher of a machine, beside programs that show how they were executed."""

    def __init__(self, prefix: Path, machine: str) -> None:
        self.prefix = prefix
        self.emulator = [] if machine == platform.machine() else [f"qemu-{machine}"]
        self.program = self.put("bin/wherry-runc", (COMMITTED / machine / "wherry-runc").read_bytes())
        self.python = self.put("bin/python3", SHOWS.encode())
        self.script = self.put("libexec/wherry/wherry-runc", SHOWS.encode())
        self.entry = self.put(compiled())

    def put(self, name: str, content: bytes = b"") -> Path:
        path = self.prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    def run(self, *words: str, stdin: str = "/dev/null", **environment: str) -> list[str]:
        """The lines that show what was executed."""
        fd = os.open(stdin, os.O_RDONLY)
        try:
            command = [*self.emulator, str(self.program), *words]
            environment = {"PATH": os.environ["PATH"], **environment}
            done = subprocess.run(command, stdin=fd, capture_output=True, text=True, env=environment, check=True)
        finally:
            os.close(fd)
        return done.stdout.splitlines()

    def goes_to_the_script(self, **options: str) -> bool:
        shown = self.run("state", "box", "", PYTHONPATH="/mine", **options)
        whole = [f"{self.prefix}/bin/../libexec/wherry/wherry-runc", "<state>", "<box>", "<>"]
        return shown[:4] == whole and "PYTHONPATH=/mine" in shown


@pytest.fixture(params=sorted(path.name for path in COMMITTED.iterdir()))
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Installation:
    if request.param != platform.machine() and not shutil.which(f"qemu-{request.param}"):
        pytest.skip(f"needs {request.param}, or qemu-user")
    return Installation(tmp_path / "prefix", request.param)


@pytest.mark.parametrize("minor", [11, 12, 19])
@pytest.mark.parametrize("place", [".{0}/site-packages", ".{0}/dist-packages", "/dist-packages"])
def test_the_compiled_entry_is_found_and_given_to_the_interpreter(
    installed: Installation, minor: int, place: str
) -> None:
    installed.entry.unlink()
    entry = installed.put(compiled(minor, place))
    shown = installed.run("--root", "/r", "state", "", "two words")
    expected = f"{installed.prefix}/bin/../{entry.relative_to(installed.prefix)}"
    words = ["--root", "/r", "state", "", "two words"]
    assert shown[0] == str(installed.python)
    assert shown[1:10] == [f"<{word}>" for word in ("-s", "-P", "-S", expected, *words)]
    assert f"PYTHONPATH={Path(expected).parents[1]}/lean" in shown


def test_variables_for_python_and_of_our_own_are_not_the_callers(installed: Installation) -> None:
    shown = installed.run(
        "list", PYTHONPATH="/evil", PYTHONHOME="/evil", PYTHON="/evil", WHERRY_RUNC_STDIN="5", PYTHO="ours", HOME="/h"
    )
    assert not [line for line in shown if "evil" in line or "WHERRY" in line]
    assert [line for line in shown if line.startswith("PYTHON")] == [
        f"PYTHONPATH={installed.prefix}/bin/../lib/python3.11/site-packages/wherry/runtime/cli/lean"
    ]
    assert {"PYTHO=ours", "HOME=/h"} <= set(shown)


def test_a_symbolic_link_to_it_leads_to_its_installation(installed: Installation, tmp_path: Path) -> None:
    installed.program = tmp_path / "link"
    installed.program.symlink_to(installed.prefix / "bin/wherry-runc")
    assert installed.run("list")[0] == str(installed.python)


def test_without_a_compiled_entry_it_is_the_scripts_turn(installed: Installation) -> None:
    installed.entry.unlink()
    assert installed.goes_to_the_script()


def test_with_several_compiled_entries_it_is_the_scripts_turn(installed: Installation) -> None:
    installed.put(compiled(13, ".{0}/dist-packages"))
    assert installed.goes_to_the_script()


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="needs a Python of the system's")
def test_without_an_interpreter_beside_it_the_systems_is_taken(installed: Installation) -> None:
    installed.python.unlink()
    entry = installed.prefix / compiled(int(subprocess.check_output(["/usr/bin/python3", "-c", VERSION])))
    probe = installed.put("probe.py", PROBE.encode())
    subprocess.run(["/usr/bin/python3", "-c", COMPILE, probe, entry], check=True)
    assert installed.run("list")[0].endswith(f" {os.path.realpath('/usr/bin/python3')} ['list']")


def test_with_a_directory_as_standard_input_it_is_the_scripts_turn(installed: Installation) -> None:
    assert installed.goes_to_the_script(stdin="/")


def test_in_a_path_with_a_colon_it_is_the_scripts_turn(installed: Installation, tmp_path: Path) -> None:
    """PYTHONPATH would be two directories, one of them maybe the caller's."""
    machine = installed.emulator[0].removeprefix("qemu-") if installed.emulator else platform.machine()
    assert Installation(tmp_path / "a:b", machine).goes_to_the_script()


def test_with_nothing_to_execute_it_says_so(installed: Installation) -> None:
    installed.script.unlink()
    installed.entry.unlink()
    command = [*installed.emulator, installed.program, "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "not complete" in done.stderr) == (127, True)


@pytest.mark.requires("root")
@pytest.mark.skipif(not wherry_runc.LAUNCHER.exists(), reason="needs x86_64, aarch64")
@pytest.mark.parametrize(
    ("verb", "protected"), [("create", True), ("run", True), ("exec", True), ("restore", True), ("state", False)]
)
def test_what_enters_a_container_runs_from_a_readonly_mount_under_its_own_path(
    tmp_path: Path, verb: str, protected: bool
) -> None:
    installed = Installation(tmp_path, platform.machine())
    python = os.path.realpath(sys.executable)
    installed.python.unlink()
    installed.python.symlink_to(python)
    installed.entry.unlink()
    (tmp_path / "probe.py").write_text(PROBE)
    entry = tmp_path / compiled(sys.version_info[1])
    py_compile.compile(str(tmp_path / "probe.py"), str(entry))
    assert installed.run("--debug", verb, "box") == [f"{protected} {python} ['--debug', '{verb}', 'box']"]
