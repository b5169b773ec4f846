"""`docker stats`: one sample of a container's control groups and network interface, in the shape of GET /containers/{id}/stats. Runs in wherryd."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from wherry.engine.records import Container
from wherry.engine.services import Services
from wherry.engine.times import ZERO, rfc3339_nano
from wherry.errors import WherryError
from wherry.linux import cgroups
from wherry.spec.calls import Json

_BLOCK_FIELDS = {
    "io_service_bytes_recursive": "ioServiceBytesRecursive",
    "io_serviced_recursive": "ioServicedRecursive",
    "io_queue_recursive": "ioQueueRecursive",
    "io_service_time_recursive": "ioServiceTimeRecursive",
    "io_wait_time_recursive": "ioWaitTimeRecursive",
    "io_merged_recursive": "ioMergedRecursive",
}


async def sample(services: Services, container: Container) -> Json:
    """A container that does not run has empty figures, as in Docker."""
    answer: Json = {
        "id": container.id,
        "name": f"/{container.name}",
        "read": ZERO,
        "preread": ZERO,
        "num_procs": 0,
        "storage_stats": {},
    }
    answer |= {"cpu_stats": {}, "memory_stats": {}, "blkio_stats": {}, "pids_stats": {}}
    if container.is_running:
        path = f"{services.settings.cgroup_parent}/{container.id}"
        try:
            answer |= await asyncio.to_thread(_read, path, container.record.state.pid)
        except (WherryError, OSError):
            pass  # it ended while it was looked at
    return answer


def _read(path: str, pid: int) -> Json:
    figures: dict[str, Any] = cgroups.open_group(path).stats()
    cpu, memory = figures.get("cpu", {}), figures.get("memory", {})
    usage, throttling = cpu.get("usage", {}), cpu.get("throttling", {})
    raw = memory.get("raw", {})
    limit = memory.get("usage", {}).get("limit", 0)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    blocks = figures.get("blkio", {})
    answer: Json = {
        "read": rfc3339_nano(time.time_ns()),
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": usage.get("total", 0),
                **({"percpu_usage": usage["percpu"]} if usage.get("percpu") else {}),
                "usage_in_kernelmode": usage.get("kernel", 0),
                "usage_in_usermode": usage.get("user", 0),
            },
            "system_cpu_usage": _system_cpu_ns(),
            "online_cpus": len(os.sched_getaffinity(0)),
            "throttling_data": {
                "periods": throttling.get("periods", 0),
                "throttled_periods": throttling.get("throttledPeriods", 0),
                "throttled_time": throttling.get("throttledTime", 0),
            },
        },
        "memory_stats": {
            "usage": memory.get("usage", {}).get("usage", 0),
            "stats": raw,
            "limit": min(limit, total) if limit else total,
        },
        "pids_stats": {key: value for key, value in figures.get("pids", {}).items() if value},
        "blkio_stats": {name: blocks.get(field) for name, field in _BLOCK_FIELDS.items()},
    }
    networks = _network(pid)
    if networks:
        answer["networks"] = networks
    return answer


def _system_cpu_ns() -> int:
    """All the machine's processors' time since boot, from /proc/stat."""
    with open("/proc/stat") as file:
        ticks = [int(value) for value in file.readline().split()[1:8]]
    return sum(ticks) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def _network(pid: int) -> Json:
    """Counters of each interface but loopback, from the process's own /proc/net/dev (proc_pid_net(5))."""
    with open(f"/proc/{pid}/net/dev") as file:
        lines = file.readlines()[2:]
    answer: Json = {}
    for line in lines:
        name, _, rest = line.partition(":")
        values = [int(value) for value in rest.split()]
        if name.strip() != "lo" and len(values) >= 12:
            received, sent = values[:4], values[8:12]
            answer[name.strip()] = {
                **dict(zip(("rx_bytes", "rx_packets", "rx_errors", "rx_dropped"), received, strict=True)),
                **dict(zip(("tx_bytes", "tx_packets", "tx_errors", "tx_dropped"), sent, strict=True)),
            }
    return answer
