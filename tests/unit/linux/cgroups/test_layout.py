"""What mountinfo says about cgroups, and where a cgroupsPath leads."""

import pytest

from wherry.errors import InvalidArgument
from wherry.linux import cgroups

ONE_BY_ONE = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
TOGETHER = """\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /elsewhere/cpu rw - cgroup cgroup rw,cpu,cpuacct
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
IN_A_CONTAINER = "32 31 0:29 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"


def test_controllers_mounted_one_by_one_beside_a_unified_mount_are_hybrid() -> None:
    layout = cgroups.parse_mountinfo(ONE_BY_ONE)
    assert layout.mode == "hybrid"
    assert [h.controllers for h in layout.v1] == [("cpu",), ("memory",), ("name=systemd",)]


def test_controllers_mounted_together_are_one_hierarchy_and_its_second_mount_is_ignored() -> None:
    layout = cgroups.parse_mountinfo(TOGETHER)
    assert [(h.mountpoint, h.controllers) for h in layout.v1] == [("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct"))]
    group = cgroups.open_group("/wherry/a", layout=layout)
    assert group.paths["cpu"] == group.paths["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct/wherry/a"


def test_a_unified_mount_alone_is_v2() -> None:
    layout = cgroups.parse_mountinfo(V2)
    assert layout.mode == "v2"
    assert cgroups.open_group("/wherry/a", layout=layout).paths == {"": "/sys/fs/cgroup/wherry/a"}


def test_a_mount_point_with_a_blank_is_unescaped() -> None:
    assert cgroups.parse_mountinfo(V2.replace("/sys/fs", "/s\\040fs")).unified.mountpoint == "/s fs/cgroup"  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/../../etc", "/a/../../../etc", "../../../../etc"])
def test_dots_do_not_leave_the_hierarchy(path: str) -> None:
    group = cgroups.open_group(path, layout=cgroups.parse_mountinfo(V2))
    assert group.paths[""].startswith("/sys/fs/cgroup/")
    assert ".." not in group.paths[""]


@pytest.mark.parametrize("path", ["/", "", "/..", "a\0b"])
def test_the_root_group_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="cgroupsPath"):
        cgroups.open_group(path, layout=cgroups.parse_mountinfo(V2))


def test_an_absolute_path_in_a_container_counts_from_the_part_that_is_mounted() -> None:
    group = cgroups.open_group("/x", layout=cgroups.parse_mountinfo(IN_A_CONTAINER))
    assert group.paths == {"memory": "/sys/fs/cgroup/memory/x"}


def test_a_group_is_found_again_by_its_paths() -> None:
    layout = cgroups.parse_mountinfo(ONE_BY_ONE)
    group = cgroups.open_group("/wherry/a", layout=layout)
    assert cgroups.reopen(group.paths, layout=layout).paths == group.paths
