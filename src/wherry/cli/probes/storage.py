"""Probes of file systems: overlayfs on the disk that is to hold the images, and how much is free there."""

from __future__ import annotations

import os

from .finding import Finding, degraded, missing, ok
from .trial import attempt

_GIB = 1 << 30
_REMEDY = "modprobe overlay; keep the data root on ext4, xfs or btrfs, not on an overlay or a network file system (wherryd --data-root)"


def existing_parent(path: str) -> str:
    """The directory that exists on the way to `path`."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def overlay(data_root: str) -> Finding:
    """An overlay mounted on the data root's file system, a file of it changed and another one deleted."""
    from wherry.linux.namespaces import NEWNS

    parent = existing_parent(data_root)
    folder = f"{parent}/.wherry-doctor-{os.getpid()}"

    def use() -> None:
        from wherry.linux import mounts

        mounts.mount_overlay([f"{folder}/lower"], f"{folder}/upper", f"{folder}/work", f"{folder}/merged")
        with open(f"{folder}/merged/changed", "a", encoding="ascii") as file:
            file.write("more")
        os.unlink(f"{folder}/merged/deleted")
        mounts.detach(f"{folder}/merged")
        if not os.path.exists(f"{folder}/upper/changed"):
            raise OSError(5, "what was written did not reach the upper directory")

    try:
        for name in ("", "/lower", "/upper", "/work", "/merged"):
            os.mkdir(folder + name, 0o700)
        for name in ("changed", "deleted"):
            with open(f"{folder}/lower/{name}", "w", encoding="ascii"):
                pass
        problem = attempt(NEWNS, use)
    except OSError as error:
        problem = f"{parent}: {error.strerror}"
    finally:
        from shutil import rmtree

        rmtree(folder, ignore_errors=True)
    if problem:
        return missing("overlayfs", problem, "images and containers share their layers through it", _REMEDY)
    return ok("overlayfs", f"mounted, written and removed on the file system of {parent}")


def many_layers() -> Finding:
    """`lowerdir+` (Linux 6.5): layers without the limit of one page of options."""
    from wherry.linux.namespaces import NEWNS

    def use() -> None:
        from wherry.linux import syscalls

        fd = syscalls.fsopen("overlay")
        try:
            syscalls.fsconfig(fd, 1, "lowerdir+", "/", 0, "overlay")
        finally:
            os.close(fd)

    if attempt(NEWNS, use):
        return ok(
            "lowerdir+", "not known to this kernel: layers are mounted by short relative paths, up to 128 of them"
        )
    return ok("lowerdir+", "known to this kernel")


def erofs() -> Finding:
    """Not used yet: read-only images as files."""
    with open("/proc/filesystems", encoding="ascii") as file:
        known = any(line.split()[-1] == "erofs" for line in file if line.strip())
    return ok("erofs", "known to this kernel" if known else "not known to this kernel (not needed)")


def free_space(data_root: str) -> Finding:
    """Room for images."""
    parent = existing_parent(data_root)
    status = os.statvfs(parent)
    free, inodes = status.f_bavail * status.f_frsize, status.f_favail
    shown = f"{free / _GIB:.1f} GiB free for {data_root}"
    remedy = "wherry system prune, or a larger disk: wherryd --data-root"
    if free < _GIB:
        return degraded("disk", shown, "pulling an image may fill the disk", remedy)
    if 0 < inodes < 100_000:
        return degraded("disk", f"{shown}, {inodes} inodes", "images have many small files", remedy)
    return ok("disk", shown)
