"""Containers on cgroup v2 and an older kernel: what tests/root asks from inside of them, asked again there."""

from __future__ import annotations

import pytest

from tests.root.test_runtime_isolation import *  # noqa: F403
from tests.root.test_runtime_namespaces import *  # noqa: F403
from tests.runtime_lab import Lab, lab
from wherry.linux import cgroups

__all__ = ["lab"]

pytestmark = pytest.mark.requires("root", "cgroup2")


def test_an_exec_is_born_in_the_containers_group(lab: Lab) -> None:
    with lab.start("sleep", "100") as box:
        assert cgroups.detect().mode == "v2"
        assert box.exec("cat", "/proc/self/cgroup").out == "0::/\n"
        assert box.exec("cat", "/sys/fs/cgroup/cgroup.controllers").out.split()


def test_the_cgroup_of_a_container_in_a_user_namespace_is_its_own(lab: Lab) -> None:
    result = lab.shell("cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x")
    assert result.lines == ["0::/", "/sys/fs/cgroup/cgroup.procs"]
    assert "Read-only" in result.err
