"""Figures of a v1 group, in the form of `runc events --stats`. Times in nanoseconds, sizes in bytes; what the kernel
does not offer is left out.
"""

from __future__ import annotations

import os

from wherry.linux.cgroups.files import keyed, members, read_int, read_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNLIMITED = (1 << 64) - 1


def stats(paths: dict[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = {"cpu": _cpu(paths)}
    if directory := paths.get("cpuset"):
        data["cpuset"] = _cpuset(directory)
    if directory := paths.get("memory"):
        data["memory"] = _memory(directory)
    if directory := paths.get("pids"):
        limit = (read_or_none(f"{directory}/pids.max") or "max").strip()
        data["pids"] = {"current": read_int(f"{directory}/pids.current"), "limit": 0 if limit == "max" else int(limit)}
    if directory := paths.get("blkio"):
        data["blkio"] = {field: _block(directory, names) for field, names in _BLKIO}
    if directory := paths.get("hugetlb"):
        data["hugetlb"] = _hugetlb(directory)
    return data


def _cpu(paths: dict[str, str]) -> dict[str, Any]:
    usage: dict[str, Any] = {}
    if directory := paths.get("cpuacct"):
        usage = {
            "total": read_int(f"{directory}/cpuacct.usage"),
            "percpu": [int(value) for value in (read_or_none(f"{directory}/cpuacct.usage_percpu") or "").split()],
            "kernel": read_int(f"{directory}/cpuacct.usage_sys"),
            "user": read_int(f"{directory}/cpuacct.usage_user"),
        }
        rows = [line.split() for line in (read_or_none(f"{directory}/cpuacct.usage_all") or "").splitlines()[1:]]
        usage["percpu_user"] = [int(row[1]) for row in rows if len(row) == 3]  # "cpu user system" is the head
        usage["percpu_kernel"] = [int(row[2]) for row in rows if len(row) == 3]
    throttling: dict[str, int] = {}
    if directory := paths.get("cpu"):
        values = keyed(read_or_none(f"{directory}/cpu.stat"))
        throttling = {
            "periods": values.get("nr_periods", 0),
            "throttledPeriods": values.get("nr_throttled", 0),
            "throttledTime": values.get("throttled_time", 0),
        }
    return {"usage": usage, "throttling": throttling}


def _memory(directory: str) -> dict[str, Any]:
    raw = keyed(read_or_none(f"{directory}/memory.stat"))
    data: dict[str, Any] = {"cache": raw.get("cache", 0), "raw": raw}
    for field, prefix in (
        ("usage", "memory"),
        ("swap", "memory.memsw"),
        ("kernel", "memory.kmem"),
        ("kernelTCP", "memory.kmem.tcp"),
    ):
        if read_or_none(f"{directory}/{prefix}.usage_in_bytes") is None:
            continue
        data[field] = {
            "usage": read_int(f"{directory}/{prefix}.usage_in_bytes"),
            "max": read_int(f"{directory}/{prefix}.max_usage_in_bytes"),
            "failcnt": read_int(f"{directory}/{prefix}.failcnt"),
            "limit": read_int(f"{directory}/{prefix}.limit_in_bytes", _UNLIMITED),
        }
    return data


_CPUSET_NUMBERS = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def _cpuset(directory: str) -> dict[str, Any]:
    data: dict[str, Any] = {name: members(read_or_none(f"{directory}/cpuset.{name}")) for name in ("cpus", "mems")}
    data.update((name, read_int(f"{directory}/cpuset.{name}")) for name in _CPUSET_NUMBERS)
    return data


_BLKIO = (
    (
        "ioServiceBytesRecursive",
        (
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ),
    ),
    (
        "ioServicedRecursive",
        ("blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"),
    ),
    ("ioQueueRecursive", ("blkio.bfq.io_queued_recursive",)),
    ("ioServiceTimeRecursive", ("blkio.bfq.io_service_time_recursive",)),
    ("ioWaitTimeRecursive", ("blkio.bfq.io_wait_time_recursive",)),
    ("ioMergedRecursive", ("blkio.bfq.io_merged_recursive",)),
)


def _block(directory: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The first of the files that has entries: "8:0 Read 4096" per line."""
    for name in names:
        entries = []
        for line in (read_or_none(f"{directory}/{name}") or "").splitlines():
            fields = line.split()
            if len(fields) != 3 or ":" not in fields[0]:
                continue  # the "Total" line
            major, _, minor = fields[0].partition(":")
            entries.append({"major": int(major), "minor": int(minor), "op": fields[1], "value": int(fields[2])})
        if entries:
            return entries
    return []


def _hugetlb(directory: str) -> dict[str, Any]:
    data = {}
    for name in sorted(os.listdir(directory)):
        size, dot, rest = name.removeprefix("hugetlb.").partition(".")
        if name.startswith("hugetlb.") and dot and rest == "usage_in_bytes":
            prefix = f"{directory}/hugetlb.{size}"
            data[size] = {
                "usage": read_int(f"{prefix}.usage_in_bytes"),
                "max": read_int(f"{prefix}.max_usage_in_bytes"),
                "failcnt": read_int(f"{prefix}.failcnt"),
            }
    return data
