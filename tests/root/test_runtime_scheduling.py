"""Scheduling policies, CPUs and NUMA policies, looked at from inside of containers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runtime_lab import ID_MAP, NAMESPACES, Lab

from wherry.errors import StartError

pytestmark = pytest.mark.requires("root", "busybox")

USER_NAMESPACE: dict[str, Any] = {
    "namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")], "uidMappings": ID_MAP, "gidMappings": ID_MAP,
}  # fmt: skip


@pytest.fixture(params=["", "userns"])
def linux(lab: Lab, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A configuration's `linux` with real-time bandwidth, which v1's cpu controller wants to be given out step by step."""
    extra: dict[str, Any] = {}
    controller = Path("/sys/fs/cgroup/cpu")
    if (controller / "cpu.rt_runtime_us").exists():
        (controller / lab.group).mkdir()
        for directory in (controller, controller / lab.group):
            if int((directory / "cpu.rt_runtime_us").read_text()) == 0:
                (directory / "cpu.rt_runtime_us").write_text("10000")
        extra = {"resources": {"cpu": {"realtimeRuntime": 5000, "realtimePeriod": 1000000}}}
    if request.param == "userns":
        for directory, _, names in os.walk(lab.rootfs):
            for name in (directory, *(os.path.join(directory, name) for name in names)):
                os.chown(name, 100000, 100000, follow_symlinks=False)
        return {**USER_NAMESPACE, **extra}
    return extra


def scheduling(stat: str) -> tuple[int, int, int]:
    """(policy, nice, real-time priority) from a /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[38]), int(fields[16]), int(fields[37])


NICE = os.getpriority(os.PRIO_PROCESS, 0)
"""The tests' own niceness, which what sets none inherits."""


@pytest.mark.parametrize(
    ("scheduler", "seen"),
    [
        ({"policy": "SCHED_OTHER", "nice": 7}, (0, 7, 0)),
        ({"policy": "SCHED_FIFO", "priority": 3}, (1, NICE, 3)),
        ({"policy": "SCHED_RR", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, (2, NICE, 1)),
        ({"policy": "SCHED_BATCH", "nice": -5}, (3, -5, 0)),
        ({"policy": "SCHED_IDLE"}, (5, NICE, 0)),
        ({"policy": "SCHED_DEADLINE", "runtime": 1000000, "deadline": 10000000, "period": 10000000}, (6, NICE, 0)),
    ],
)
def test_a_scheduling_policy_is_the_programs(
    lab: Lab, linux: dict[str, Any], scheduler: dict[str, Any], seen: tuple[int, int, int]
) -> None:
    result = lab.run("cat", "/proc/self/stat", linux=linux, scheduler=scheduler)
    assert scheduling(result.out) == seen


def test_an_exec_has_a_policy_and_limits_of_its_own(lab: Lab, linux: dict[str, Any]) -> None:
    with lab.start("sleep", "100", linux=linux) as box:
        fifo = {"policy": "SCHED_FIFO", "priority": 2}
        limits = [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 8192}]
        result = box.exec(
            "sh", "-c", "cat /proc/$$/stat; ulimit -c -H", scheduler=fifo, rlimits=limits, oomScoreAdj=321
        )
        assert scheduling(result.lines[0]) == (1, NICE, 2)
        assert result.lines[1] == "16"  # blocks of 512 bytes
        assert box.exec("cat", "/proc/self/oom_score_adj", oomScoreAdj=321).out == "321\n"
        assert scheduling(box.exec("cat", "/proc/self/stat").out) == (0, NICE, 0)


@pytest.mark.parametrize("linux", ["userns"], indirect=True)
def test_limits_and_the_oom_score_reach_a_container_in_anothers_user_namespace(lab: Lab, linux: dict[str, Any]) -> None:
    with lab.start("sleep", "100", linux=linux) as owner:
        joined = [{"type": kind} for kind in NAMESPACES] + [{"type": "user", "path": f"/proc/{owner.pid}/ns/user"}]
        result = lab.shell(
            "cat /proc/self/oom_score_adj /proc/$$/stat; ulimit -c -H",
            linux={"resources": linux.get("resources", {}), "namespaces": joined}, oomScoreAdj=400, scheduler={"policy": "SCHED_RR", "priority": 4},
            rlimits=[{"type": "RLIMIT_CORE", "soft": 512, "hard": 1024}],
        )  # fmt: skip
        assert (result.lines[0], scheduling(result.lines[1]), result.lines[2]) == ("400", (2, NICE, 4), "2")


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        ({"policy": "SCHED_DEADLINE"}, "error setting scheduler"),
        ({"policy": "SCHED_ISO"}, "error setting scheduler"),
        ({"policy": "SCHED_MAGIC"}, r"process\.scheduler\.policy"),
    ],
)
def test_a_policy_that_the_kernel_refuses_is_named(lab: Lab, scheduler: dict[str, Any], words: str) -> None:
    with pytest.raises(StartError, match=words):
        lab.run("true", scheduler=scheduler)


@pytest.fixture
def pinned() -> Iterator[set[int]]:
    """This process on one CPU, as a pinned runtime would be; the set of all."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the tests may be pinned themselves
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    yield every
    os.sched_setaffinity(0, before)


def cpus(text: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.startswith("Cpus_allowed_list:"))


def as_list(numbers: set[int]) -> str:
    return f"{min(numbers)}-{max(numbers)}" if len(numbers) > 1 else str(min(numbers))


def test_a_container_runs_on_all_cpus_of_its_cgroup_wherever_its_runtime_is_pinned(lab: Lab, pinned: set[int]) -> None:
    with lab.start("sleep", "100") as box:
        assert cpus(Path(f"/proc/{box.pid}/status").read_text()) == as_list(pinned)
        assert cpus(box.exec("cat", "/proc/self/status").out) == as_list(pinned)
    last = str(max(pinned))
    with lab.start("sleep", "100", linux={"resources": {"cpu": {"cpus": last}}}) as box:
        assert cpus(box.exec("cat", "/proc/self/status").out) == last


def test_an_exec_has_the_cpus_that_are_asked_for(lab: Lab, pinned: set[int]) -> None:
    first, last = str(min(pinned)), str(max(pinned))
    with lab.start("sleep", "100", execCPUAffinity={"final": last}) as box:
        assert cpus(Path(f"/proc/{box.pid}/status").read_text()) == as_list(pinned)  # it is not for the first process
        assert cpus(box.exec("cat", "/proc/self/status").out) == last
        both = {"initial": last, "final": f"{first},{last}"}
        assert cpus(box.exec("cat", "/proc/self/status", execCPUAffinity=both).out) == as_list(pinned)
        with pytest.raises(StartError, match="sched_setaffinity"):
            box.exec("true", execCPUAffinity={"final": "4000"})


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        ({"mode": "MPOL_BIND", "nodes": "0"}, "bind:0"),
        ({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}, "interleave=static:0"),
        ({"mode": "MPOL_PREFERRED_MANY", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}, "prefer (many)=relative:0"),
        ({"mode": "MPOL_LOCAL"}, "local"),
        ({"mode": "MPOL_DEFAULT"}, "default"),
    ],
)
@pytest.mark.requires("numa")
def test_memory_comes_from_the_nodes_that_are_asked_for(lab: Lab, policy: dict[str, Any], shown: str) -> None:
    with lab.start("sleep", "100", linux={"memoryPolicy": policy}) as box:
        for text in (Path(f"/proc/{box.pid}/numa_maps").read_text(), box.exec("cat", "/proc/self/numa_maps").out):
            assert {line.partition(" ")[2].startswith(shown) for line in text.splitlines()} == {True}


@pytest.mark.requires("numa")
def test_a_node_that_is_not_there_is_named(lab: Lab) -> None:
    with pytest.raises(StartError, match=r"linux\.memoryPolicy.*set_mempolicy"):
        lab.run("true", linux={"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "999"}})


def test_execs_share_the_session_keyring_of_the_container(lab: Lab) -> None:
    def sessions(text: str) -> list[str]:
        """The serial numbers of the container's session keyrings in a /proc/keys."""
        return [line.split()[0] for line in text.splitlines() if f"_ses.lab{lab.count}:" in line]

    lab.count = time.monotonic_ns()  # keys of other tests' containers go when the kernel has the time
    config = lab.config("sh", "-c", "cat /proc/keys; echo end; sleep 100 >/dev/null", env=["PATH=/bin"])
    config["linux"]["maskedPaths"] = []
    with lab.start(config=config) as box:
        text = ""
        while not text.endswith("\nend\n"):
            text += os.read(box.outputs.out_read, 65536).decode()
        shown = box.exec("cat", "/proc/keys").out
        assert sessions(text) == sessions(shown)
        assert len(sessions(shown)) == 1
