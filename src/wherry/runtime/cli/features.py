"""`wherry-runc features`: what this runtime does, as JSON (OCI runtime-spec features.md). Says what is compiled in,
not what this kernel allows.
"""

from __future__ import annotations

import os

from wherry.runtime.cli import options
from wherry.runtime.cli.output import pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

SPECIFICATION = "1.3.0"
"""The version of the OCI runtime specification that this is an implementation of."""
USAGE = "features"
EXAMPLES = "   wherry-runc features\n"
OPTIONS = ()


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 0, 0, USAGE)
    os.write(1, pretty(features(), "    ") + b"\n")
    return 0


def features() -> dict[str, Any]:
    from wherry import __version__
    from wherry.linux import capabilities, seccomp
    from wherry.runtime import mount_options, scheduling

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPECIFICATION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options.known(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": libseccomp_version() is not None,
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.FLAGS),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": sorted(scheduling.MEMORY_MODES), "flags": sorted(scheduling.MEMORY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property.", "org.criu.config"],
        "annotations": {
            "org.wherry.runc.version": __version__,
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "io.github.seccomp.libseccomp.version": libseccomp_version() or "",
        },
    }


def libseccomp_version() -> str | None:
    """ "2.5.4"; None when the library is missing."""
    import ctypes

    class Version(ctypes.Structure):
        _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))

    try:
        call = ctypes.CDLL("libseccomp.so.2").seccomp_version
    except OSError:
        return None
    call.restype = ctypes.POINTER(Version)
    found = call().contents
    return f"{found.major}.{found.minor}.{found.micro}"
