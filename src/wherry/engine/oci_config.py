"""The OCI config.json of a container: Docker's semantics in the runtime's words.

`build` is pure but for device look-ups: a record, its files and its namespaces in, a configuration out. What needs the root file system
(user names, HOME) is left to the shim, which has it mounted (`TaskSpec.user`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry.engine import resources, security
from wherry.engine.records import MountPoint, Record
from wherry.errors import InvalidArgument
from wherry.wire.engine import HostConfig, Ulimit

if TYPE_CHECKING:
    from wherry.spec import oci

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_SIZE = 64 * 1024 * 1024
INIT_PATH = "/sbin/docker-init"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container gets from the engine, beyond its own record."""

    hostname_file: str
    hosts_file: str
    resolv_conf_file: str
    cgroups_path: str
    network_path: str | None  # of a namespace to join; None: the one handed to the shim
    host_network: bool
    pid_path: str | None = None  # of --pid container:
    ipc_path: str | None = None
    shm_source: str | None = None  # of --ipc container:
    init_binary: str | None = None  # of --init
    volume_paths: dict[str, str] | None = None
    default_ulimits: tuple[Ulimit, ...] = ()


def build(record: Record, around: Surroundings) -> oci.Config:
    """InvalidArgument for what cannot be carried out."""
    host = record.host_config
    options = security.parse_options(host.security_opt)
    mapped = resources.devices(host)
    linux: oci.Linux = {
        "namespaces": _namespaces(host, around),
        "cgroupsPath": around.cgroups_path,
        "resources": resources.resources(host, resources.device_rules(host, mapped)),
        "devices": mapped,
        "maskedPaths": []
        if host.privileged
        else list(security.MASKED_PATHS if host.masked_paths is None else host.masked_paths),
        "readonlyPaths": []
        if host.privileged
        else list(security.READONLY_PATHS if host.readonly_paths is None else host.readonly_paths),
    }
    propagation = _rootfs_propagation(record.mounts)
    if propagation:
        linux["rootfsPropagation"] = propagation
    sysctl = dict(host.sysctls or {})
    if not around.host_network:
        sysctl.setdefault("net.ipv4.ip_unprivileged_port_start", "0")
        if "ping_group_range" not in sysctl:
            sysctl.setdefault("net.ipv4.ping_group_range", "0 2147483647")
    if sysctl and around.network_path is None:
        linux["sysctl"] = sysctl
    elif host.sysctls:
        linux["sysctl"] = dict(host.sysctls)
    config: oci.Config = {
        "ociVersion": "1.0.2",
        "process": process(record, options),
        "root": {"path": "rootfs", "readonly": host.readonly_rootfs},
        "mounts": _mounts(record, around),
        "linux": linux,
    }
    if around.init_binary:
        config["process"]["args"] = [INIT_PATH, "--", *config["process"]["args"]]
    if host.uts_mode != "host":
        config["hostname"] = record.config.hostname
        if record.config.domainname:
            config["domainname"] = record.config.domainname
    if host.annotations:
        config["annotations"] = dict(host.annotations)
    limits = _rlimits(host.ulimits or [], around.default_ulimits)
    if limits:
        config["process"]["rlimits"] = limits
    return config


def merge_environment(base: list[str], changes: list[str]) -> list[str]:
    """`base` with each of `changes` in the place of what it replaces, the others behind. "KEY" alone takes a variable away. As dockerd."""
    merged = {item.partition("=")[0]: item for item in base}
    for item in changes:
        key, equals, _ = item.partition("=")
        if equals:
            merged[key] = item
        else:
            merged.pop(key, None)
    return list(merged.values())


def process(record: Record, options: security.SecurityOptions) -> oci.Process:
    """The first process. Its user's numbers and HOME come from the container's own files, later."""
    config, host = record.config, record.host_config
    defaults = [DEFAULT_PATH, f"HOSTNAME={config.hostname}", *(["TERM=xterm"] if config.tty else [])]
    names = security.effective_capabilities(host)
    described: oci.Process = {
        "terminal": config.tty,
        "cwd": config.working_dir or "/",
        "env": merge_environment(defaults, config.env or []),
        "args": [record.path, *record.args],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": names, "effective": names, "permitted": names},
        "noNewPrivileges": options.no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
    }
    if options.apparmor and options.apparmor != "unconfined":
        described["apparmorProfile"] = options.apparmor
    if config.tty and host.console_size and any(host.console_size):
        described["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    return described


def _namespaces(host: HostConfig, around: Surroundings) -> list[oci.Namespace]:
    spaces: list[oci.Namespace] = [{"type": "mount"}]
    if host.pid_mode.startswith("container:") and around.pid_path:
        spaces.append({"type": "pid", "path": around.pid_path})
    elif host.pid_mode != "host":
        spaces.append({"type": "pid"})
    if host.ipc_mode.startswith("container:") and around.ipc_path:
        spaces.append({"type": "ipc", "path": around.ipc_path})
    elif host.ipc_mode != "host":
        spaces.append({"type": "ipc"})
    if host.uts_mode != "host":
        spaces.append({"type": "uts"})
    if not around.host_network:
        spaces.append({"type": "network", "path": around.network_path} if around.network_path else {"type": "network"})
    if host.cgroupns_mode != "host":
        spaces.append({"type": "cgroup"})
    return spaces


def _mounts(record: Record, around: Surroundings) -> list[oci.Mount]:
    host = record.host_config
    read_write = host.privileged
    sys_options = ["nosuid", "noexec", "nodev"]
    mounts: list[oci.Mount] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": sys_options + ([] if read_write else ["ro"]),
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": sys_options + ([] if read_write else ["ro"]),
        },
    ]
    if host.ipc_mode == "host":
        mounts.append(
            {"destination": "/dev/mqueue", "type": "bind", "source": "/dev/mqueue", "options": ["rbind"]}
            if os.path.ismount("/dev/mqueue")
            else {
                "destination": "/dev/mqueue",
                "type": "mqueue",
                "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"],
            }
        )
    else:
        mounts.append(
            {
                "destination": "/dev/mqueue",
                "type": "mqueue",
                "source": "mqueue",
                "options": ["nosuid", "noexec", "nodev"],
            }
        )
    taken = {point.destination for point in record.mounts}
    if "/dev/shm" not in taken:
        mounts += _shm(host, around)
    # over the user's, so that a mount on /etc does not hide them
    last: list[oci.Mount] = [
        {
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": ["rbind", "rprivate"] + (["ro"] if host.readonly_rootfs else []),
        }
        for destination, source in (
            ("/etc/resolv.conf", around.resolv_conf_file),
            ("/etc/hostname", around.hostname_file),
            ("/etc/hosts", around.hosts_file),
        )
        if source
    ]
    if around.init_binary:
        last.append({"destination": INIT_PATH, "type": "bind", "source": around.init_binary, "options": ["bind", "ro"]})
    return [
        *(mount for mount in mounts if mount["destination"] not in taken),
        *(_user_mount(point, around) for point in record.mounts),
        *(mount for mount in last if mount["destination"] not in taken),
    ]


def _shm(host: HostConfig, around: Surroundings) -> list[oci.Mount]:
    if host.ipc_mode == "host":
        return [
            {
                "destination": "/dev/shm",
                "type": "bind",
                "source": "/dev/shm",
                "options": ["rbind", "nosuid", "noexec", "nodev"],
            }
        ]
    if host.ipc_mode == "none":
        return []
    if around.shm_source:
        return [
            {
                "destination": "/dev/shm",
                "type": "bind",
                "source": around.shm_source,
                "options": ["bind", "nosuid", "noexec", "nodev"],
            }
        ]
    size = host.shm_size or DEFAULT_SHM_SIZE
    return [
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", f"size={size}"],
        }
    ]


def _user_mount(point: MountPoint, around: Surroundings) -> oci.Mount:
    if point.type == "tmpfs":
        return {
            "destination": point.destination,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": list(point.options),
        }
    source = point.source or (around.volume_paths or {}).get(point.name, "")
    if not source:
        raise InvalidArgument(f"volume {point.name} has no directory")
    options = ["rbind" if point.recursive else "bind"]
    if point.read_only:
        options.append("rro" if point.recursive and point.read_only_below else "ro")
    options.append(point.propagation or "rprivate")
    return {"destination": point.destination, "type": "bind", "source": source, "options": options}


def _rootfs_propagation(mounts: list[MountPoint]) -> str:
    modes = {point.propagation for point in mounts}
    if modes & {"shared", "rshared"}:
        return "rshared"
    if modes & {"slave", "rslave"}:
        return "rslave"
    return ""


def _rlimits(asked: list[Ulimit], defaults: tuple[Ulimit, ...]) -> list[oci.Rlimit]:
    names = {limit.name for limit in asked}
    chosen = [*asked, *(limit for limit in defaults if limit.name not in names)]
    found: list[oci.Rlimit] = []
    for limit in chosen:
        if limit.name not in ULIMITS:
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
        if limit.soft > limit.hard != -1:
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )
        found.append(
            {"type": f"RLIMIT_{limit.name.upper()}", "soft": _unsigned(limit.soft), "hard": _unsigned(limit.hard)}
        )
    return found


ULIMITS = frozenset(
    (
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    )
)


def _unsigned(value: int) -> int:
    """-1 is "unlimited", which the OCI spec writes as 2^64-1."""
    return value if value >= 0 else 2**64 - 1
