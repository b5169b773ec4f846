"""What is different for an ordinary user: what a configuration may ask for, how a user namespace gets its ids, and a
cgroup that may not be there.

Runs in the parent (`wherry-runc`), and is loaded only where the user is not root, or where root turns out to be one
inside a user namespace. The user's own id is mapped by a plain write; more than that by newuidmap and newgidmap, which
look into /etc/subuid and /etc/subgid. Sources: user_namespaces(7) "Defining user and group ID mappings",
newuidmap(1); rules and words are runc's.
**Invariant:** a program that is started here is found in the system's directories, never by the caller's PATH.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import FailedPrecondition, InvalidArgument, SyscallError
from wherry.linux import cgroups, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.linux.procfs import Procfs
    from wherry.runtime import namespaces as runtime_namespaces
    from wherry.spec import oci

_PROGRAMS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin", "/run/wrappers/bin")
_DENIED = (errno.EPERM, errno.EACCES, errno.EROFS)
_OUTPUT_LIMIT = 4096


def check(config: oci.Config) -> None:
    """InvalidArgument, in runc's words, for what only root can do. All else is the kernel's to refuse."""
    linux = config.get("linux") or {}
    user = next((entry for entry in linux.get("namespaces") or () if entry.get("type") == "user"), None)
    if user is None:
        raise InvalidArgument("rootless container requires user namespaces")
    maps: dict[str, list[oci.IdMapping]] = {
        "uid": linux.get("uidMappings") or [],
        "gid": linux.get("gidMappings") or [],
    }
    if not user.get("path"):
        for kind, mappings in maps.items():
            if not mappings:
                raise InvalidArgument(f"rootless containers requires at least one {kind.upper()} mapping")
        for mount in config.get("mounts") or ():
            for word in mount.get("options") or ():
                kind, _, number = word.partition("=")
                if kind in maps and number.isascii() and number.isdigit() and not _is_mapped(int(number), maps[kind]):
                    raise InvalidArgument(
                        f"cannot specify {word} mount option for rootless container: no mapping has this id"
                    )
    for mount in config.get("mounts") or ():
        if (
            mount.get("uidMappings")
            or mount.get("gidMappings")
            or {"idmap", "ridmap"} & set(mount.get("options") or ())
        ):
            raise InvalidArgument("id-mapped mounts are not supported for rootless containers")
    if linux.get("netDevices"):
        raise InvalidArgument("network devices are not supported for rootless containers")
    check_process(config.get("process") or {})


def check_process(process: oci.Process) -> None:
    """Also of an exec. InvalidArgument for supplementary groups: where the kernel allows them, a user could shed those that deny."""
    if (process.get("user") or {}).get("additionalGids"):
        raise InvalidArgument("cannot set any additional groups in a rootless container")


def _is_mapped(number: int, mappings: list[oci.IdMapping]) -> bool:
    return any(entry["containerID"] <= number < entry["containerID"] + entry["size"] for entry in mappings)


# ------------------------------------------------------------------------------------------------------------------ ids


def write_id_maps(plan: runtime_namespaces.Plan, procfs: Procfs, pid: int) -> None:
    """Gives the user namespace of `pid`, a child of ours, its mappings. FailedPrecondition in the words of newuidmap."""
    _write_map(procfs, pid, "uid", plan.uid_map, os.geteuid())
    _write_map(procfs, pid, "gid", plan.gid_map, os.getegid())


def _write_map(procfs: Procfs, pid: int, kind: str, text: str, own: int) -> None:
    words = text.split()
    if words[1:] != [str(own), "1"]:
        _run_tool(f"new{kind}map", [str(pid), *words])
        return
    if kind == "gid":  # nobody may shed a group by which files are kept from him (CVE-2014-8989)
        procfs.write(f"{pid}/setgroups", "deny")
    procfs.write(f"{pid}/{kind}_map", text)


def _run_tool(name: str, arguments: list[str]) -> None:
    """Runs a set-user-id program, with an empty environment and no descriptor of ours but for what it says."""
    path = next((path for path in (f"{place}/{name}" for place in _PROGRAMS) if os.access(path, os.X_OK)), None)
    if path is None:
        raise FailedPrecondition(
            f"{name}: not found in {':'.join(_PROGRAMS)}; a user namespace with more than the user's own id needs it (Debian's package uidmap)"
        )
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            streams = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, writing, 1),
                (os.POSIX_SPAWN_DUP2, writing, 2),
            ]
            child = os.posix_spawn(path, [name, *arguments], {}, file_actions=streams)
        except OSError as error:
            raise SyscallError("execve", path, error.errno or 0) from None
        finally:
            os.close(writing)
        said = b""
        while part := os.read(reading, _OUTPUT_LIMIT):
            said = (said + part)[:_OUTPUT_LIMIT]
    finally:
        os.close(reading)
    _, status = os.waitpid(child, 0)
    if status:
        reason = " ".join(said.decode("utf-8", "replace").split()) or f"exit status {os.waitstatus_to_exitcode(status)}"
        raise FailedPrecondition(reason if reason.startswith(name) else f"{name}: {reason}")


# -------------------------------------------------------------------------------------------------------------- cgroups


def is_denied(error: BaseException, rootless: bool | None) -> bool:
    """Whether a cgroup could not be made, or limited, because we are no real root, and that may be. `rootless`:
    --rootless, None for "auto".
    """
    if rootless is False or not (isinstance(error, FailedPrecondition) or getattr(error, "errno", 0) in _DENIED):
        return False
    return bool(rootless) or os.geteuid() != 0 or namespaces.in_user_namespace()


def make_group(container_id: str, resources: Any, denied: str) -> Cgroup:
    """A group below our own in every hierarchy that we may make one in, for a container that asks for no particular
    one. It may be in none of them. FailedPrecondition when `resources` need what it has not.
    """
    try:
        layout = cgroups.detect()
    except FailedPrecondition:
        layout = cgroups.Layout([], None)
    paths: dict[str, str] = {}
    for hierarchy in layout.v1:
        group = cgroups.open_group(container_id, layout=cgroups.Layout([hierarchy], None))
        if _create(group):
            paths.update(group.paths)
    if layout.unified and not layout.v1:
        group = cgroups.open_group(container_id, layout=layout)
        if _create(group):
            return group
        if is_limited(resources):
            raise FailedPrecondition(
                f"rootless needs no limits + no cgrouppath when no permission is granted for cgroups: {denied}"
            )
    if paths:
        return cgroups.reopen(paths, layout=layout)
    from wherry.linux.cgroups.none import NoCgroup

    return NoCgroup()


def is_limited(resources: Any) -> bool:
    """Whether `linux.resources` ask for more than device rules, which an ordinary user cannot set and does not need: in a
    user namespace there are no device nodes but those that the host has.
    """
    return any(fields and (fields != {"limit": 0}) for section, fields in resources.items() if section != "devices")


def _create(group: Cgroup) -> bool:
    try:
        group.create()
    except SyscallError as error:
        if error.errno in _DENIED:
            return False
        raise
    return True
