"""From HostConfig's limits to the OCI `resources` section, with Docker's checks and words. Pure but for `lookup_device`."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from wherry.errors import InvalidArgument
from wherry.wire.engine import DeviceMapping, HostConfig, ThrottleDevice

if TYPE_CHECKING:
    from wherry.spec import oci

MIN_MEMORY = 6 * 1024 * 1024
CPU_PERIOD_US = 100_000

_NODES = (
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
)  # null zero full random urandom, tty console ptmx


def _default_device_rules() -> list[oci.DeviceRule]:
    """Any node may be made; none of the machine's opened, but for the harmless ones and the container's own terminals."""
    rules: list[oci.DeviceRule] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
        {"allow": True, "type": "c", "major": 136, "access": "rwm"},
    ]
    for major, minor in _NODES:
        rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    return rules


def check(host: HostConfig) -> list[str]:
    """→ warnings. InvalidArgument in dockerd's words. Fills in memory_swap as Docker does (twice the memory)."""
    warnings: list[str] = []
    if host.memory and host.memory < MIN_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if host.memory < 0:
        raise InvalidArgument("invalid memory limit: it must not be negative")
    if host.memory_swap > 0 and host.memory == 0:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory and host.memory_swap == 0:
        host.memory_swap = host.memory * 2
    if host.memory_swappiness is not None and host.memory_swappiness != -1 and not 0 <= host.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if 0 < host.memory_reservation < MIN_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if host.memory and host.memory_reservation > host.memory:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.nano_cpus < 0 or host.nano_cpus > (os.cpu_count() or 1) * 1_000_000_000:
        count = os.cpu_count() or 1
        raise InvalidArgument(f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    for asked, what in ((host.cpu_period, "Period"), (host.cpu_quota, "Quota")):
        if host.nano_cpus and asked > 0:
            raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {what} cannot both be set")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    if host.oom_score_adj and not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
        )
    _check_set(host.cpuset_cpus, "cpus", "CPUs", "/sys/devices/system/cpu/online")
    _check_set(host.cpuset_mems, "mems", "memory nodes", "/sys/devices/system/node/online")
    return warnings


def _check_set(text: str, kind: str, what: str, online: str) -> None:
    """A list like "0-2,7", all of it there. `online` is the kernel's own list of what is; without it (no NUMA) nothing is said."""
    if not text:
        return
    wanted = _parse_set(text, kind)
    try:
        with open(online, encoding="ascii") as file:
            available = file.read().strip()
    except FileNotFoundError:
        return
    if not wanted <= _parse_set(available, kind):
        raise InvalidArgument(f"Requested {what} are not available - requested {text}, available: {available}")


def _parse_set(text: str, kind: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and (not last.isdecimal() or int(last) < int(first))) or len(text) > 4096:
            raise InvalidArgument(f"Invalid value {text} for cpuset {kind}")
        if len(first) > 5 or len(last) > 5:
            raise InvalidArgument(f"Invalid value {text} for cpuset {kind}")
        found.update(range(int(first), int(last or first) + 1))
    return found


def resources(host: HostConfig, device_rules: list[oci.DeviceRule]) -> oci.Resources:
    """The section, with only what was asked for (each value costs a write into a control file at start)."""
    section: oci.Resources = {"devices": device_rules}
    memory: oci.Memory = {}
    if host.memory:
        memory["limit"] = host.memory
    if host.memory_swap:
        memory["swap"] = host.memory_swap
    if host.memory_reservation:
        memory["reservation"] = host.memory_reservation
    if host.memory_swappiness is not None and host.memory_swappiness != -1:
        memory["swappiness"] = host.memory_swappiness
    if host.oom_kill_disable:
        memory["disableOOMKiller"] = True
    if memory:
        section["memory"] = memory
    cpu: oci.Cpu = {}
    if host.cpu_shares:
        cpu["shares"] = max(2, host.cpu_shares)
    if host.nano_cpus:
        cpu["period"] = CPU_PERIOD_US
        cpu["quota"] = host.nano_cpus * CPU_PERIOD_US // 1_000_000_000
    if host.cpu_period:
        cpu["period"] = host.cpu_period
    if host.cpu_quota:
        cpu["quota"] = host.cpu_quota
    if host.cpuset_cpus:
        cpu["cpus"] = host.cpuset_cpus
    if host.cpuset_mems:
        cpu["mems"] = host.cpuset_mems
    if cpu:
        section["cpu"] = cpu
    if host.pids_limit and host.pids_limit > 0:
        section["pids"] = {"limit": host.pids_limit}
    block = _block_io(host)
    if block:
        section["blockIO"] = block
    return section


def _block_io(host: HostConfig) -> oci.BlockIO:
    block: oci.BlockIO = {}
    if host.blkio_weight:
        block["weight"] = host.blkio_weight
    if host.blkio_weight_device:
        weights: list[oci.WeightDevice] = []
        for item in host.blkio_weight_device:
            major, minor = lookup_device(item.path)
            weights.append({"major": major, "minor": minor, "weight": item.weight})
        block["weightDevice"] = weights
    if host.blkio_device_read_bps:
        block["throttleReadBpsDevice"] = _throttles(host.blkio_device_read_bps)
    if host.blkio_device_write_bps:
        block["throttleWriteBpsDevice"] = _throttles(host.blkio_device_write_bps)
    if host.blkio_device_read_iops:
        block["throttleReadIOPSDevice"] = _throttles(host.blkio_device_read_iops)
    if host.blkio_device_write_iops:
        block["throttleWriteIOPSDevice"] = _throttles(host.blkio_device_write_iops)
    return block


def _throttles(items: list[ThrottleDevice]) -> list[oci.ThrottleDevice]:
    found: list[oci.ThrottleDevice] = []
    for item in items:
        major, minor = lookup_device(item.path)
        found.append({"major": major, "minor": minor, "rate": item.rate})
    return found


def lookup_device(path: str) -> tuple[int, int]:
    """Major and minor of a host device node. InvalidArgument when it is none."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"stat {path}: {(error.strerror or '').lower()}") from error
    if not (stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode)):
        raise InvalidArgument(f"{path}: not a device node")
    return os.major(info.st_rdev), os.minor(info.st_rdev)


def device_rules(host: HostConfig, mapped: list[oci.Device]) -> list[oci.DeviceRule]:
    """The device controller's rules: Docker's default, what --device maps, what --device-cgroup-rule says."""
    if host.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules = _default_device_rules()
    access = {mapping.path_in_container: mapping.cgroup_permissions or "rwm" for mapping in host.devices or []}
    for device in mapped:
        permissions = next((value for path, value in access.items() if device["path"].startswith(path)), "rwm")
        rules.append(
            {
                "allow": True,
                "type": device["type"],
                "major": device["major"],
                "minor": device["minor"],
                "access": permissions,
            }
        )
    for text in host.device_cgroup_rules or []:
        rules.append(_parse_rule(text))
    return rules


def _parse_rule(text: str) -> oci.DeviceRule:
    parts = text.split()
    numbers = parts[1].split(":") if len(parts) == 3 else []
    if (
        len(numbers) != 2
        or parts[0] not in ("a", "b", "c")
        or not set(parts[2]) <= set("rwm")
        or not all(n == "*" or n.isdecimal() for n in numbers)
    ):
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    rule: oci.DeviceRule = {"allow": True, "type": parts[0], "access": parts[2]}
    if numbers[0] != "*":
        rule["major"] = int(numbers[0])
    if numbers[1] != "*":
        rule["minor"] = int(numbers[1])
    return rule


def devices(host: HostConfig) -> list[oci.Device]:
    """The nodes that --device (or --privileged) puts into /dev. A directory stands for all nodes below it."""
    if host.privileged:
        return [device for path in _nodes_below("/dev") if (device := _node(path, path))]
    found: list[oci.Device] = []
    for mapping in host.devices or []:
        found += _mapped(mapping)
    return found


def _mapped(mapping: DeviceMapping) -> list[oci.Device]:
    source, target = mapping.path_on_host, mapping.path_in_container or mapping.path_on_host
    if not set(mapping.cgroup_permissions or "rwm") <= set("rwm"):
        raise InvalidArgument(f"invalid device mode: {mapping.cgroup_permissions}")
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid device path in the container: {target!r} is not absolute")
    source = os.path.realpath(source)
    if os.path.isdir(source):
        found = [device for path in _nodes_below(source) if (device := _node(path, target + path[len(source) :]))]
    else:
        device = _node(source, target)
        found = [device] if device else []
    if not found:
        why = "not a device node" if os.path.lexists(source) else "no such file or directory"
        raise InvalidArgument(
            f'error gathering device information while adding custom device "{mapping.path_on_host}": {why}'
        )
    return found


def _nodes_below(root: str) -> list[str]:
    skip = {"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/.lxc", "/dev/.udev"}
    paths: list[str] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if f"{folder}/{name}" not in skip]
        paths += [f"{folder}/{name}" for name in files if f"{folder}/{name}" not in skip]
    return paths


def _node(source: str, target: str) -> oci.Device | None:
    try:
        info = os.lstat(source)
    except OSError:
        return None
    if stat.S_ISCHR(info.st_mode):
        kind = "c"
    elif stat.S_ISBLK(info.st_mode):
        kind = "b"
    else:
        return None
    return {
        "type": kind,
        "path": target,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }
