"""Mount values print themselves as a person would write them."""

from __future__ import annotations

from wherry.linux import mounts


def test_attributes_print_like_mount_options() -> None:
    assert str(mounts.Attributes(mounts.RDONLY | mounts.NOSUID, propagation=mounts.PRIVATE)) == "ro,nosuid,private"
    assert str(mounts.Attributes(clear=mounts.RDONLY)) == "rw"
    assert not mounts.Attributes()


def test_a_file_system_prints_its_options() -> None:
    assert str(mounts.Filesystem("tmpfs", [("size", "1m"), ("noswap", None)])) == "tmpfs(size=1m,noswap)"
    assert str(mounts.Filesystem("proc", [])) == "proc"
