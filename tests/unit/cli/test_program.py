"""`bin/wherry`, the shell script that starts the interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.wherry_runc import REPOSITORY, install


def test_a_directory_as_standard_input_is_an_empty_one(tmp_path: Path) -> None:
    """Python does not start with one; docker does."""
    program = shutil.copy(REPOSITORY / "src/bin/wherry", install(tmp_path / "usr").parent)
    place = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run([program, "--version"], stdin=place, capture_output=True, text=True, check=False)
    finally:
        os.close(place)
    assert done.returncode == 0 and done.stdout.startswith("wherry version") and done.stderr == ""
