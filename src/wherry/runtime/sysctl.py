"""Kernel parameters of a container: only those that belong to a namespace of its own, written through a verified procfs.

Pure check in the parent, write in a container's init. Source: namespaces(7), Documentation/admin-guide/sysctl; a
value is one write, never joined with others (CVE-2022-0811), and a key is a path of plain names.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.linux.procfs import Procfs

_IPC = frozenset((
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
))  # fmt: skip


def check(key: str, *, own: set[str]) -> str:
    """The path below /proc/sys that `key` names, when it belongs to one of the namespaces in `own` (OCI names). Else InvalidArgument.

    As sysctl(8): with "." as the separator "/" stands for a dot in a name, and the other way round; the first separator decides.
    """
    dot, slash = key.find("."), key.find("/")
    name = key.translate({ord("."): "/", ord("/"): "."}) if dot >= 0 and (slash < 0 or dot < slash) else key
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise InvalidArgument(f"sysctl {key!r} is not a name")
    dotted = ".".join(parts)
    if dotted in _IPC or dotted.startswith("fs.mqueue."):
        needed = "ipc"
    elif parts[0] == "net" and len(parts) > 1:
        needed = "network"
    elif dotted == "kernel.domainname":
        needed = "uts"
    elif dotted == "kernel.hostname":
        raise InvalidArgument(f'sysctl "{key}" is not allowed as it conflicts with the OCI "hostname" field')
    elif parts[0] == "user" and len(parts) > 1:  # limits of the user namespace (namespaces(7))
        needed = "user"
    else:
        raise InvalidArgument(f'sysctl "{key}" is not in a separate kernel namespace')
    if needed not in own:
        raise InvalidArgument(f'sysctl "{key}" is not allowed in the hosts {needed} namespace')
    return "/".join(parts)


def apply(procfs: Procfs, values: list[tuple[str, str]]) -> None:
    """Writes (path below /proc/sys, value) pairs."""
    for path, value in values:
        procfs.write(f"sys/{path}", value)
