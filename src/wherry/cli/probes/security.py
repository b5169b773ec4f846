"""Probes of what confines a container."""

from __future__ import annotations

import os

from wherry.errors import WherryError

from .finding import Finding, degraded, missing, ok
from .trial import attempt


def seccomp() -> Finding:
    """A filter compiled by libseccomp and loaded in a child."""
    if not os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        return missing(
            "seccomp",
            "not in this kernel",
            "containers are confined by a filter of system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        )
    from wherry.linux import seccomp as filters
    from wherry.spec.oci import Seccomp

    section: Seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["swapoff"], "action": "SCMP_ACT_ERRNO"}],
    }
    try:
        program = filters.compile(section)
    except (WherryError, OSError) as error:
        return missing(
            "seccomp",
            str(error),
            "the default profile cannot be compiled; containers run only with --security-opt seccomp=unconfined",
            "install libseccomp2 (Debian, Ubuntu) or libseccomp (Fedora)",
        )
    problem = attempt(0, lambda: filters.load(program))
    if problem:
        return missing(
            "seccomp", problem, "the default profile cannot be loaded", "use a kernel with CONFIG_SECCOMP_FILTER"
        )
    return ok("seccomp", "a filter was compiled by libseccomp and loaded")


def apparmor() -> Finding:
    """One wall more, where the distribution has it."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as file:
            enabled = file.read().strip() == "Y"
    except OSError:
        enabled = False
    if enabled:
        return ok("AppArmor", "enabled")
    return degraded(
        "AppArmor",
        "not enabled",
        "--security-opt apparmor=… is refused; namespaces, capabilities and seccomp confine containers",
        "boot with apparmor=1 security=apparmor, if the distribution has it",
    )
