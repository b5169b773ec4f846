"""wherry-runc of this source tree, as it is installed: beside an interpreter, the package and libexec in their places."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def install(prefix: Path) -> Path:
    """Makes the directory `prefix`, and in it what an installation has. The program's path."""
    packages = prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    (packages / "wherry").symlink_to(REPOSITORY / "src/wherry")
    (prefix / "bin").mkdir()
    (prefix / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    shutil.copy(REPOSITORY / "src/bin/wherry-runc", prefix / "bin")
    shutil.copytree(REPOSITORY / "src/libexec", prefix / "libexec/wherry")
    return prefix / "bin/wherry-runc"
