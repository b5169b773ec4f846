"""wherry-runc of this source tree, as it is installed: beside an interpreter, the package and libexec in their places."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "src/bin/wherry-runc"
LAUNCHER = REPOSITORY / "src/launcher" / platform.machine() / "wherry-runc"


def packages(prefix: Path) -> Path:
    return prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def install_programs(prefix: Path, *, launcher: bool = LAUNCHER.exists()) -> Path:
    """bin and libexec in the directory `prefix`, without `launcher` as on a machine that has none. The program's path."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    shutil.copy(LAUNCHER if launcher else SCRIPT, prefix / "bin")
    if launcher:
        (prefix / "libexec/wherry").mkdir(parents=True)
        shutil.copy(SCRIPT, prefix / "libexec/wherry")
    return prefix / "bin/wherry-runc"


def install(prefix: Path, *, launcher: bool = LAUNCHER.exists()) -> Path:
    """Makes the directory `prefix`, and in it what an installation has. The program's path."""
    packages(prefix).mkdir(parents=True)
    (packages(prefix) / "wherry").symlink_to(REPOSITORY / "src/wherry")
    return install_programs(prefix, launcher=launcher)
