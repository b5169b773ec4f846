"""OCI `linux.resources` on cgroup v1: which file takes which value, and in which order.

Only fields that have a value are written. A field whose controller or file is missing is an error that names the
field. Sources: OCI config-linux.md, the kernel's Documentation/admin-guide/cgroup-v1/; the order of memory limits
from the rule memory ≤ memory+swap, which holds at every moment.
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument, WherryError
from wherry.linux import cgroups
from wherry.linux.cgroups import devices as device_rules
from wherry.linux.cgroups.files import pids_max, read, read_int, refused, set_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec.oci import BlockIO, Cpu, DeviceRule, Memory, Resources


def apply(paths: dict[str, str], resources: Resources, *, update: bool) -> None:
    """Writes all that `resources` holds. `update`: the group is in use, so device rules are changed one by one, never
    through a moment of "none".
    """
    if resources.get("unified"):
        raise FailedPrecondition(
            "unified: invalid configuration: this machine uses cgroup v1, which has no unified resources"
        )
    if rules := resources.get("devices"):
        _devices(_need(paths, "devices", "devices"), rules, update=update)
    if memory := resources.get("memory"):
        _memory(paths, memory)
    if cpu := resources.get("cpu"):
        _cpu(paths, cpu)
    if (limit := (resources.get("pids") or {}).get("limit")) is not None:
        set_value("pids.limit", _need(paths, "pids", "pids.limit"), "pids.max", pids_max(limit))
    if block := resources.get("blockIO"):
        _block_io(paths, block)
    for page in resources.get("hugepageLimits") or ():
        directory = _need(paths, "hugetlb", "hugepageLimits")
        set_value("hugepageLimits", directory, f"hugetlb.{page['pageSize']}.limit_in_bytes", page["limit"])
        if os.path.exists(f"{directory}/hugetlb.{page['pageSize']}.rsvd.limit_in_bytes"):
            set_value("hugepageLimits", directory, f"hugetlb.{page['pageSize']}.rsvd.limit_in_bytes", page["limit"])
    if network := resources.get("network"):
        _network(paths, network)
    for device, limits in (resources.get("rdma") or {}).items():
        text = " ".join([device, *(f"{key}={limits[name]}" for key, name in _RDMA if name in limits)])
        set_value("rdma", _need(paths, "rdma", "rdma"), "rdma.max", text)


_RDMA = (("hca_handle", "hcaHandles"), ("hca_object", "hcaObjects"))


def _need(paths: dict[str, str], controller: str, resource: str) -> str:
    directory = paths.get(controller)
    if directory is None and any(controller in hierarchy.controllers for hierarchy in cgroups.detect().v1):
        raise FailedPrecondition(f"cannot set {controller} limit: container could not join or create cgroup")
    if directory is None:
        raise FailedPrecondition(f"{resource}: the {controller} cgroup controller is not mounted on this machine")
    return directory


def _devices(directory: str, rules: list[DeviceRule], *, update: bool) -> None:
    current = _listed(directory) if update else None
    wanted = device_rules.policy(rules)
    if current is None or current.default != wanted.default:
        everything = "devices.allow" if wanted.default else "devices.deny"
        set_value("devices", directory, everything, "a")
        current = device_rules.Policy(wanted.default)
    take, give = ("devices.allow", "devices.deny") if wanted.default else ("devices.deny", "devices.allow")
    for key, access in current.exceptions.items():
        gone = "".join(letter for letter in access if letter not in wanted.exceptions.get(key, ""))
        if gone:
            set_value("devices", directory, take, device_rules.spell(key, gone))
    _write_all(directory, give, [device_rules.spell(key, access) for key, access in wanted.exceptions.items()])


def _write_all(directory: str, name: str, values: list[str]) -> None:
    """Many values into one control file, opened once."""
    if not values:
        return
    value, path = values[0], f"{directory}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for value in values:
                os.write(fd, os.fsencode(value))
        finally:
            os.close(fd)
    except OSError as error:
        raise refused("devices", path, value, error) from None


def _listed(directory: str) -> device_rules.Policy | None:
    """The group's present policy from devices.list; None when it cannot be known from there (it allows by default:
    exceptions are not listed).
    """
    result = device_rules.Policy(default=False)
    for line in read(f"{directory}/devices.list").splitlines():
        kind, numbers, access = line.split(" ")
        if kind == "a":
            return None
        major, minor = (-1 if part == "*" else int(part) for part in numbers.split(":"))
        result.exceptions[kind, major, minor] = access
    return result


def _memory(paths: dict[str, str], memory: Memory) -> None:
    directory = _need(paths, "memory", "memory")
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    hierarchical = memory.get("useHierarchy")
    if hierarchical is not None:
        set_value("memory.useHierarchy", directory, "memory.use_hierarchy", int(hierarchical))
    if memory.get("checkBeforeUpdate") and limit > 0:
        usage = read_int(f"{directory}/memory.usage_in_bytes")
        if usage > limit:
            raise FailedPrecondition(f"memory.limit: {limit} is below the present usage of {usage} bytes")
    swap_file = f"{directory}/memory.memsw.limit_in_bytes"
    if limit == -1 and swap == 0 and os.path.exists(swap_file):
        swap = -1
    if swap > 0 and not os.path.exists(swap_file):
        raise FailedPrecondition("memory.swap: this kernel does not account for swap (no memory.memsw.limit_in_bytes)")
    if limit and swap and 0 < swap < limit:
        raise InvalidArgument(
            f"memory.swap: {swap} is less than memory.limit {limit}: it counts memory and swap together"
        )
    steps = [("memory.limit", "memory.limit_in_bytes", limit)] if limit else []
    if swap and os.path.exists(swap_file):
        swap_first = bool(limit) and (swap == -1 or read_int(f"{directory}/memory.limit_in_bytes") < swap)
        steps.insert(0 if swap_first else 1, ("memory.swap", "memory.memsw.limit_in_bytes", swap))
    for resource, name, value in steps:
        try:
            set_value(resource, directory, name, value)
        except WherryError as error:
            raise _explain_memory(directory, resource, value, error) from None
    if reservation := memory.get("reservation"):
        set_value("memory.reservation", directory, "memory.soft_limit_in_bytes", reservation)
    if kernel := memory.get("kernel"):
        set_value("memory.kernel", directory, "memory.kmem.limit_in_bytes", kernel)
    if kernel_tcp := memory.get("kernelTCP"):
        set_value("memory.kernelTCP", directory, "memory.kmem.tcp.limit_in_bytes", kernel_tcp)
    swappiness = memory.get("swappiness")
    if swappiness is not None:
        if not 0 <= swappiness <= 100:
            raise InvalidArgument(f"memory.swappiness: {swappiness} is not between 0 and 100")
        set_value("memory.swappiness", directory, "memory.swappiness", swappiness)
    if memory.get("disableOOMKiller"):
        set_value("memory.disableOOMKiller", directory, "memory.oom_control", 1)


def _explain_memory(directory: str, resource: str, value: int, error: WherryError) -> WherryError:
    if "busy" not in str(error):
        return error
    usage, peak = read_int(f"{directory}/memory.usage_in_bytes"), read_int(f"{directory}/memory.max_usage_in_bytes")
    return FailedPrecondition(
        f"{resource}: unable to set the limit to {value} (current usage: {usage}, peak usage: {peak})"
    )


def _cpu(paths: dict[str, str], cpu: Cpu) -> None:
    if any(
        cpu.get(name) is not None
        for name in ("shares", "quota", "period", "burst", "idle", "realtimeRuntime", "realtimePeriod")
    ):
        directory = _need(paths, "cpu", "cpu")
        if cpu.get("realtimePeriod"):
            set_value("cpu.realtimePeriod", directory, "cpu.rt_period_us", cpu["realtimePeriod"])
        if cpu.get("realtimeRuntime"):
            set_value("cpu.realtimeRuntime", directory, "cpu.rt_runtime_us", cpu["realtimeRuntime"])
        if shares := cpu.get("shares"):
            set_value("cpu.shares", directory, "cpu.shares", shares)
            _check_shares(directory, shares)
        if cpu.get("idle") is not None:
            set_value("cpu.idle", directory, "cpu.idle", cpu["idle"])
        _bandwidth(directory, cpu)
    if cpu.get("cpus") or cpu.get("mems"):
        directory = _need(paths, "cpuset", "cpu.cpus")
        if cpus := cpu.get("cpus"):
            set_value("cpu.cpus", directory, "cpuset.cpus", cpus)
        if mems := cpu.get("mems"):
            set_value("cpu.mems", directory, "cpuset.mems", mems)


def _check_shares(directory: str, shares: int) -> None:
    """The kernel takes any number and keeps the nearest that it can: that is not what was asked for."""
    kept = read_int(f"{directory}/cpu.shares", shares)
    if kept < shares:
        raise InvalidArgument(f"cpu.shares: the maximum allowed cpu-shares is {kept}")
    if kept > shares:
        raise InvalidArgument(f"cpu.shares: the minimum allowed cpu-shares is {kept}")


def _bandwidth(directory: str, cpu: Cpu) -> None:
    """Period, quota and burst limit one another (quota ≥ 1 ms, burst ≤ quota, parents' ratios), so on an update one
    order or the other may be refused.
    """
    steps = []
    if period := cpu.get("period"):
        steps.append(("cpu.period", "cpu.cfs_period_us", period))
    if quota := cpu.get("quota"):
        steps.append(("cpu.quota", "cpu.cfs_quota_us", quota))
    if (burst := cpu.get("burst")) is not None:
        steps.append(("cpu.burst", "cpu.cfs_burst_us", burst))
    waiting = list(steps)
    while waiting:
        late, failure = [], None
        for step in waiting:
            try:
                set_value(step[0], directory, step[1], step[2])
            except InvalidArgument as error:
                late.append(step)
                failure = failure or error
        if failure and len(late) == len(waiting):
            raise failure
        waiting = late


def _block_io(paths: dict[str, str], block: BlockIO) -> None:
    directory = _need(paths, "blkio", "blockIO")
    prefix = next((p for p in ("blkio.bfq", "blkio") if os.path.exists(f"{directory}/{p}.weight")), None)
    if weight := block.get("weight"):
        if prefix is None:
            raise FailedPrecondition("blockIO.weight: this kernel has neither blkio.bfq.weight nor blkio.weight")
        set_value("blockIO.weight", directory, f"{prefix}.weight", weight)
    if leaf := block.get("leafWeight"):
        set_value("blockIO.leafWeight", directory, "blkio.leaf_weight", leaf)
    for device in block.get("weightDevice") or ():
        number = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            set_value(
                "blockIO.weightDevice", directory, f"{prefix or 'blkio'}.weight_device", f"{number} {device['weight']}"
            )
        if device.get("leafWeight"):
            set_value("blockIO.weightDevice", directory, "blkio.leaf_weight_device", f"{number} {device['leafWeight']}")
    for field, name in _THROTTLES:
        for limit in _limits(block, field):
            value = f"{limit['major']}:{limit['minor']} {limit['rate']}"
            set_value(f"blockIO.{field}", directory, f"blkio.throttle.{name}", value)


_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps_device"),
    ("throttleWriteBpsDevice", "write_bps_device"),
    ("throttleReadIOPSDevice", "read_iops_device"),
    ("throttleWriteIOPSDevice", "write_iops_device"),
)


def _limits(block: BlockIO, field: str) -> list[dict[str, int]]:
    return block.get(field) or []  # type: ignore[return-value]


def _network(paths: dict[str, str], network: dict[str, Any]) -> None:
    if class_id := network.get("classID"):
        set_value("network.classID", _need(paths, "net_cls", "network.classID"), "net_cls.classid", class_id)
    for entry in network.get("priorities") or ():
        directory = _need(paths, "net_prio", "network.priorities")
        set_value("network.priorities", directory, "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}")
