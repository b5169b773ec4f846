"""Whether restored processes are no more than the configuration gives: looked at before any of them runs.

A checkpoint is hostile input. What criu restores is what the image says: user ids, capabilities, namespaces - or none -, cgroups,
mounts. So every process is compared with the configuration, which comes from the bundle, while criu holds it: its namespaces are the
container's, it is in the container's cgroup, its capabilities are within the bounding set, no_new_privs and a seccomp filter and a
label are there where the configuration has them, and nothing is mounted that the configuration does not mount. Runs in `wherry-runc`
inside of criu's pre-resume notification. **Invariant:** the first difference is an error that names it; the caller kills then.
Absent: the content of a seccomp filter, which the kernel shows to nobody else while criu traces; what the processes' memory holds.
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, Internal, SyscallError
from wherry.linux import capabilities, mounts, namespaces, paths
from wherry.linux.cgroups import files
from wherry.runtime import checkpoint, devices, mount_options
from wherry.runtime.namespaces import id_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.linux.cgroups import Cgroup
    from wherry.spec import oci

_SIGKILL = 9
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_WORDS = {mounts.RDONLY: "ro", mounts.NOSUID: "nosuid", mounts.NODEV: "nodev", mounts.NOEXEC: "noexec"}


def check(pid: int, config: oci.Config, group: Cgroup, root: int) -> None:
    """FailedPrecondition naming what the process `pid` or one below it has that the configuration does not give. `root`: the root file
    system, before anything was mounted."""
    linux = config.get("linux") or {}
    members = family(pid)
    _check_namespaces(pid, members, linux)
    _check_cgroup(members, group)
    described = config.get("process") or {}
    own_users = any(entry["type"] == "user" for entry in linux.get("namespaces") or ())
    sets, _ = capabilities.parse(described.get("capabilities") or {}, own_user_namespace=own_users)
    for member in members:
        _check_privileges(member, sets, described, filtered="seccomp" in linux)
    if not sets.bounding & capabilities.SYS_ADMIN:  # with that it may mount what it wants
        _check_mounts(pid, config, group, root)


def kill(pid: int) -> None:
    """SIGKILL for the process and all below it."""
    for member in family(pid):
        try:
            os.kill(member, _SIGKILL)
        except ProcessLookupError:
            pass


def family(pid: int) -> list[int]:
    """`pid` and all that descend from it, or are in its PID namespace where that is not ours. Internal unless it is a child of ours:
    what is killed by this list must never be another's."""
    try:
        os.waitid(os.P_PID, pid if pid > 0 else os.getpid(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        raise Internal(f"criu names process {pid} as the container's, which is no child of ours") from None
    parents: dict[int, int] = {}
    spaces: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            spaces[int(name)] = os.readlink(f"/proc/{name}/ns/pid")
        except (OSError, ValueError):
            continue
    own = spaces.get(os.getpid())
    found = {pid}
    if spaces.get(pid) not in (None, own):
        found |= {member for member, space in spaces.items() if space == spaces[pid]}
    grown = True
    while grown:
        below = {member for member, parent in parents.items() if parent in found} - found
        found |= below
        grown = bool(below)
    return sorted(found)


def _refuse(what: str) -> FailedPrecondition:
    return FailedPrecondition(f"the checkpoint is not of this container, or was changed: {what}")


def _check_namespaces(pid: int, members: list[int], linux: oci.Linux) -> None:
    for entry in linux.get("namespaces") or ():
        kind, path = entry["type"], entry.get("path", "")
        name = namespaces.FILE[kind]
        if path:
            wanted, found = os.stat(path), os.stat(f"/proc/{pid}/ns/{name}")
            if (wanted.st_dev, wanted.st_ino) != (found.st_dev, found.st_ino):
                raise _refuse(f"its {kind} namespace is not {path}")
            continue
        ours = os.readlink(f"/proc/self/ns/{name}")
        for member in members:
            if os.readlink(f"/proc/{member}/ns/{name}") == ours:
                raise _refuse(f"process {member} has the host's {kind} namespace")
        if kind == "user":
            _check_id_map(pid, "uid_map", linux.get("uidMappings") or [])
            _check_id_map(pid, "gid_map", linux.get("gidMappings") or [])


def _check_id_map(pid: int, name: str, mappings: list[oci.IdMapping]) -> None:
    with open(f"/proc/{pid}/{name}") as file:
        found = [line.split() for line in file]
    if found != [line.split() for line in id_map(mappings, name).splitlines()]:
        raise _refuse(f"its {name} is another")


def _check_cgroup(members: list[int], group: Cgroup) -> None:
    for directory in set(group.paths.values()):
        strangers = set(members) - files.pids(directory)
        if strangers:
            raise _refuse(f"process {min(strangers)} is not in the cgroup {directory}")


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def _check_privileges(pid: int, sets: capabilities.Sets, described: oci.Process, *, filtered: bool) -> None:
    status = _status(pid)
    if status.get("State", "").startswith("Z"):
        return
    every = sets.bounding | sets.permitted | sets.effective | sets.inheritable | sets.ambient
    for name in _SETS:
        more = int(status[name], 16) & ~(sets.bounding if name == "CapBnd" else every)
        if more:
            raise _refuse(f"process {pid} has capabilities beyond process.capabilities ({name} {more:x})")
    if described.get("noNewPrivileges") and status["NoNewPrivs"] != "1":
        raise _refuse(f"process {pid} could gain privileges, against process.noNewPrivileges")
    if filtered and status["Seccomp"] != "2":
        raise _refuse(f"process {pid} has no seccomp filter")
    for field, name in (("apparmorProfile", "apparmor/current"), ("selinuxLabel", "current")):
        wanted = described.get(field)
        if not wanted:
            continue
        try:
            with open(f"/proc/{pid}/attr/{name}") as file:
                found = file.read().strip("\0\n")
        except OSError:
            found = ""
        if found.removesuffix(" (enforce)").removesuffix(" (complain)") != wanted:
            raise _refuse(f"process {pid} has the label {found!r}, not {wanted!r}")


def _check_mounts(pid: int, config: oci.Config, group: Cgroup, root: int) -> None:
    linux = config.get("linux") or {}
    kinds, flags, below = _expected(config, group, root)
    special = {*(linux.get("maskedPaths") or ()), *(linux.get("readonlyPaths") or ()), "/dev/console"}
    special |= {device["path"] for device in devices.wanted(linux.get("devices") or [])}
    there: dict[str, str] = {}
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields = left.split(" ")
            point, words, kind = fields[4], fields[5].split(","), right.split(" ")[0]
            there[point] = fields[5]
            if point in kinds:
                if kinds[point] and kind not in kinds[point]:
                    raise _refuse(f"{point} is a {kind}, not a {kinds[point][0]}")
                missing = flags[point] - set(words)
                if missing:
                    raise _refuse(f"{point} is mounted without {min(missing)}")
            elif point != "/" and point not in special and not any(point.startswith(f"{place}/") for place in below):
                raise _refuse(f"{point} is a mount that the configuration does not have")
    if (config.get("root") or {}).get("readonly") and "ro" not in there.get("/", "").split(","):
        raise _refuse("the root file system can be written")
    _check_covered(pid, linux, there)


def _expected(
    config: oci.Config, group: Cgroup, root: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, set[str]], set[str]]:
    """Per mount point of the configuration the types that it may have (none: any) and the words that it must have; and the points below
    which anything may be mounted (recursive bind mounts, the groups of cgroup v1)."""
    kinds: dict[str, tuple[str, ...]] = {}
    flags: dict[str, set[str]] = {}
    below: set[str] = set()
    for mount in config.get("mounts") or ():
        options = mount_options.parse(mount.get("options") or [])
        point = checkpoint.resolve(root, mount.get("destination", ""))
        is_bind = options.bind or mount.get("type") == "bind"
        if options.remount:
            if point in flags:
                flags[point] -= {word for bit, word in _WORDS.items() if options.attributes.clear & bit}
                flags[point] |= _words_of(options)
            continue
        if is_bind and options.recursive:
            below.add(point)
        is_v1 = mount.get("type") == "cgroup" and group.mode == "v1"
        if is_v1:
            below.add(point)
        kind = mount.get("type", "")
        kinds[point] = () if is_bind else {"cgroup": ("cgroup2", "cgroup", "tmpfs")}.get(kind, (kind,))
        flags[point] = _words_of(options)
    return kinds, flags, below


def _words_of(options: mount_options.Options) -> set[str]:
    return {word for bit, word in _WORDS.items() if options.of_new_mount() & bit}


def _check_covered(pid: int, linux: oci.Linux, there: dict[str, str]) -> None:
    """Masked paths are covered, read-only ones are read-only."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in _existing(root, linux.get("maskedPaths") or ()):
            if path not in there:
                raise _refuse(f"{path} is not masked")
        for path in _existing(root, linux.get("readonlyPaths") or ()):
            if "ro" not in there.get(path, "").split(","):
                raise _refuse(f"{path} can be written")
    finally:
        os.close(root)


def _existing(root: int, wanted: Iterable[str]) -> Iterable[str]:
    for path in wanted:
        try:
            fd = paths.open_in_root(root, path)
        except SyscallError:
            continue
        yield os.readlink(f"/proc/self/fd/{fd}")
        os.close(fd)
