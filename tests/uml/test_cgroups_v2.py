"""cgroup v2 on the real kernel: the suite of every version, and what is v2's own. Runs where v2 has the controllers:
on most machines, or by `tests/uml/run` in a user-mode Linux on any x86-64 one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.cgroup_suite import *  # noqa: F403
from tests.contract.cgroup_suite import PARENT, run_inside, sleep_forever, start_inside
from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.linux import cgroups, devices_bpf
from wherry.spec.oci import Resources

if TYPE_CHECKING:
    from wherry.linux.cgroups import Cgroup

pytestmark = pytest.mark.requires("root", "cgroup2")

REPOSITORY = Path(__file__).resolve().parents[2]


def text(group: Cgroup, name: str) -> str:
    return Path(group.paths[""], name).read_text()


def test_controllers_are_given_down_the_path(group: Cgroup) -> None:
    assert group.mode == "v2"
    assert {"memory", "pids", "cpu"} <= set(text(group, "cgroup.controllers").split())


def test_a_process_is_cloned_into_the_group(group: Cgroup) -> None:
    pid = start_inside(group, sleep_forever)
    assert Path(f"/proc/{pid}/cgroup").read_text() == f"0::{PARENT}/one\n"
    assert group.pids() == [pid]
    group.kill()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_a_process_is_started_beside_an_init_that_has_moved_down(group: Cgroup) -> None:
    below = cgroups.open_group(f"{PARENT}/one/init")
    below.create()
    pid = start_inside(below, sleep_forever)
    fd = group.clone_fd(pid)
    assert fd is not None
    assert os.readlink(f"/proc/self/fd/{fd}") == below.paths[""]
    os.close(fd)
    group.kill()
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("resources", "file", "wanted"),
    [
        ({"memory": {"limit": 64 << 20, "swap": 96 << 20}}, "memory.max", str(64 << 20)),
        ({"memory": {"reservation": 1 << 20}}, "memory.low", str(1 << 20)),
        ({"cpu": {"shares": 1024}}, "cpu.weight", "100"),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000"),
        ({"cpu": {"quota": 50000, "period": 100000, "burst": 20000}}, "cpu.max.burst", "20000"),
        ({"cpu": {"idle": 1}}, "cpu.idle", "1"),
        ({"pids": {"limit": -1}}, "pids.max", "max"),
        ({"unified": {"memory.high": "33554432"}}, "memory.high", "33554432"),
    ],
)
def test_a_limit_is_in_its_file(group: Cgroup, resources: Resources, file: str, wanted: str) -> None:
    group.apply(resources)
    assert text(group, file).strip() == wanted


def test_a_new_period_leaves_the_quota(group: Cgroup) -> None:
    group.apply({"cpu": {"quota": 50000, "period": 100000}})
    group.apply({"cpu": {"period": 200000}}, update=True)
    assert text(group, "cpu.max") == "50000 200000\n"


@pytest.mark.parametrize(
    ("resources", "kind", "named"),
    [
        ({"memory": {"swappiness": 7}}, FailedPrecondition, "memory.swappiness"),
        ({"cpu": {"quota": 1}}, InvalidArgument, "cpu.quota"),
        ({"unified": {"memory.nothing": "1"}}, FailedPrecondition, "unified.memory.nothing"),
        ({"unified": {"cgroup.procs/../x": "1"}}, InvalidArgument, "unified"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, FailedPrecondition, "hugepageLimits"),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 4095, "minor": 9, "rate": 1}]}},
            InvalidArgument,
            "throttleReadBpsDevice",
        ),
    ],
)
def test_what_cannot_be_applied_is_named(
    group: Cgroup, resources: Resources, kind: type[Exception], named: str
) -> None:
    with pytest.raises(kind, match=named):
        group.apply(resources)


def test_a_cpu_quota_throttles(group: Cgroup) -> None:
    group.apply({"cpu": {"quota": 1000, "period": 10000}})

    def spin() -> int:
        while group.stats()["cpu"]["throttling"]["throttledPeriods"] < 3:
            pass
        return 0

    assert run_inside(group, spin) == 0
    assert group.stats()["cpu"]["throttling"]["throttledTime"] > 0


def test_an_update_of_devices_leaves_one_program(group: Cgroup) -> None:
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
    zero = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}

    def what_opens() -> int:
        found = 0
        for bit, path in ((1, "/dev/null"), (2, "/dev/zero")):
            try:
                os.close(os.open(path, os.O_RDONLY))
                found |= bit
            except PermissionError:
                pass
        return found

    for rules, wanted in (([null], 1), ([zero], 2), ([null, zero], 3)):
        group.apply({"devices": [{"allow": False}, *rules]}, update=True)  # type: ignore[list-item]
        assert os.waitstatus_to_exitcode(run_inside(group, what_opens)) == wanted
        fd = os.open(group.paths[""], os.O_RDONLY)
        assert len(devices_bpf._attached(fd)) == 1
        os.close(fd)


def test_device_numbers_are_denied_to_mknod(group: Cgroup, tmp_path: Path) -> None:
    group.apply({"devices": [{"allow": False}, {"allow": True, "type": "c", "access": "m"}]})

    def make() -> int:
        os.mknod(tmp_path / "c", 0o20600, os.makedev(1, 3))
        try:
            os.mknod(tmp_path / "b", 0o60600, os.makedev(7, 0))
        except PermissionError:
            return 0
        return 1

    assert run_inside(group, make) == 0


@pytest.mark.requires("busybox")
def test_wherry_runc_runs_and_limits_a_container(tmp_path: Path) -> None:
    """The whole way: clone into the group, limits, device program, exec, deletion."""
    rootfs = tmp_path / "rootfs"
    for name in ("bin", "proc", "dev", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    for applet in ("sh", "cat", "true", "sleep"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    code = "import sys; sys.path.append(sys.argv.pop(1)); from wherry.runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def runc(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            code,
            str(REPOSITORY / "src"),
            "--root",
            str(tmp_path / "state"),
            *words,
        ]
        return subprocess.run(command, text=True, check=False, stdin=subprocess.DEVNULL, **options)

    assert runc("spec", "-b", str(tmp_path)).returncode == 0
    config = json.loads((tmp_path / "config.json").read_text())
    config["process"].update(
        terminal=False, args=["sh", "-c", "cat /proc/self/cgroup; cat /sys/fs/cgroup/pids.max; sleep 1000"]
    )
    config["linux"]["cgroupsPath"] = f"{PARENT}/box"
    config["linux"]["resources"].update(pids={"limit": 44}, memory={"limit": 32 << 20})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with open(tmp_path / "output", "w") as output:
        done = runc("run", "-d", "-b", str(tmp_path), "box", stdout=output, stderr=output)
    try:
        assert done.returncode == 0, (tmp_path / "output").read_text()
        while (tmp_path / "output").read_text().count("\n") < 2:
            time.sleep(0.01)
        assert (
            runc("exec", "box", "sh", "-c", "cat /proc/self/cgroup; cat /dev/kmsg", capture_output=True).stdout
            == "0::/\n"
        )
        assert json.loads(runc("events", "--stats", "box", capture_output=True).stdout)["data"]["pids"]["limit"] == 44
        assert runc("pause", "box").returncode == 0
        assert '"paused"' in runc("state", "box", capture_output=True).stdout
        assert (tmp_path / "output").read_text() == "0::/\n44\n"
    finally:
        assert runc("delete", "-f", "box").returncode == 0
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
    assert not Path("/sys/fs/cgroup", PARENT[1:], "box").exists()
    cgroups.open_group(PARENT).delete()
