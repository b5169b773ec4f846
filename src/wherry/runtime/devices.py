"""Device nodes and the usual links in a container's /dev.

Runs in a container's init, before pivot_root, on descriptors inside the new root only; nothing that the image has put
at /dev can lead a node elsewhere (CVE-2026-41579). In a user namespace mknod(2) is not allowed: there the host's own
nodes, opened by the parent and checked to be the device that was asked for, are bind mounted. Source: OCI
config-linux.md "Default Devices".
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import FailedPrecondition, InvalidArgument, StartError, SyscallError
from wherry.linux import mounts, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec import oci

DEFAULT: tuple[oci.Device, ...] = tuple(
    {"path": f"/dev/{name}", "type": "c", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0}
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
DEFAULT_RULES: tuple[oci.DeviceRule, ...] = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},  # null
    {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},  # zero
    {"allow": True, "type": "c", "major": 1, "minor": 7, "access": "rwm"},  # full
    {"allow": True, "type": "c", "major": 1, "minor": 8, "access": "rwm"},  # random
    {"allow": True, "type": "c", "major": 1, "minor": 9, "access": "rwm"},  # urandom
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},  # tty
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},  # ptmx
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},  # pts
    {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},  # tun
)
"""What every container may use beside its own rules: the default devices, and terminals. Appended to `linux.resources.devices` by `container`."""
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def wanted(devices: list[oci.Device]) -> list[oci.Device]:
    """The default devices, unless the configuration describes the same path itself, and then its own."""
    named = {device["path"] for device in devices}
    return [device for device in DEFAULT if device["path"] not in named] + devices


def check(device: oci.Device) -> None:
    """InvalidArgument naming what is wrong with the description of a device."""
    path = device.get("path", "")
    if not path.startswith("/"):
        raise InvalidArgument(f"linux.devices: path {path!r} is not absolute")
    if device.get("type") not in _KINDS:
        raise InvalidArgument(f"linux.devices: {path}: type {device.get('type')!r} is not one of c, b, u, p")


def open_host_node(device: oci.Device) -> int:
    """In the parent: a detached bind mount of the host's node at the device's path, checked to be that device."""
    path = device["path"]
    fd = mounts.clone_tree(path, subject=f"device {path}")
    if not _is_node(os.fstat(fd), device):
        os.close(fd)
        raise FailedPrecondition(f"device {path}: the host's node there is another device")
    return fd


def _is_node(status: os.stat_result, device: oci.Device) -> bool:
    kind = _KINDS[device["type"]]
    if stat.S_IFMT(status.st_mode) != kind:
        return False
    return kind == stat.S_IFIFO or status.st_rdev == os.makedev(device.get("major", 0), device.get("minor", 0))


def make_node(root: int, device: oci.Device) -> None:
    """mknod(2) at the device's path inside `root`, with its mode and owner. A node of that kind that is there already is kept."""
    directory, name = paths.split(device["path"])
    parent = paths.make_directory(root, directory)
    try:
        _make_node_in(parent, name, device)
    finally:
        os.close(parent)


def furnish(dev: int, *, kcore: bool) -> None:
    """The default devices and the usual links, in an empty directory that is to become a container's /dev."""
    for device in DEFAULT:
        _make_node_in(dev, paths.split(device["path"])[1], device)
    make_links(dev, kcore=kcore)


def _make_node_in(parent: int, name: bytes, device: oci.Device) -> None:
    try:
        number = os.makedev(device.get("major", 0), device.get("minor", 0))
        try:
            os.mknod(name, _KINDS[device["type"]] | device.get("fileMode", 0o666) & 0o7777, number, dir_fd=parent)
        except FileExistsError:
            if not _is_node(os.stat(name, dir_fd=parent, follow_symlinks=False), device):
                raise StartError(
                    "devices", f"device {device['path']}: something else is there in the image", errno.EEXIST
                ) from None
        uid, gid = device.get("uid", 0), device.get("gid", 0)
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        raise SyscallError("mknod", device["path"], error.errno or 0) from None


def bind_node(root: int, device: oci.Device, mount: int) -> None:
    """Attaches the host's node over an empty file at the device's path inside `root`."""
    target = paths.make_file(root, device["path"])
    try:
        mounts.attach(mount, target, subject=device["path"])
    finally:
        os.close(target)
        os.close(mount)


def make_links(dev: int, *, kcore: bool) -> None:
    """/dev/fd and its like, /dev/ptmx, and /dev/core where there is a /proc/kcore. Links of that name that are there already stay."""
    for name, target in (*_LINKS, ("ptmx", "pts/ptmx"), *((("core", "/proc/kcore"),) if kcore else ())):
        try:
            os.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            continue
        except OSError as error:
            raise SyscallError("symlink", f"/dev/{name}", error.errno or 0) from None
