"""Which namespaces a container gets: new, somebody else's by path, or the runtime's own; and the plan for getting there.

Made in the parent from `linux.namespaces`; carried out by `spawn` and `init`. **Invariant:** the parent never changes
its own namespaces. What can only be done by an ancestor of the container's first process (entering a PID or time
namespace, entering other namespaces before a new user namespace takes the power to) is done by a helper between the
two, which the kernel makes a sibling (CLONE_PARENT). Source: namespaces(7), user_namespaces(7), OCI config-linux.md.
"""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument, SyscallError
from wherry.linux import namespaces, syscalls
from wherry.linux.procfs import Procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec import oci


class Plan:
    """`new`: OCI names of new namespaces; `join`: (name, descriptor) of those by path. The descriptors belong to the plan: `close` it."""

    __slots__ = ("gid_map", "join", "new", "time_offsets", "uid_map", "unprivileged")

    def __init__(self, linux: oci.Linux, *, unprivileged: bool = False) -> None:
        """`unprivileged`: whoever makes the container is not root, and has power in its user namespace only."""
        self.unprivileged = unprivileged
        self.new: set[str] = set()
        self.join: list[tuple[str, int]] = []
        seen: set[str] = set()
        entries = linux.get("namespaces") or []
        for entry in entries:
            kind = entry.get("type", "")
            if kind not in namespaces.FLAG:
                raise InvalidArgument(f"linux.namespaces: unknown type {kind!r}")
            if kind in seen:
                raise InvalidArgument(f"linux.namespaces: {kind} is there twice")
            seen.add(kind)
        self.uid_map = id_map(linux.get("uidMappings") or [], "uidMappings")
        self.gid_map = id_map(linux.get("gidMappings") or [], "gidMappings")
        offsets = linux.get("timeOffsets") or {}
        self.time_offsets = [
            (_clock(clock), value.get("secs", 0), value.get("nanosecs", 0)) for clock, value in offsets.items()
        ]
        try:
            for entry in entries:
                kind, path = entry["type"], entry.get("path", "")
                if not path:
                    self.new.add(kind)
                    continue
                fd = namespaces.open_namespace(kind, path)
                if namespaces.is_own(kind, fd):
                    if kind == "mount":
                        os.close(fd)
                        raise InvalidArgument(
                            f"linux.namespaces: mount namespace {path} is the runtime's own: a container that is to share it has no entry for it"
                        )
                    os.close(fd)  # nothing to do; the kernel refuses to enter a user namespace that one is in
                else:
                    self.join.append((kind, fd))
            if "user" in self.new and not (self.uid_map and self.gid_map):
                raise InvalidArgument("linux.uidMappings and linux.gidMappings: a new user namespace needs both")
            if "user" not in seen and (self.uid_map or self.gid_map):
                raise InvalidArgument("linux.uidMappings: id mappings without a user namespace")
            if self.time_offsets and "time" not in self.new:
                raise InvalidArgument("linux.timeOffsets: offsets without a new time namespace")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for _, fd in self.join:
            os.close(fd)
        self.join = []

    @property
    def own(self) -> set[str]:
        """The namespaces that are not the runtime's own."""
        return self.new | {kind for kind, _ in self.join}

    def joined(self, kind: str) -> int | None:
        """The descriptor of the namespace that is joined by path; None without one."""
        return next((fd for name, fd in self.join if name == kind), None)

    @property
    def needs_helper(self) -> bool:
        kinds = {kind for kind, _ in self.join}
        in_time = "time" in self.new and not self.unprivileged
        return in_time or "pid" in kinds or "user" in kinds or (bool(kinds) and "user" in self.new)

    @property
    def clone_flags(self) -> int:
        """For clone3. Not the cgroup namespace, whose root is the group that its maker is in; not time, which counts from the next process on."""
        flags = 0
        for kind in self.new - {"cgroup", "time"}:
            flags |= namespaces.FLAG[kind]
        return flags

    # ------------------------------------------------------------------------------- in the helper, or else in the child

    @property
    def network_is_foreign(self) -> bool:
        """Whether the network namespace is one that the container's user namespace may have no power over."""
        kinds = {kind for kind, _ in self.join}
        return "network" in kinds and ("user" in kinds or "user" in self.new)

    def enter(self) -> None:
        """Joins what is joined by path, but for a user namespace: without it we have the power over all the others."""
        for kind, fd in self.join:
            if kind != "user":
                namespaces.join(fd, kind)

    def enter_user(self) -> None:
        """Then the user namespace by path, as its root."""
        for kind, fd in self.join:
            if kind == "user":
                namespaces.join(fd, kind)
                become_root()

    def make_time_namespace(self, procfs: Procfs) -> None:
        """A time namespace for our children, with its offsets, which can be set only while nobody is in it (time_namespaces(7))."""
        if "time" not in self.new:
            return
        syscalls.unshare(namespaces.NEWTIME, "time namespace")
        for clock, seconds, nanoseconds in self.time_offsets:
            procfs.write("self/timens_offsets", f"{clock} {seconds} {nanoseconds}\n")

    def enter_time_namespace(self) -> None:
        """As `make_time_namespace`, for one's own: in the child, once it has power over its user namespace."""
        if "time" not in self.new:
            return
        procfs = Procfs.of_this_machine()
        self.make_time_namespace(procfs)
        fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
        namespaces.join(fd, "time")
        os.close(fd)
        procfs.close()

    # ----------------------------------------------------------------------------------------------------- in the parent

    def write_id_maps(self, procfs: Procfs, pid: int) -> None:
        """Gives the child's new user namespace its mappings. It waits for them."""
        procfs.write(f"{pid}/uid_map", self.uid_map)
        procfs.write(f"{pid}/gid_map", self.gid_map)


def become_root() -> None:
    """User and group 0 of the user namespace that we are in now; supplementary groups are dropped where it allows that."""
    try:
        syscalls.set_identity(0, 0, ())
    except SyscallError as error:
        raise SyscallError(error.call, "0 in the user namespace: is 0 mapped?", error.errno) from None


def id_map(mappings: list[oci.IdMapping], field: str) -> str:
    """The mappings as /proc/PID/uid_map takes them. InvalidArgument naming `field`."""
    lines = []
    for mapping in mappings:
        values = (mapping.get("containerID"), mapping.get("hostID"), mapping.get("size"))
        if any(
            not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 0xFFFFFFFF for value in values
        ):
            raise InvalidArgument(f"linux.{field}: {mapping!r} is not a mapping of ids")
        lines.append(f"{values[0]} {values[1]} {values[2]}\n")
    return "".join(lines)


def _clock(name: str) -> str:
    if name not in ("monotonic", "boottime"):
        raise InvalidArgument(f"linux.timeOffsets: unknown clock {name!r}")
    return name
