"""OCI `linux.resources` on cgroup v2: v1's terms turned into v2's files.

Only fields that have a value are written; what v2 does not have (swappiness, leaf weights, kernel memory, network
classes, real-time slices) is refused by name. Sources: OCI config-linux.md, the kernel's
Documentation/admin-guide/cgroup-v2.rst. CPU shares become a weight by the formula that runc, crun and Kubernetes
share since 2025 (1024 shares, the default, are weight 100, the default).
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.linux.cgroups.files import pids_max, read, read_int, set_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec.oci import BlockIO, Cpu, Memory, Resources


def apply(directory: str, resources: Resources) -> None:
    if resources.get("network"):
        raise FailedPrecondition("network: cgroup v2 has no network classes or priorities")
    if rules := resources.get("devices"):
        from wherry.linux import devices_bpf

        devices_bpf.apply(directory, rules)
    if memory := resources.get("memory"):
        _memory(directory, memory)
    if cpu := resources.get("cpu"):
        _cpu(directory, cpu)
    if (limit := (resources.get("pids") or {}).get("limit")) is not None:
        _set("pids", "pids.limit", directory, "pids.max", pids_max(limit))
    if block := resources.get("blockIO"):
        _block_io(directory, block)
    for page in resources.get("hugepageLimits") or ():
        size = page["pageSize"]
        _set("hugetlb", "hugepageLimits", directory, f"hugetlb.{size}.max", page["limit"])
        if os.path.exists(f"{directory}/hugetlb.{size}.rsvd.max"):
            _set("hugetlb", "hugepageLimits", directory, f"hugetlb.{size}.rsvd.max", page["limit"])
    for device, limits in (resources.get("rdma") or {}).items():
        text = " ".join([device, *(f"{key}={limits[name]}" for key, name in _RDMA if name in limits)])
        _set("rdma", "rdma", directory, "rdma.max", text)
    for name, text in (resources.get("unified") or {}).items():
        if "/" in name or "." not in name:
            raise InvalidArgument(f"unified: {name!r} is not the name of a cgroup v2 file")
        for line in text.split("\n"):
            if line:
                _set(name.partition(".")[0], f"unified.{name}", directory, name, line)


_RDMA = (("hca_handle", "hcaHandles"), ("hca_object", "hcaObjects"))


def _set(controller: str, resource: str, directory: str, name: str, value: str | int) -> None:
    """`set_value`, but a missing controller is called that."""
    if controller != "cgroup" and not os.path.exists(f"{directory}/{name}"):
        offered = read(f"{directory}/cgroup.controllers").split()
        if controller not in offered:
            raise FailedPrecondition(
                f"{resource}: the {controller} cgroup controller is not available in {directory} (it has: {', '.join(offered) or 'none'})"
            )
    set_value(resource, directory, name, value)


def _memory(directory: str, memory: Memory) -> None:
    for name in ("swappiness", "kernel", "kernelTCP"):
        if memory.get(name) is not None:
            raise FailedPrecondition(f"memory.{name}: cgroup v2 does not have it")
    if memory.get("useHierarchy") is False:
        raise FailedPrecondition("memory.useHierarchy: cgroup v2 is always hierarchical")
    if memory.get("disableOOMKiller"):
        raise FailedPrecondition("memory.disableOOMKiller: cgroup v2 cannot switch the OOM killer off")
    limit = memory.get("limit", 0)
    if memory.get("checkBeforeUpdate") and limit > 0:
        usage = read_int(f"{directory}/memory.current")
        if usage > limit:
            raise FailedPrecondition(f"memory.limit: {limit} is below the present usage of {usage} bytes")
    swap = _swap(limit, memory.get("swap", 0))
    if swap is not None and (swap != "max" or os.path.exists(f"{directory}/memory.swap.max")):
        _set("memory", "memory.swap", directory, "memory.swap.max", swap)
    if limit:
        _set("memory", "memory.limit", directory, "memory.max", limit if limit > 0 else "max")
    if reservation := memory.get("reservation"):
        _set("memory", "memory.reservation", directory, "memory.low", reservation if reservation > 0 else "max")


def _swap(limit: int, swap: int) -> str | int | None:
    """OCI counts memory and swap together, v2 swap alone. None: nothing to write."""
    if swap == -1 or (swap == 0 and limit == -1):
        return "max"
    if swap == 0:
        return None
    if limit <= 0:
        raise InvalidArgument("memory.swap: cannot be limited on cgroup v2 without memory.limit")
    if swap < limit:
        raise InvalidArgument(
            f"memory.swap: {swap} is less than memory.limit {limit}: it counts memory and swap together"
        )
    return swap - limit


def weight_of_shares(shares: int) -> int:
    """cpu.shares (2 … 262144) as cpu.weight (1 … 10000); 1024 is 100. Outside, the nearest end. 0 stays 0: not set."""
    if shares == 0:
        return 0
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612.0 - 7.0 / 34.0))


def _cpu(directory: str, cpu: Cpu) -> None:
    for name in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(name):
            raise FailedPrecondition(f"cpu.{name}: cgroup v2 does not have it")
    if cpu.get("idle") is not None:
        _set("cpu", "cpu.idle", directory, "cpu.idle", cpu["idle"])
    if weight := weight_of_shares(cpu.get("shares") or 0):
        _set("cpu", "cpu.shares", directory, "cpu.weight", weight)
    burst = cpu.get("burst")
    if burst == 0:
        _set("cpu", "cpu.burst", directory, "cpu.max.burst", 0)
    if cpu.get("quota") or cpu.get("period"):
        _bandwidth(directory, cpu)
    if burst:
        _set("cpu", "cpu.burst", directory, "cpu.max.burst", burst)
    if cpus := cpu.get("cpus"):
        _set("cpuset", "cpu.cpus", directory, "cpuset.cpus", cpus)
    if mems := cpu.get("mems"):
        _set("cpuset", "cpu.mems", directory, "cpuset.mems", mems)


def _bandwidth(directory: str, cpu: Cpu) -> None:
    """cpu.max holds quota and period in one: what is not given stays as it is."""
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    text = str(quota) if quota > 0 else "max"
    if quota == 0 and os.path.exists(f"{directory}/cpu.max"):
        text = read(f"{directory}/cpu.max").split()[0]
    _set("cpu", "cpu.quota" if quota else "cpu.period", directory, "cpu.max", f"{text} {period}" if period else text)


def _block_io(directory: str, block: BlockIO) -> None:
    if block.get("leafWeight") or any(device.get("leafWeight") for device in block.get("weightDevice") or ()):
        raise FailedPrecondition("blockIO.leafWeight: cgroup v2 does not have it")
    bfq = os.path.exists(f"{directory}/io.bfq.weight")
    if weight := block.get("weight"):
        _set_weight("blockIO.weight", directory, "", weight, bfq=bfq)
    for device in block.get("weightDevice") or ():
        if device.get("weight"):
            _set_weight(
                "blockIO.weightDevice", directory, f"{device['major']}:{device['minor']} ", device["weight"], bfq=bfq
            )
    for field, key in _THROTTLES:
        limits: list[dict[str, int]] = block.get(field) or []  # type: ignore[assignment]
        for limit in limits:
            rate = limit["rate"] or "max"
            _set("io", f"blockIO.{field}", directory, "io.max", f"{limit['major']}:{limit['minor']} {key}={rate}")


_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)


def _set_weight(resource: str, directory: str, device: str, weight: int, *, bfq: bool) -> None:
    """BFQ takes OCI's 10 … 1000 as it is; io.weight's 1 … 10000 is its linear image."""
    if bfq:
        _set("io", resource, directory, "io.bfq.weight", f"{device}{weight}")
    else:
        _set("io", resource, directory, "io.weight", f"{device or 'default '}{1 + (weight - 10) * 9999 // 990}")
