"""`process.scheduler`, `process.execCPUAffinity` and `linux.memoryPolicy`: understood in the parent, applied in the child.

Loaded only where a configuration has one of them. Sources: OCI config.md "Linux Process", config-linux.md "Memory
Policy", sched(7), sched_setattr(2), set_mempolicy(2).
"""

from __future__ import annotations

import errno

from wherry.errors import InvalidArgument, StartError, SyscallError
from wherry.linux import cpulist, scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec import oci

POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6,
}  # fmt: skip
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04, "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20, "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4, "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}


class Scheduler:
    """A scheduling policy with its parameters."""

    __slots__ = ("flags", "nice", "policy", "priority", "times")

    def __init__(self, wanted: oci.Scheduler) -> None:
        policy = wanted.get("policy", "")
        if policy not in POLICIES:
            raise InvalidArgument(f"process.scheduler.policy: {policy!r} is not one of {', '.join(POLICIES)}")
        self.policy = POLICIES[policy]
        self.flags = _flags(wanted.get("flags"), FLAGS, "process.scheduler.flags")
        self.nice, self.priority = wanted.get("nice", 0), wanted.get("priority", 0)
        self.times = (wanted.get("runtime", 0), wanted.get("deadline", 0), wanted.get("period", 0))
        if policy in ("SCHED_OTHER", "SCHED_BATCH") and not -20 <= self.nice <= 19:
            raise InvalidArgument(f"process.scheduler.nice: {self.nice} is not between -20 and 19")
        if self.priority and policy not in ("SCHED_FIFO", "SCHED_RR"):
            raise InvalidArgument("process.scheduler.priority: only SCHED_FIFO and SCHED_RR have one")
        if not 0 <= self.priority <= 99:
            raise InvalidArgument(f"process.scheduler.priority: {self.priority} is not between 0 and 99")
        if any(self.times) and policy != "SCHED_DEADLINE":
            raise InvalidArgument("process.scheduler: only SCHED_DEADLINE has runtime, deadline and period")
        if not -(1 << 31) <= self.nice < 1 << 31:
            raise InvalidArgument(f"process.scheduler.nice: {self.nice} is not a number of 32 bits")

    @property
    def is_inherited(self) -> bool:
        """Whether a fork passes it on."""
        return self.policy != POLICIES["SCHED_DEADLINE"] and not self.flags & FLAGS["SCHED_FLAG_RESET_ON_FORK"]

    def apply(self, pid: int = 0) -> None:
        """StartError "scheduler" when the kernel refuses."""
        runtime, deadline, period = self.times
        try:
            scheduling.set_attributes(
                pid, policy=self.policy, flags=self.flags, nice=self.nice, priority=self.priority,
                runtime=runtime, deadline=deadline, period=period,
            )  # fmt: skip
        except SyscallError as error:
            hint = ""
            if error.errno == errno.EPERM and self.policy == POLICIES["SCHED_DEADLINE"]:
                hint = " (process scheduler can't be used together with AllowedCPUs: a deadline needs all CPUs)"
            elif error.errno == errno.EPERM and self.priority:
                hint = " (has the cgroup real-time bandwidth? see linux.resources.cpu.realtimeRuntime)"
            raise StartError("scheduler", f"error setting scheduler: {error}{hint}", error.errno) from None


class Affinity:
    """CPUs of an exec's helper before it enters the container's cgroup, and of the process afterwards, as masks of bits; empty: not given."""

    __slots__ = ("final", "initial")

    def __init__(self, wanted: oci.CpuAffinity) -> None:
        initial = cpulist.parse(wanted.get("initial") or "", "process.execCPUAffinity.initial")
        final = cpulist.parse(wanted.get("final") or "", "process.execCPUAffinity.final")
        self.initial = cpulist.words(initial) if initial else b""
        self.final = cpulist.words(final) if final else b""


class MemoryPolicy:
    """A NUMA policy."""

    __slots__ = ("mode", "nodes")

    def __init__(self, wanted: oci.MemoryPolicy) -> None:
        mode = wanted.get("mode", "")
        if mode not in MEMORY_MODES:
            raise InvalidArgument(
                f"linux.memoryPolicy.mode: invalid memory policy mode {mode!r}: it is one of {', '.join(MEMORY_MODES)}"
            )
        nodes = cpulist.parse(wanted.get("nodes") or "", "linux.memoryPolicy.nodes: invalid memory policy nodes")
        if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") and nodes:
            raise InvalidArgument(
                f"linux.memoryPolicy.nodes: {mode}: memory policy mode requires 0 nodes but got {nodes.bit_count()}"
            )
        if mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED") and not nodes:
            raise InvalidArgument(
                f"linux.memoryPolicy.nodes: {mode}: memory policy mode requires at least one node but got 0"
            )
        self.mode = MEMORY_MODES[mode] | _flags(
            wanted.get("flags"), MEMORY_FLAGS, "linux.memoryPolicy.flags: invalid memory policy flag"
        )
        self.nodes = cpulist.words(nodes) if nodes else b""

    def apply(self) -> None:
        """StartError "memoryPolicy" when the kernel refuses."""
        try:
            scheduling.set_memory_policy(self.mode, self.nodes)
        except SyscallError as error:
            raise StartError("memoryPolicy", f"linux.memoryPolicy: {error}", error.errno) from None


def _flags(names: list[str] | None, known: dict[str, int], field: str) -> int:
    result = 0
    for name in names or ():
        if name not in known:
            raise InvalidArgument(f"{field}: {name!r} is not one of {', '.join(known)}")
        result |= known[name]
    return result
