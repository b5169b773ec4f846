"""cgroup v1 on the real kernel: the suite of every version, and what is v1's own: a group in every hierarchy, each
limit in its file.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
from tests.contract.cgroup_suite import *  # noqa: F403
from tests.contract.cgroup_suite import PARENT, sleep_forever, start_inside

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.linux.cgroups import files
from wherry.spec.oci import Resources

if TYPE_CHECKING:
    from wherry.linux.cgroups import Cgroup

pytestmark = pytest.mark.requires("root", "cgroup1")


def test_the_group_is_in_every_hierarchy_and_a_joined_process_too(group: Cgroup) -> None:
    assert set(group.paths) >= {"memory", "cpu", "pids", "devices", "freezer"}
    assert all(os.path.isdir(path) for path in group.paths.values())
    pid = start_inside(group, sleep_forever)
    with open(f"/proc/{pid}/cgroup") as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    assert all(row[2] == f"{PARENT}/one" for row in rows if row[1])
    assert group.pids() == [pid]
    group.kill()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_a_group_whose_process_was_killed_is_removed_when_that_ends_at_last(
    group: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, with few shares of it. Here it is frozen, and what is frozen does not die on v1."""
    monkeypatch.setattr(files, "EXIT_SECONDS", 0.05)
    pid = start_inside(group, sleep_forever)
    group.freeze()
    os.kill(pid, signal.SIGKILL)
    later = threading.Timer(0.3, group.thaw)
    later.start()
    group.delete()
    later.join()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert not group.exists()


def test_an_update_of_devices_changes_only_what_differs(group: Cgroup) -> None:
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    zero = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}
    group.apply({"devices": [{"allow": False}, null]})  # type: ignore[list-item]
    group.apply({"devices": [{"allow": False}, zero]}, update=True)  # type: ignore[list-item]
    with open(f"{group.paths['devices']}/devices.list") as file:
        assert file.read() == "c 1:5 r\n"


@pytest.mark.parametrize(
    ("resources", "controller", "file", "text"),
    [
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu", "cpu.cfs_quota_us", "50000"),
        ({"cpu": {"quota": 1000000, "period": 1000000, "burst": 500000}}, "cpu", "cpu.cfs_burst_us", "500000"),
        ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "512"),
        ({"cpu": {"idle": 1}}, "cpu", "cpu.idle", "1"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset", "cpuset.cpus", "0"),
        ({"memory": {"limit": -1}}, "memory", "memory.memsw.limit_in_bytes", "9223372036854771712"),
        ({"memory": {"reservation": 1 << 20}}, "memory", "memory.soft_limit_in_bytes", str(1 << 20)),
        ({"memory": {"swappiness": 7}}, "memory", "memory.swappiness", "7"),
        ({"memory": {"disableOOMKiller": True}}, "memory", "memory.oom_control", "oom_kill_disable 1"),
        ({"pids": {"limit": -1}}, "pids", "pids.max", "max"),
    ],
)
def test_a_limit_is_in_its_file(group: Cgroup, resources: Resources, controller: str, file: str, text: str) -> None:
    group.apply(resources)
    with open(f"{group.paths[controller]}/{file}") as opened:
        assert opened.read().startswith(text)


def test_a_throttle_of_a_disk_is_set(group: Cgroup) -> None:
    with open("/proc/partitions") as table:
        major, minor = table.read().splitlines()[2].split()[:2]
    device = {"major": int(major), "minor": int(minor), "rate": 1 << 20}
    group.apply({"blockIO": {"throttleReadBpsDevice": [device], "throttleWriteIOPSDevice": [device]}})  # type: ignore[list-item]
    with open(f"{group.paths['blkio']}/blkio.throttle.read_bps_device") as file:
        assert file.read() == f"{major}:{minor} {1 << 20}\n"


@pytest.mark.parametrize(
    ("resources", "kind", "named"),
    [
        ({"cpu": {"cpus": "4096"}}, InvalidArgument, "cpu.cpus"),
        ({"cpu": {"quota": 1}}, InvalidArgument, "cpu.quota"),
        ({"cpu": {"shares": 1}}, InvalidArgument, "minimum allowed cpu-shares is 2"),
        ({"memory": {"swappiness": 101}}, InvalidArgument, "memory.swappiness"),
        ({"memory": {"limit": 1 << 20, "swap": 4096}}, InvalidArgument, "memory.swap"),
        ({"unified": {"memory.high": "1"}}, FailedPrecondition, "unified"),
        ({"blockIO": {"leafWeight": 10}}, FailedPrecondition, "blockIO.leafWeight"),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 4095, "minor": 9, "rate": 1}]}},
            InvalidArgument,
            "throttleReadBpsDevice",
        ),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, FailedPrecondition, "hugepageLimits"),
    ],
)
def test_what_cannot_be_applied_is_named(
    group: Cgroup, resources: Resources, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        group.apply(resources)
