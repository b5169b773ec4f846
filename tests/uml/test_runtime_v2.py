"""Containers on cgroup v2 and an older kernel: what tests/root asks from inside of them, asked again there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.root.test_runtime_isolation import *  # noqa: F403
from tests.root.test_runtime_namespaces import *  # noqa: F403
from tests.runtime_lab import ID_MAP, NAMESPACES, Lab, lab
from wherry.errors import InvalidArgument
from wherry.linux import cgroups

__all__ = ["lab"]

pytestmark = pytest.mark.requires("root", "cgroup2")


def test_an_exec_is_born_in_the_containers_group(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        assert cgroups.detect().mode == "v2"
        assert box.exec("cat", "/proc/self/cgroup").out == "0::/\n"
        assert box.exec("cat", "/sys/fs/cgroup/cgroup.controllers").out.split()


@pytest.mark.parametrize(("options", "uid", "owner"), [(["rw"], 0, 100000), (["rw"], 5, 100005), (["ro"], 0, 0)])
def test_a_writable_cgroup_belongs_to_the_containers_user(lab: Lab, options: list[str], uid: int, owner: int) -> None:
    for directory, _, names in os.walk(lab.rootfs):
        for name in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(name, 100000, 100000, follow_symlinks=False)
    script = "mkdir /sys/fs/cgroup/sub && echo $$ >/sys/fs/cgroup/sub/cgroup.procs && cat /proc/self/cgroup; echo 5 >/sys/fs/cgroup/pids.max"
    spaces = [{"type": kind} for kind in (*NAMESPACES, "user")]
    config = lab.config(
        "sh", "-c", f"{script}; sleep 100 >/dev/null 2>&1", user={"uid": uid, "gid": uid}, capabilities={},
        linux={"namespaces": spaces, "uidMappings": ID_MAP, "gidMappings": ID_MAP},
    )  # fmt: skip
    (mount,) = (entry for entry in config["mounts"] if entry["type"] == "cgroup")
    mount["options"] = options
    with lab.start(config=config) as box:
        said = ""
        while "\n" not in said:
            said += os.read(box.outputs.err_read, 4096).decode()
        assert ("Permission denied" if options == ["rw"] else "Read-only") in said, said
        if options == ["rw"]:
            assert os.read(box.outputs.out_read, 4096) == b"0::/sub\n"
        place = Path(box.process.cgroup.paths[""])
        shown = {
            name: (place / name).stat().st_uid for name in ("", "cgroup.procs", "cgroup.subtree_control", "pids.max")
        }
        assert shown == {"": owner, "cgroup.procs": owner, "cgroup.subtree_control": owner, "pids.max": 0}


def moving_down(lab: Lab) -> dict[str, Any]:
    """A container whose first process makes a group for itself and gives controllers to its children: nobody may be beside them then."""
    script = "cd /sys/fs/cgroup; mkdir init; echo 1 >init/cgroup.procs; echo +pids >cgroup.subtree_control; mkdir other; echo moved; sleep 100"
    config = lab.config("sh", "-c", script)
    (mount,) = (entry for entry in config["mounts"] if entry["type"] == "cgroup")
    mount["options"] = ["rw"]
    return config


def test_an_exec_is_beside_an_init_that_has_moved_down(lab: Lab) -> None:
    with lab.start(config=moving_down(lab)) as box:
        assert os.read(box.outputs.out_read, 100) == b"moved\n", box.outputs
        assert box.exec("cat", "/proc/self/cgroup").out == "0::/init\n"


def test_an_exec_joins_a_group_below_the_containers(lab: Lab) -> None:
    with lab.start(config=moving_down(lab)) as box:
        assert os.read(box.outputs.out_read, 100) == b"moved\n"
        own = box.process.cgroup
        box.process.cgroup = cgroups.below(own, {"": "other"})
        try:
            assert box.exec("cat", "/proc/self/cgroup").out == "0::/other\n"
        finally:
            box.process.cgroup = own
        with pytest.raises(InvalidArgument, match="bad sub cgroup path"):
            cgroups.below(own, {"": "../x"})
        with pytest.raises(InvalidArgument, match="unknown controller pids"):
            cgroups.below(own, {"pids": "other"})


def test_cpus_before_the_cgroup_are_an_execs_too(lab: Lab) -> None:
    with lab.start("sleep", "100", execCPUAffinity={"initial": "0", "final": "0"}) as box:
        assert box.exec("cat", "/proc/self/cgroup").out == "0::/\n"


def test_a_user_namespace_without_a_cgroup_namespace_sees_the_hosts_hierarchy(lab: Lab) -> None:
    for directory, _, names in os.walk(lab.rootfs):
        for name in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(name, 100000, 100000, follow_symlinks=False)
    spaces = [{"type": kind} for kind in (*NAMESPACES, "user") if kind != "cgroup"]
    linux = {"namespaces": spaces, "uidMappings": ID_MAP, "gidMappings": ID_MAP}
    script = "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup); mkdir /sys/fs/cgroup/x"
    result = lab.shell(script, linux=linux)
    assert lab.group in result.lines[0]
    assert result.lines[1].startswith("/sys/fs/cgroup/"), result.err
    assert "Permission denied" in result.err or "Read-only" in result.err
    assert not Path("/sys/fs/cgroup/x").exists()


def test_the_cgroup_of_a_container_in_a_user_namespace_is_its_own(lab: Lab) -> None:
    result = lab.shell("cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x")
    assert result.lines == ["0::/", "/sys/fs/cgroup/cgroup.procs"]
    assert "Read-only" in result.err
