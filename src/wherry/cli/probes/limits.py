"""Probes of control groups."""

from __future__ import annotations

import os

from wherry.errors import WherryError

from .finding import Finding, degraded, missing, ok

_WANTED = {
    "memory": "-m",
    "cpu": "--cpus",
    "cpuset": "--cpuset-cpus",
    "pids": "--pids-limit",
    "devices": "device rules",
    "freezer": "pause",
    "blkio": "--blkio-weight",
}
_V2_NAMES = {"io": "blkio"}
_REMEDY = "mount the hierarchy (mount -t cgroup2 none /sys/fs/cgroup), or enable what is missing on the kernel command line (cgroup_enable=memory)"


def cgroups() -> Finding:
    """A group made and removed in every hierarchy."""
    from wherry.linux import cgroups as groups

    name = f"/wherry-doctor-{os.getpid()}"
    try:
        layout = groups.detect()
    except WherryError as error:
        return missing("cgroups", str(error), "containers are supervised and limited through them", _REMEDY)
    shown = {"v1": "version 1", "hybrid": "version 1 (hybrid)", "v2": "version 2"}[layout.mode]
    group = groups.open_group(name, layout=layout)
    try:
        group.create()
        group.delete()
    except (WherryError, OSError) as error:
        return missing(
            "cgroups",
            f"{shown}; a group cannot be made: {error}",
            "every container has a group of its own",
            "run as root, on the host or privileged",
        )
    return ok("cgroups", f"{shown}, a group can be made")


def available() -> set[str]:
    """The controllers that containers can use, by their version 1 names; devices and freezer are part of version 2 itself."""
    from wherry.linux import cgroups as groups

    layout = groups.detect()
    if layout.v1:
        return {controller for hierarchy in layout.v1 for controller in hierarchy.controllers}
    assert layout.unified is not None
    with open(f"{layout.unified.mountpoint}/cgroup.controllers", encoding="ascii") as file:
        return {_V2_NAMES.get(name, name) for name in file.read().split()} | {"devices", "freezer"}


def controllers() -> Finding:
    """What can be limited."""
    try:
        have = available()
    except (WherryError, OSError) as error:
        return degraded("cgroup controllers", str(error), "nothing can be limited", _REMEDY)
    lacking = [name for name in _WANTED if name not in have]
    if not lacking:
        return ok("cgroup controllers", " ".join(_WANTED))
    without = ", ".join(f"{name} ({_WANTED[name]})" for name in lacking)
    return degraded(
        "cgroup controllers", f"without {without}", "containers that ask for these limits are refused", _REMEDY
    )
