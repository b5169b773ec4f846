"""What every cgroup version has to do, on the real kernel: one suite, imported by the tests of v1 and of v2, which
bring the fixture `group`.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from wherry.errors import Conflict, FailedPrecondition
from wherry.linux import cgroups, namespaces

if TYPE_CHECKING:
    from wherry.linux.cgroups import Cgroup

PARENT = f"/wherry-test-{os.getpid():x}"


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A new group of its own, gone afterwards with all that is in it."""
    found = cgroups.open_group(f"{PARENT}/one")
    found.create()
    try:
        yield found
    finally:
        found.kill()
        found.delete()
        cgroups.open_group(PARENT).delete()


def run_inside(group: Cgroup, body: Callable[[], int]) -> int:
    """Forks into the group and runs `body`; the wait status."""
    pid = start_inside(group, body)
    return os.waitpid(pid, 0)[1]


def start_inside(group: Cgroup, body: Callable[[], int]) -> int:
    """The pid of a process that runs `body` in the group: cloned into it on v2, on v1 moved by itself."""
    ready, tell = os.pipe()
    directory = group.clone_fd()
    fds = group.prepare_join() if directory is None else []
    pid, pidfd = namespaces.clone(cgroup_fd=directory)
    if pid == 0:
        code = 99
        try:
            cgroups.join(fds)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.write(tell, b"1")
            code = body()
        finally:
            os._exit(code)
    for fd in (*fds, tell, pidfd, *([] if directory is None else [directory])):
        os.close(fd)
    os.read(ready, 1)
    os.close(ready)
    return pid


def sleep_forever() -> int:
    signal.pause()
    return 0


def start_nested() -> list[int]:
    """Two processes in groups below "one" (on v2 only groups without children with controllers have processes)."""
    pids = []
    for path in ("below", "beside/deeper"):
        nested = cgroups.open_group(f"{PARENT}/one/{path}")
        nested.create()
        pids.append(start_inside(nested, sleep_forever))
    return sorted(pids)


def exited(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


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


def test_memory_limits_move_up_and_down_together(group: Cgroup) -> None:
    for size in (64 << 20, 128 << 20, 32 << 20):
        group.apply({"memory": {"limit": size, "swap": size * 2}}, update=True)
        assert group.stats()["memory"]["swap"]["limit"] == size * 2
    group.apply({"memory": {"limit": 512 << 20, "swap": -1}}, update=True)


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
    pids = start_nested()
    assert group.pids() == pids
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


def test_a_removed_group_takes_no_process(group: Cgroup) -> None:
    group.delete()
    with pytest.raises(Exception, match="no such file or directory"):
        group.prepare_join()
    group.kill()
    assert group.pids() == []


def test_other_signals_than_kill_reach_every_process(group: Cgroup) -> None:
    pids = start_nested()
    group.kill(signal.SIGTERM)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [signal.SIGTERM, signal.SIGTERM]
