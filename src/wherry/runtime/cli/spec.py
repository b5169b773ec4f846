"""`wherry-runc spec`: writes a config.json to begin with: a shell on a terminal, every namespace, few capabilities, a
read-only root.
"""

from __future__ import annotations

import os

from wherry.errors import AlreadyExists
from wherry.linux import cgroups
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.features import SPECIFICATION
from wherry.runtime.cli.options import Option
from wherry.runtime.cli.output import pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals
    from wherry.spec.oci import Config

USAGE = "spec [options]"
EXAMPLES = "   mkdir web && cd web && mkdir rootfs && wherry-runc spec\n"
OPTIONS = (
    Option("bundle", "path to the root of the bundle directory", short="b"),
    Option("rootless", "generate a configuration for a rootless container", kind="switch"),
)
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 0, 0, USAGE)
    path = os.path.join(os.path.abspath(values["bundle"] or "."), "config.json")
    if os.path.lexists(path):
        raise AlreadyExists(f"File {path} exists. Remove it first")
    config = default()
    if values["rootless"]:
        make_rootless(config)
    states.write_file(path, pretty(config, "\t") + b"\n", 0o666)
    return 0


def make_rootless(config: Config) -> None:
    """For the user who runs this and no other: a user namespace with one id, the host's network and its /sys, no limits."""
    linux = config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] not in ("network", "user")]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    for index, mount in enumerate(config["mounts"]):
        if mount["destination"] == "/sys":
            config["mounts"][index] = _mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
        elif "options" in mount:
            mount["options"] = [word for word in mount["options"] if not word.startswith(("gid=", "uid="))]


def default() -> Config:
    """The configuration that `runc spec` has made known."""
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    if cgroups.detect().v1:
        kinds.remove("cgroup")
    return {
        "ociVersion": SPECIFICATION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": _CAPABILITIES, "effective": _CAPABILITIES, "permitted": _CAPABILITIES},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "wherry",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount(
                "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
            ),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": [
                *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"),
                *(
                    "/proc/timer_stats",
                    "/proc/sched_debug",
                    "/sys/firmware",
                    "/sys/devices/virtual/powercap",
                    "/proc/scsi",
                ),
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _mount(destination: str, kind: str, source: str, *words: str) -> Any:
    return {"destination": destination, "type": kind, "source": source, "options": list(words)}
