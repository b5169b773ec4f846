"""SIGINT while a program is still being imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.requires("root", "strace")

BIN, PACKAGES = Path(sysconfig.get_path("scripts")), sysconfig.get_path("purelib")


@pytest.mark.parametrize(
    ("program", "module"), [("wherry", "cli/flags"), ("wherryd", "daemon/config"), ("wherry-runc", "runtime/cli/main")]
)
def test_an_interrupt_during_the_imports_ends_the_program_without_a_word(program: str, module: str) -> None:
    inside = f"{os.path.relpath(PACKAGES, BIN)}/wherry/{module}.py"
    inject = "inject=?stat,?newfstatat,?statx:signal=INT:when=1"
    trace = ("strace", "-qq", "-o", "/dev/null", "-P", str(BIN / inside), "-e", inject)
    command = ["env", "--default-signal", *trace, str(BIN / program), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = [line for line in done.stderr.splitlines() if not line.startswith("strace: ")]
    assert (done.returncode, done.stdout, said) == (-signal.SIGINT, "", [])
