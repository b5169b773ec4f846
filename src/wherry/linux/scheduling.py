"""System calls that say how a process is scheduled and where its memory comes from: sched_setattr(2), set_mempolicy(2).

Runs in `wherry-runc`, the shim and a container's init, and is loaded only where a configuration asks for it.
"""

from __future__ import annotations

import struct

from wherry.linux import syscalls
from wherry.linux.syscalls import Long, Pointer

_sched_setattr = syscalls.function("syscall", Long, Long, Pointer, Long)
_set_mempolicy = syscalls.function("syscall", Long, Long, Pointer, Long)


def set_attributes(
    pid: int, *, policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> None:
    """sched_setattr(2), version 0 of the structure; times in nanoseconds. `pid` 0 is the caller."""
    attributes = struct.pack("IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    if _sched_setattr(syscalls.number("sched_setattr"), pid, attributes, 0) < 0:
        raise syscalls.failed("sched_setattr", f"policy {policy}, nice {nice}, priority {priority}")


def set_memory_policy(mode: int, nodes: bytes) -> None:
    """set_mempolicy(2) for the caller; `nodes` as `cpulist.words` lays them out, empty for none."""
    # the kernel reads one bit less than it is told
    if _set_mempolicy(syscalls.number("set_mempolicy"), mode, nodes or None, len(nodes) * 8 + 1 if nodes else 0) < 0:
        raise syscalls.failed("set_mempolicy", f"mode {mode:#x}")
