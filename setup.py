"""What pyproject.toml cannot say: bin/wherry-runc is a program where there is one for the machine (tools/make_launcher.py), and the wheel
is for that machine then; else it is the script that the program falls back on, and the wheel is for all.
"""

import sysconfig
from pathlib import Path

from setuptools import setup

SCRIPT = "src/bin/wherry-runc"
machine = sysconfig.get_platform().removeprefix("linux-")
launcher = f"src/launcher/{machine}/wherry-runc"

if Path(launcher).exists():
    setup(
        scripts=["src/bin/wherry"],
        data_files=[("bin", [launcher]), ("libexec/wherry", [SCRIPT])],
        options={"bdist_wheel": {"plat_name": f"linux_{machine}"}},
    )
else:
    setup(scripts=["src/bin/wherry", SCRIPT])
