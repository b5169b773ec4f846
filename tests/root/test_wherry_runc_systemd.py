"""wherry-runc --systemd-cgroup against a service manager that makes units' cgroups as systemd does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.root.test_wherry_runc import Runtime, program, reap, rootfs, runtime, wait_gone
from tests.systemd_bus import FakeSystemd

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox", "cgroup1")

TAG = f"wherry{os.getpid():x}"
SLICE, UNIT = f"{TAG}-test.slice", "box-one.scope"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    made = FakeSystemd(tmp_path / "bus")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", made.address)
    yield made
    made.close()
    for directory in Path("/sys/fs/cgroup").glob(f"*/{TAG}.slice/{SLICE}"):
        directory.rmdir()
        directory.parent.rmdir()


@pytest.fixture
def unit(runtime: Runtime, systemd: FakeSystemd) -> Iterator[Runtime]:
    """wherry-runc that makes its container's cgroup a scope of `systemd`'s."""
    runtime.config["linux"]["cgroupsPath"] = f"{SLICE}:box:one"
    plain = runtime.command
    runtime.command = lambda *words: plain("--systemd-cgroup", *words)  # type: ignore[method-assign]
    yield runtime
    for name in runtime("list", "-q").stdout.split():
        runtime("delete", "-f", name)
    reap()


def test_a_container_is_a_scope_in_its_slice(unit: Runtime, systemd: FakeSystemd) -> None:
    annotations = {
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.TimeoutStopSec": "1.5",
    }
    pid = unit.start("sleep", "1000", annotations=annotations)
    place = f"/{TAG}.slice/{SLICE}/{UNIT}"
    groups = {
        line.split(":")[1]: line.strip().split(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    }
    assert groups["name=systemd"] == groups["pids"] == groups["freezer"] == place
    scope = systemd.units[UNIT]
    assert scope["Slice"] == SLICE
    assert scope["Delegate"] is True
    assert scope["CollectMode"] == "inactive-or-failed"
    assert scope["TimeoutStopUSec"] == 1500000
    assert not Path(f"/proc/{scope['PIDs'][0]}").exists()  # the first process made room
    assert json.loads((unit.root / "box/state.json").read_text())["unit"] == UNIT
    shown = unit("exec", "box", "cat", "/proc/self/cgroup").stdout
    assert f"name=systemd:{place}" in shown or ":/" in shown


def test_limits_are_told_to_systemd_and_written(unit: Runtime, systemd: FakeSystemd) -> None:
    limits: dict[str, Any] = {
        "memory": {"limit": 64 << 20}, "pids": {"limit": 55}, "cpu": {"shares": 512, "quota": 25000, "period": 50000, "cpus": "0"},
        "devices": [{"allow": False, "access": "rwm"}],
    }  # fmt: skip
    unit.start("sleep", "1000", linux_resources=limits)
    scope = systemd.units[UNIT]
    assert (scope["MemoryLimit"], scope["TasksMax"], scope["CPUShares"]) == (64 << 20, 55, 512)
    assert (scope["CPUQuotaPerSecUSec"], scope["CPUQuotaPeriodUSec"], scope["AllowedCPUs"]) == (500000, 50000, b"\1")
    assert scope["DevicePolicy"] == "strict"
    assert ("/dev/char/1:3", "rwm") in scope["DeviceAllow"]
    paths = json.loads((unit.root / "box/state.json").read_text())["cgroup_paths"]
    assert Path(paths["pids"], "pids.max").read_text() == "55\n"
    assert unit("update", "--pids-limit", "66", "--memory", "80m", "box").returncode == 0
    assert (systemd.units[UNIT]["TasksMax"], systemd.units[UNIT]["MemoryLimit"]) == (66, 80 << 20)
    assert Path(paths["pids"], "pids.max").read_text() == "66\n"


def test_the_unit_is_stopped_and_its_groups_go(unit: Runtime, systemd: FakeSystemd) -> None:
    pid = unit.start("sleep", "1000")
    assert unit("kill", "box", "KILL").returncode == 0
    wait_gone(pid)
    assert unit("delete", "box").returncode == 0
    assert UNIT not in systemd.units
    assert [member for member, _ in systemd.calls if member == "StopUnit"]
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{TAG}.slice/{SLICE}/{UNIT}"))


def test_a_failed_unit_of_the_same_name_makes_room(unit: Runtime, systemd: FakeSystemd) -> None:
    systemd.units[UNIT] = {}
    assert unit.run("true").returncode == 0
    assert "ResetFailedUnit" in [member for member, _ in systemd.calls]


def test_a_job_that_fails_leaves_nothing(unit: Runtime, systemd: FakeSystemd) -> None:
    systemd.fail_next = "failed"
    done = unit.run("true")
    assert done.returncode == 1
    assert f"the job for unit '{UNIT}' ended as 'failed'" in done.stderr
    assert unit("list", "-q").stdout == ""
    reap()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linux_cgroupsPath": "/a/path"}, "slice:prefix:name"),
        ({"linux_cgroupsPath": "a b.slice:box:one"}, "is not the name of a systemd unit"),
        ({"linux_cgroupsPath": "a--b.slice:box:one"}, "invalid slice name"),
        ({"linux_cgroupsPath": "a.slice:box:o/ne"}, "is not the name of a systemd unit"),
        ({"annotations": {"org.systemd.property.X1": "1"}}, "annotation org.systemd.property.X1"),
        ({"annotations": {"org.systemd.property.Weight": "[1,"}}, "annotation org.systemd.property.Weight"),
    ],
)
def test_what_can_be_no_unit_is_named(unit: Runtime, systemd: FakeSystemd, change: dict[str, Any], words: str) -> None:
    done = unit.run("true", **change)
    assert done.returncode == 1
    assert words in done.stderr
    assert "StartTransientUnit" not in [member for member, _ in systemd.calls]


def test_without_systemd_it_is_said(unit: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.isdir("/run/systemd/system"):
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/no/such/bus")
        assert "D-Bus at /no/such/bus: no such file or directory" in unit.run("true").stderr
        return
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    assert "systemd not running on this host" in unit.run("true").stderr


def test_a_container_without_a_path_is_named_after_its_id(unit: Runtime, systemd: FakeSystemd) -> None:
    config = json.loads(json.dumps(unit.config))
    del config["linux"]["cgroupsPath"]
    config["process"]["args"] = ["true"]
    (unit.bundle / "config.json").write_text(json.dumps(config))
    name = f"{TAG}-id"
    done = subprocess.run(
        unit.command("run", "-b", str(unit.bundle), name), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (start,) = (body for member, body in systemd.calls if member == "StartTransientUnit")
    assert start[0] == f"wherry-{name}.scope"
    assert ("Slice", "system.slice") in [(key, value.value) for key, value in start[2] if key == "Slice"]
    for directory in Path("/sys/fs/cgroup").glob("*/system.slice"):
        try:
            directory.rmdir()
        except OSError:
            continue
