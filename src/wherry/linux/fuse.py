"""fuse-overlayfs on a detached mount: served by a process that ends when the last reference to the mount does.

    mount, pid = open_overlay(lower, upper, work)

Runs in the engine and in the shim's worker. The mount is made here and the program is handed the descriptor to serve (libfuse takes "/dev/fd/N" as a
file system that is mounted already, since 3.3), so no mount table shows it, nobody polls for it to appear, and whatever ends a container's mount
namespace ends the program. Should it fail, what the mount is asked fails with ENOTCONN.
"""

from __future__ import annotations

import os

from wherry.errors import SyscallError
from wherry.linux.mounts import Filesystem

PROGRAM = "fuse-overlayfs"


def open_overlay(lower: list[str], upper: str = "", work: str = "") -> tuple[int, int]:
    """A detached mount, `lower` topmost first, read-only without `upper`; and the pid of the program, a child of the caller's. SyscallError."""
    for path in (*lower, upper, work):
        if "," in path or ":" in path or "\\" in path:
            raise SyscallError("mount", f"fuse-overlayfs on {path}, a path that its options cannot hold", 22)
    # Without the kernel's write-back cache: what a container has written is there for another view to read.
    options = f"writeback=0,lowerdir={':'.join(lower)}" + (f",upperdir={upper},workdir={work}" if upper else "")
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SyscallError("open", "/dev/fuse", error.errno or 0) from None
    try:
        mount = Filesystem(
            "fuse",
            [
                *(("fd", str(device)), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")),
                *(("default_permissions", None), ("allow_other", None)),
            ],
            source=PROGRAM,
        ).open()
        try:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            try:
                actions = [
                    *((os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)),
                    (os.POSIX_SPAWN_DUP2, device, 3),
                ]
                pid = os.posix_spawnp(
                    PROGRAM, [PROGRAM, "-f", "-o", options, "/dev/fd/3"], os.environ, file_actions=actions, setsigmask=()
                )  # fmt: skip
            except OSError as error:
                raise SyscallError("execve", PROGRAM, error.errno or 0) from None
            finally:
                os.close(null)
        except BaseException:
            os.close(mount)
            raise
    finally:
        os.close(device)
    try:
        os.stat(f"/proc/self/fd/{mount}/")  # waits for its first answer
    except OSError as error:
        os.close(mount)
        os.waitpid(pid, 0)
        raise SyscallError("mount", f"fuse-overlayfs of {len(lower)} layers", error.errno or 0) from None
    return mount, pid
