"""Containers on cgroup v2 and an older kernel: what tests/root asks from inside of them, asked again there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.root.test_runtime_isolation import *  # noqa: F403
from tests.root.test_runtime_namespaces import *  # noqa: F403
from tests.runtime_lab import ID_MAP, NAMESPACES, Lab, lab
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


def test_the_cgroup_of_a_container_in_a_user_namespace_is_its_own(lab: Lab) -> None:
    result = lab.shell("cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x")
    assert result.lines == ["0::/", "/sys/fs/cgroup/cgroup.procs"]
    assert "Read-only" in result.err
