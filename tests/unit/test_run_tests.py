"""tools/run-tests: what a whole run could not run is said, and fails a CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN_TESTS = Path(__file__).parents[2] / "tools/run-tests"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A machine without criu and guests, whose tests pass."""
    for name in ("sh", "mktemp", "grep", "cat", "rm"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    (tmp_path / "python").symlink_to(shutil.which("true") or "")
    return tmp_path


def run(bare: Path, *words: str, ci: bool) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(bare), "TMPDIR": str(bare), **({"CI": "true"} if ci else {})}
    return subprocess.run([RUN_TESTS, bare, *words], capture_output=True, text=True, env=environment, check=False)


def test_what_is_left_out_is_the_last_that_is_said_and_fails_in_ci(bare: Path) -> None:
    done = run(bare, ci=False)
    assert done.returncode == 0
    assert "LEFT OUT" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "checkpoint and restore: there is no criu (Debian's criu)"
    assert run(bare, ci=True).returncode == 1


def test_a_criu_that_does_not_know_the_kernel_needs_a_guest(bare: Path) -> None:
    (bare / "criu").symlink_to(shutil.which("false") or "")
    done = run(bare, ci=True)
    assert (done.returncode, "there is no qemu-system-x86_64" in done.stdout.splitlines()[-1]) == (1, True)


def test_a_run_of_some_tests_leaves_nothing_out(bare: Path) -> None:
    done = run(bare, "tests/unit", ci=True)
    assert (done.returncode, done.stdout) == (0, "")
    (bare / "python").unlink()
    (bare / "python").symlink_to(shutil.which("false") or "")
    assert run(bare, "tests/unit", ci=False).returncode == 1


def test_nothing_is_left_behind(bare: Path) -> None:
    before = sorted(os.listdir(bare))
    run(bare, ci=False)
    assert sorted(os.listdir(bare)) == before
