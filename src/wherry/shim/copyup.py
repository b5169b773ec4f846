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
    from wherry.wire.shim import CopyUp


def fill_volumes(rootfs: int, volumes: list[CopyUp]) -> None:
    """Copies for each volume in turn. `rootfs` is a descriptor of the container's root directory. StartError naming the volume."""
    for volume in volumes:
        try:
            _fill(rootfs, volume["source"], volume["destination"])
        except (SyscallError, OSError) as error:
            number = error.errno or 0
            raise StartError(
                "copy_up", f"failed to populate volume: error copying {volume['destination']}: {error}", number
            ) from None


def _fill(rootfs: int, source: str, destination: str) -> None:
    target = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.listdir(target):
            return
        try:
            image = paths.open_in_root(rootfs, destination, os.O_RDONLY | os.O_DIRECTORY)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        try:
            trees.copy_contents(image, target)
        finally:
            os.close(image)
    finally:
        os.close(target)
