"""The guest's tests: where this machine has no cgroup v2 with controllers they run in the guest (tests/uml/run), and are
no part of the run here; in the guest they end with what its kernel lacks, so that nobody takes their passing for more.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import machine_has

collect_ignore_glob = [] if machine_has("cgroup2") else ["*.py"]

_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")
_FEATURES = {  # file of a group: what it is
    "cgroup.kill": "kill (5.14)",
    "cgroup.freeze": "freezer",
    "cgroup.pressure": "pressure",
    "cpu.max.burst": "cpu burst (5.14)",
    "cpu.idle": "idle cpu groups (5.15)",
    "io.max": "io throttles",
    "io.weight": "io weights (CONFIG_BLK_CGROUP_IOCOST)",
    "io.bfq.weight": "io weights (BFQ)",
    "memory.peak": "memory peak (5.19)",
    "memory.reclaim": "memory reclaim (5.19)",
    "memory.swap.max": "swap limit",
    "memory.oom.group": "group out-of-memory kill",
    "memory.zswap.max": "zswap limit",
    "pids.peak": "pids peak (6.1)",
}


def lacking(root: Path) -> list[str]:
    """What of cgroup v2 the kernel does not offer, seen in a group below `root` that gets every controller."""
    offered = (root / "cgroup.controllers").read_text().split()
    (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in offered))
    probe = root / "probe"
    probe.mkdir()
    try:
        missing = [f"controller {name}" for name in _CONTROLLERS if name not in offered]
        return missing + [f"{what}: {name}" for name, what in _FEATURES.items() if not (probe / name).exists()]
    finally:
        probe.rmdir()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    root = Path("/sys/fs/cgroup")
    if not (root / "cgroup.controllers").exists():
        return
    terminalreporter.section(f"cgroup v2 of Linux {Path('/proc/sys/kernel/osrelease').read_text().strip()} lacks")
    for what in lacking(root):
        terminalreporter.write_line(what)
