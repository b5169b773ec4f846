"""A fresh volume takes over what the image has at its mount point: content, owners, modes, xattrs.

Runs in the shim, before the container's process exists, on the container's root file system as a detached mount. Docker's rule: only an empty
volume, and only from a directory of the image. **Invariant:** the path in the image is resolved inside its root (RESOLVE_IN_ROOT) and then
used through its descriptor, so a symlink in the image leads nowhere else (CVE-2022-23648).
"""

from __future__ import annotations

import errno
import os

from wherry.errors import StartError, SyscallError
from wherry.linux import paths, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec import oci
    from wherry.wire.shim import CopyUp


def fill_volumes(rootfs: int, volumes: list[CopyUp], mounts: list[oci.Mount]) -> None:
    """Copies for each volume in turn. `rootfs` is a descriptor of the container's root directory. StartError naming the volume.

    Of the container's `mounts` those that come to lie in such a volume get their mount points: it may be mounted read-only.
    """
    for volume in volumes:
        try:
            if _fill(rootfs, volume["source"], volume["destination"]):
                _make_mount_points(volume, mounts)
        except (SyscallError, OSError) as error:
            number = error.errno or 0
            raise StartError(
                "copy_up", f"failed to populate volume: error copying {volume['destination']}: {error}", number
            ) from None


def _make_mount_points(volume: CopyUp, mounts: list[oci.Mount]) -> None:
    below = volume["destination"].rstrip("/") + "/"
    root = os.open(volume["source"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for mount in mounts:
            if mount["destination"].startswith(below):
                is_file = mount.get("type") == "bind" and not os.path.isdir(mount["source"])
                make = paths.make_file if is_file else paths.make_directory
                os.close(make(root, mount["destination"][len(below) :]))
    finally:
        os.close(root)


def _fill(rootfs: int, source: str, destination: str) -> bool:
    """Whether the volume was empty and the image has such a directory."""
    target = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.listdir(target):
            return False
        try:
            image = paths.open_in_root(rootfs, destination, os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        try:
            trees.copy_contents(image, target)
        finally:
            os.close(image)
        return True
    finally:
        os.close(target)
