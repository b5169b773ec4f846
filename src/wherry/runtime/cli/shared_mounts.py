"""Containers without a mount namespace of their own: what they mount is mounted in the runtime's namespace, on the bundle's
root directory, from create to delete. Runs in `wherry-runc`.

**Invariant:** only the mount that create has made there is removed, never one that was there before or came later.
"""

from __future__ import annotations

import os

from wherry.linux import mounts
from wherry.runtime import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.state import State
    from wherry.spec.oci import Config


def remember(state: State, config: Config) -> None:
    """After create: which mount is on the root directory."""
    if all(space.get("type") != "mount" for space in config["linux"].get("namespaces") or ()):
        states.write_file(f"{state.directory}/{states.SHARED_MOUNT}", _mount_id(state.rootfs))


def remove(state: State) -> None:
    """At delete, when the processes have ended."""
    try:
        with open(f"{state.directory}/{states.SHARED_MOUNT}", "rb") as file:
            made = file.read()
        if _mount_id(state.rootfs) == made:
            mounts.detach(state.rootfs)
    except FileNotFoundError:
        return


def _mount_id(path: str) -> bytes:
    """The kernel's number of the topmost mount at `path` (proc_pid_fdinfo(5))."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            return file.read().partition(b"mnt_id:")[2].split()[0]
    finally:
        os.close(fd)
