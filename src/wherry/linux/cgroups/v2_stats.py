"""Figures of a v2 group, in the form of `runc events --stats`. Times in nanoseconds, sizes in bytes; what the kernel
does not offer is left out.
"""

from __future__ import annotations

import os

from wherry.linux.cgroups.files import keyed, read_int, read_or_none

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNLIMITED = (1 << 64) - 1


def stats(directory: str) -> dict[str, Any]:
    values = keyed(read_or_none(f"{directory}/cpu.stat"))
    data: dict[str, Any] = {
        "cpu": {
            "usage": {
                "total": values.get("usage_usec", 0) * 1000,
                "kernel": values.get("system_usec", 0) * 1000,
                "user": values.get("user_usec", 0) * 1000,
            },
            "throttling": {
                "periods": values.get("nr_periods", 0),
                "throttledPeriods": values.get("nr_throttled", 0),
                "throttledTime": values.get("throttled_usec", 0) * 1000,
            },
        }
    }
    if os.path.exists(f"{directory}/memory.current"):
        data["memory"] = _memory(directory)
    if os.path.exists(f"{directory}/pids.current"):
        data["pids"] = {"current": read_int(f"{directory}/pids.current"), "limit": read_int(f"{directory}/pids.max")}
    io = read_or_none(f"{directory}/io.stat")
    if io is not None:
        data["blkio"] = _block(io)
    for section, name in (("cpu", "cpu"), ("memory", "memory"), ("blkio", "io")):
        pressure = read_or_none(f"{directory}/{name}.pressure")
        if pressure and section in data:
            data[section]["psi"] = _pressure(pressure)
    huge = [
        name
        for name in os.listdir(directory)
        if name.startswith("hugetlb.") and name.endswith(".current") and ".rsvd." not in name
    ]
    if huge:
        data["hugetlb"] = {}
        for name in sorted(huge):
            prefix = f"{directory}/{name.removesuffix('.current')}"
            events = keyed(read_or_none(f"{prefix}.events"))
            data["hugetlb"][name.split(".")[1]] = {
                "usage": read_int(f"{prefix}.current"),
                "max": 0,
                "failcnt": events.get("max", 0),
            }
    return data


def _memory(directory: str) -> dict[str, Any]:
    raw = keyed(read_or_none(f"{directory}/memory.stat"))
    events = keyed(read_or_none(f"{directory}/memory.events"))
    usage, limit = read_int(f"{directory}/memory.current"), read_int(f"{directory}/memory.max", _UNLIMITED)
    swap, swap_limit = (
        read_int(f"{directory}/memory.swap.current"),
        read_int(f"{directory}/memory.swap.max", _UNLIMITED),
    )
    return {
        "cache": raw.get("file", 0),
        "usage": {
            "usage": usage,
            "max": read_int(f"{directory}/memory.peak"),
            "failcnt": events.get("max", 0),
            "limit": limit,
        },
        # memory and swap together, as on v1
        "swap": {"usage": usage + swap, "max": 0, "failcnt": 0, "limit": min(limit + swap_limit, _UNLIMITED)},
        "raw": raw,
    }


def _pressure(text: str) -> dict[str, Any]:
    """cpu.pressure and its like, "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" per line."""
    data = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        data[kind] = {name: int(value) if name == "total" else float(value) for name, value in values.items()}
    return data


_OPERATIONS = (
    ("rbytes", "ioServiceBytesRecursive", "Read"),
    ("wbytes", "ioServiceBytesRecursive", "Write"),
    ("rios", "ioServicedRecursive", "Read"),
    ("wios", "ioServicedRecursive", "Write"),
)


def _block(text: str) -> dict[str, Any]:
    """io.stat, "8:0 rbytes=4096 wbytes=0 …" per line, as v1's lists."""
    data: dict[str, list[dict[str, Any]]] = {"ioServiceBytesRecursive": [], "ioServicedRecursive": []}
    for line in text.splitlines():
        device, *pairs = line.split()
        major, colon, minor = device.partition(":")
        if not colon:
            continue
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        for key, field, operation in _OPERATIONS:
            if key in values:
                data[field].append(
                    {"major": int(major), "minor": int(minor), "op": operation, "value": int(values[key])}
                )
    return data
