"""User namespaces that exist only to be the mapping of an id-mapped mount (mount_setattr(2), MOUNT_ATTR_IDMAP).

Runs in the parent of a container, and is loaded only where a mount asks for it. The namespace is made by a process
that does nothing and is gone when `user_namespace` returns; the descriptor keeps it.
"""

from __future__ import annotations

import os

from wherry.errors import SyscallError
from wherry.linux import namespaces
from wherry.linux.procfs import Procfs


def user_namespace(uid_map: str, gid_map: str) -> int:
    """A descriptor (the caller's) of a user namespace with these mappings, lines of "inside outside count"."""
    procfs = Procfs.of_this_machine()
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            pid, pidfd = namespaces.clone(namespaces.NEWUSER)
            if pid == 0:
                os.close(writing)
                os.read(reading, 1)  # until the parent closes its end, or dies
                os._exit(0)
        finally:
            os.close(reading)
        try:
            procfs.write(f"{pid}/uid_map", uid_map)
            procfs.write(f"{pid}/gid_map", gid_map)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError("open", "user namespace of an id-mapped mount", error.errno or 0) from None
        finally:
            os.close(writing)
            os.waitpid(pid, 0)
            os.close(pidfd)
    finally:
        procfs.close()
