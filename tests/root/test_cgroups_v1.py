"""cgroup v1 on the real kernel: groups appear in every hierarchy, limits bite, nothing stays."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from wherry.errors import Conflict, FailedPrecondition, InvalidArgument
from wherry.linux import cgroups
from wherry.spec.oci import Resources

if TYPE_CHECKING:
    from wherry.linux.cgroups import Cgroup

pytestmark = pytest.mark.requires("root", "cgroup1")

PARENT = f"/wherry-test-{os.getpid():x}"


@pytest.fixture
def group() -> Iterator[Cgroup]:
    found = cgroups.open_group(f"{PARENT}/one")
    found.create()
    try:
        yield found
    finally:
        found.kill()
        found.delete()
        cgroups.open_group(PARENT).delete()


def run_inside(group: Cgroup, body: Callable[[], int]) -> int:
    """Forks, joins the group, runs `body`; the wait status."""
    pid = start_inside(group, body)
    return os.waitpid(pid, 0)[1]


def start_inside(group: Cgroup, body: Callable[[], int]) -> int:
    fds = group.prepare_join()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            cgroups.join(fds)
            os.write(tell, b"1")
            code = body()
        finally:
            os._exit(code)
    for fd in (*fds, tell):
        os.close(fd)
    os.read(ready, 1)
    os.close(ready)
    return pid


def sleep_forever() -> int:
    signal.pause()
    return 0


def exited(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


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


def test_a_process_over_the_memory_limit_is_killed_and_counted(group: Cgroup) -> None:
    group.apply({"memory": {"limit": 32 << 20, "swap": 32 << 20}})

    def eat() -> int:
        hoard = bytearray(256 << 20)
        return len(hoard[::4096]) & 1

    assert os.WTERMSIG(run_inside(group, eat)) == signal.SIGKILL
    assert group.oom_kills() == 1
    assert group.stats()["memory"]["usage"]["limit"] == 32 << 20


def test_no_more_processes_than_the_limit(group: Cgroup) -> None:
    group.apply({"pids": {"limit": 3}})

    def multiply() -> int:
        count = 0
        try:
            while count < 10:
                if os.fork() == 0:
                    signal.pause()
                count += 1
        except BlockingIOError:
            return count
        return 99

    assert os.waitstatus_to_exitcode(run_inside(group, multiply)) == 2
    assert len(group.pids()) == 2
    group.kill()


def test_a_denied_device_cannot_be_opened(group: Cgroup) -> None:
    group.apply(
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            ]
        }
    )

    def probe() -> int:
        os.close(os.open("/dev/null", os.O_RDWR))
        try:
            os.open("/dev/zero", os.O_RDONLY)
        except PermissionError:
            return 0
        return 1

    assert run_inside(group, probe) == 0


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


def test_memory_limits_move_up_and_down_together(group: Cgroup) -> None:
    for size in (64 << 20, 128 << 20, 32 << 20):
        group.apply({"memory": {"limit": size, "swap": size * 2}}, update=True)
        assert group.stats()["memory"]["swap"]["limit"] == size * 2
    group.apply({"memory": {"limit": 512 << 20, "swap": -1}}, update=True)


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


def test_frozen_processes_do_not_run_until_thawed(group: Cgroup) -> None:
    reader, writer = os.pipe()
    gate, key = os.pipe()

    def echo() -> int:
        os.read(gate, 1)
        os.write(writer, b"ran")
        return 0

    pid = start_inside(group, echo)
    group.freeze()
    assert group.is_frozen()
    os.write(key, b"1")
    assert not select.select([reader], [], [], 0.05)[0]
    group.thaw()
    assert os.read(reader, 3) == b"ran"
    os.waitpid(pid, 0)
    for fd in (reader, writer, gate, key):
        os.close(fd)


def test_kill_reaches_frozen_processes_and_nested_groups(group: Cgroup) -> None:
    nested = cgroups.open_group(f"{PARENT}/one/below/deeper")
    nested.create()
    pids = [start_inside(group, sleep_forever), start_inside(nested, sleep_forever)]
    assert group.pids() == sorted(pids)
    group.freeze()
    group.kill()
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    group.delete()
    assert not any(os.path.exists(path) for path in group.paths.values())


def test_a_fork_bomb_does_not_outrun_kill(group: Cgroup) -> None:
    group.apply({"pids": {"limit": 64}})

    def bomb() -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
            except BlockingIOError:
                pass

    pid = start_inside(group, bomb)
    group.kill()
    os.waitpid(pid, 0)
    group.delete()
    assert not group.exists()


def test_a_group_in_use_is_not_taken_over(group: Cgroup) -> None:
    pid = start_inside(group, sleep_forever)
    with pytest.raises(Conflict, match="not empty"):
        cgroups.open_group(f"{PARENT}/one").create()
    assert not exited(pid)
    group.kill()
    os.waitpid(pid, 0)


def test_an_empty_group_that_was_left_behind_is_taken_over(group: Cgroup) -> None:
    cgroups.open_group(f"{PARENT}/one").create()


def test_a_group_with_a_living_process_is_not_removed_and_says_which(group: Cgroup) -> None:
    pid = start_inside(group, sleep_forever)
    with pytest.raises(FailedPrecondition, match=str(pid)):
        group.delete()
    group.kill()
    os.waitpid(pid, 0)


def test_stats_count_what_a_process_used(group: Cgroup) -> None:
    def work() -> int:
        return 0 if sum(range(200_000)) else 1

    assert run_inside(group, work) == 0
    stats = group.stats()
    assert stats["cpu"]["usage"]["total"] > 0
    assert stats["pids"] == {"current": 0, "limit": 0}
    assert stats["memory"]["usage"]["max"] > 0


def test_deleting_twice_is_no_error(group: Cgroup) -> None:
    group.delete()
    group.delete()
