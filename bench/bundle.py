"""An OCI bundle for the runtimes: busybox as root file system, `true` as the program, what `runc spec` writes as configuration."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests import images


def make(directory: Path) -> str:
    """→ the bundle's path."""
    directory.mkdir(parents=True)
    images.unpack_busybox(str(directory / "rootfs"))
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"]["args"] = ["/bin/true"]
    config["process"]["terminal"] = False
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)
