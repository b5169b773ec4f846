"""The storage drivers, each through the whole contract, and what they say where they cannot live."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.snapshot_suite import *  # noqa: F403
from tests.contract.snapshot_suite import BASE, TOP, Place, Store, mounted

from wherry.core.drivers import DRIVERS, choose_driver
from wherry.core.rootfs import BindRoot
from wherry.errors import FailedPrecondition
from wherry.linux.mounts import mount_overlay, open_overlay

pytestmark = pytest.mark.requires("root", "overlay", "btrfs", "erofs", "fuse-overlayfs")


@pytest.fixture(scope="module")
def btrfs_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = tmp_path_factory.mktemp("btrfs") / "image"
    with image.open("wb") as created:
        created.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    return image


@pytest.fixture
def btrfs(btrfs_image: Path, tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "btrfs"
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", btrfs_image, mount], check=True)
    root = mount / tmp_path.name
    root.mkdir()
    yield root
    subprocess.run(["umount", mount], check=True)


@pytest.fixture(params=sorted(DRIVERS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param != "btrfs":
        return tmp_path, request.param
    return request.getfixturevalue("btrfs"), "btrfs"


def test_btrfs_lives_on_btrfs_alone(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"driver not supported: btrfs: prerequisites .*wrong filesystem"):
        choose_driver(str(tmp_path), "btrfs")


def test_overlay_does_not_live_on_overlay(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "mnt"):
        (tmp_path / name).mkdir()
    mount_overlay([str(tmp_path / "lower")], str(tmp_path / "upper"), str(tmp_path / "work"), str(tmp_path / "mnt"))
    try:
        with pytest.raises(FailedPrecondition, match=r"driver not supported: overlay2: .*is on overlay"):
            choose_driver(str(tmp_path / "mnt"), "overlay2")
        assert choose_driver(str(tmp_path / "mnt"), None).name == "fuse-overlayfs"
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)


def test_a_container_makes_subvolumes_of_its_own(btrfs: Path) -> None:
    """As an engine inside of it does: they go with it. Also from where no path leads to."""
    from wherry.linux.btrfs import create_subvolume

    store = Store(btrfs / "nested", "btrfs")
    store.prepare("c1", None)
    with mounted(store, "c1") as root:
        create_subvolume(f"{root}one")
        create_subvolume(f"{root}one/two")
        Path(root, "one/two/file").write_text("x")
        directory = os.open(f"{root}one", os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(2500):
            os.mkdir("d", dir_fd=directory)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        create_subvolume(f"/proc/self/fd/{directory}/three")
        os.close(directory)
    store.remove("c1")
    assert list((btrfs / "nested/snapshots/trash").iterdir()) == []
    store.close()


@pytest.mark.parametrize("driver", ["overlay2", "erofs"])
def test_renames_and_changes_of_metadata_that_the_kernel_has_recorded_are_read_through_a_view(
    tmp_path: Path, driver: str
) -> None:
    """Kernels that are built with redirect_dir and metacopy on mount containers so."""
    store = Store(tmp_path / "engine", driver)
    store.prepare("c1", store.stack([BASE, TOP]))
    prepared = store.snapshots.mounts("c1")
    assert not isinstance(prepared, BindRoot)
    upper = Path(prepared.upper)
    with store.snapshots.driver.readable(prepared.lower[1:]) as layers:
        fd = open_overlay(
            [prepared.lower[0], *layers], prepared.upper, prepared.work, [("redirect_dir", "on"), ("metacopy", "on")]
        )
        try:
            subprocess.run(
                ["sh", "-ec", "chmod 600 big; mv etc moved"],
                stderr=subprocess.DEVNULL,
                cwd=f"/proc/{os.getpid()}/fd/{fd}",
                check=True,
            )
        finally:
            os.close(fd)
    assert "trusted.overlay.metacopy" in os.listxattr(upper / "big")
    assert "trusted.overlay.redirect" in os.listxattr(upper / "moved")
    changes = store.changes("c1")
    assert {change for change in changes if "/moved/" not in change} == {"C /big", "D /etc", "A /moved"}
    assert "A /moved/passwd" in changes
    tar = io.BytesIO()
    store.snapshots.write_changes("c1", tar.write)
    store.prepare("c2", store.stack([BASE, TOP, tar.getvalue()]))
    with mounted(store, "c2") as root:
        assert Path(root, "big").read_bytes() == b"b" * 300_000
        assert stat.S_IMODE(Path(root, "big").stat().st_mode) == 0o600
        assert Path(root, "moved/passwd").read_bytes().startswith(b"root:x:0") and not Path(root, "etc/passwd").exists()
    exported = io.BytesIO()
    store.snapshots.export("c1", exported.write)
    exported.seek(0)
    with tarfile.open(fileobj=exported) as archive:
        names = archive.getnames()
        big = archive.extractfile("big")
        assert big is not None and big.read() == b"b" * 300_000
    assert "moved/passwd" in names and "etc/passwd" not in names
    store.close()
