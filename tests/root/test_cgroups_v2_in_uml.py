"""cgroup v2, on a machine that has v1: tests/uml in a user-mode Linux."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "uml/run"


@pytest.mark.requires("root", "uml", "cgroup1", "busybox")
def test_the_suite_of_cgroup_v2_passes_in_user_mode_linux() -> None:
    done = subprocess.run(
        [RUN],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
