"""exec-readonly: the committed programs are what the generator makes, and the one of this machine protects what it
executes.
"""

from __future__ import annotations

import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[4]
COMMITTED = REPOSITORY / "src/libexec"
HERE = COMMITTED / f"exec-readonly-{platform.machine()}"
PROBE = "import os, sys; print(bool(os.statvfs('/proc/self/exe').f_flag & os.ST_RDONLY), os.readlink('/proc/self/exe'), sys.argv[1:])"


def test_the_committed_programs_are_what_the_generator_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "tools")
    made = runpy.run_path(str(REPOSITORY / "tools/make_exec_readonly.py"))["build"]()
    assert {path.name: path.read_bytes() for path in COMMITTED.iterdir()} == {
        f"exec-readonly-{machine}": binary for machine, binary in made.items()
    }


def test_they_are_executable() -> None:
    assert all(os.access(path, os.X_OK) for path in COMMITTED.iterdir())


@pytest.mark.requires("root")
@pytest.mark.skipif(not HERE.exists(), reason="needs x86_64, aarch64")
def test_the_interpreter_runs_from_a_readonly_mount_under_its_own_path() -> None:
    python = os.path.realpath(sys.executable)
    done = subprocess.run([HERE, python, "-I", "-S", "-c", PROBE, "a", ""], capture_output=True, text=True, check=True)
    assert done.stdout == f"True {python} ['a', '']\n"


@pytest.mark.requires("root")
@pytest.mark.skipif(not HERE.exists(), reason="needs x86_64, aarch64")
def test_a_relative_path_is_not_taken_for_one_from_the_root(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/true").symlink_to("/bin/echo")
    done = subprocess.run([HERE, "bin/true", "mine"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n"


@pytest.mark.skipif(not HERE.exists(), reason="needs x86_64, aarch64")
@pytest.mark.parametrize("words", [[], ["/nonexistent"]])
def test_nothing_to_execute_is_127(words: list[str]) -> None:
    assert subprocess.run([HERE, *words], check=False).returncode == 127
