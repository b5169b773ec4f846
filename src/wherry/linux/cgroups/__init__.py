"""Control groups: one interface over cgroup v1 (also the hybrid layout) and v2.

    group = cgroups.open_group("/wherry/<id>")     # nothing happens yet
    group.create()                                 # directories in every hierarchy
    group.apply(resources)                         # OCI linux.resources; an error names what the kernel cannot apply
    fds = group.prepare_join()                     # before the fork
    cgroups.join(fds)                              # in the child, single-threaded, before it enters anything of the container
    …
    group.kill(); group.delete()

Runs in the engine, the shim, `wherry-runc`. The layout of the machine is read from /proc/self/mountinfo once per
process (`detect`), so call it in the host's mount namespace. **Invariant:** only groups at or below a path given to
`open_group` are ever written to, besides enabling controllers for children on v2 along the path. systemd's driver is
`systemd`. On a hybrid machine v1 has all the controllers; there `open_group(…, unified=True)` takes the v2 hierarchy
along, as runc does, for what tells groups apart by it (systemd, BPF, nftables). Absent: threaded groups.
"""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from wherry.spec.oci import Resources

    class Cgroup(Protocol):
        """One container's group, in all hierarchies of the machine. Making the object touches nothing."""

        mode: str
        """ "v1" or "v2"."""
        paths: dict[str, str]
        """The group's host path per controller; "" is the v2 hierarchy. `reopen` finds the group again from it; runc's
        state.json calls it "cgroup_paths".
        """

        unit: str
        """The systemd unit that the group is; "" where systemd has not made it."""

        def create(self) -> None:
            """Makes the group and its missing ancestors in every hierarchy. A group that is there already is taken
            over if nothing runs in it, else Conflict. On failure what was made is removed.
            """

        def release(self) -> None:
            """To be called when the first process is in the group, or will not be. Only systemd's units need it."""

        def give_to(self, uid: int) -> None:
            """v2: the user may divide the group. v1, where that would not be safe: nothing."""

        def exists(self) -> bool: ...
        def prepare_join(self, *, born: bool = False) -> list[int]:
            """Descriptors for `join`, CLOEXEC, owned by the caller. `born`: the process is cloned into the group that
            `clone_fd` gives, and needs what is left.
            """

        def clone_fd(self, beside: int = 0) -> int | None:
            """The group's directory in the v2 hierarchy for clone3(CLONE_INTO_CGROUP), owned by the caller; on a v2
            machine the group that the process `beside` is in now, where the container's init has moved itself to a
            child group. None where there is none.
            """

        def apply(self, resources: Resources, *, update: bool = False) -> None:
            """Sets every limit that `resources` holds. InvalidArgument or FailedPrecondition naming the field that
            the kernel does not take.
            """

        def pids(self) -> list[int]:
            """Host pids of all processes in the group and below it, ascending."""

        def freeze(self) -> None:
            """Returns when every task below has stopped."""

        def thaw(self) -> None: ...
        def is_frozen(self) -> bool: ...
        def kill(self, signal: int = 9) -> None:
            """Sends `signal` to everything at and below the group, forks in between included for SIGKILL. Thaws, so
            that SIGKILL acts. Does not wait.
            """

        def stats(self) -> dict[str, Any]:
            """In the form that `runc events --stats` has under "data"."""

        def oom_kills(self) -> int:
            """How many processes the kernel has killed here for want of memory."""

        def delete(self) -> None:
            """Removes the group and all below it, waiting for tasks that are exiting. Already gone is no error.
            FailedPrecondition while a process lives there.
            """

        def mounts(self) -> list[tuple[str, str, str]]:
            """For each hierarchy: (mount options such as "cpu,cpuacct", directory name below /sys/fs/cgroup, the
            group's host path).
            """


class Hierarchy:
    """A mounted cgroup file system: where, which part of it ("/" of the hierarchy unless in a container), and which
    controllers.
    """

    __slots__ = ("controllers", "mountpoint", "root")

    def __init__(self, mountpoint: str, root: str, controllers: tuple[str, ...]) -> None:
        self.mountpoint = mountpoint
        self.root = root
        self.controllers = controllers
        """v1: as mounted, ("cpu", "cpuacct") or ("name=systemd",). v2: empty."""


class Layout:
    """What is mounted: the v1 hierarchies (none on a v2 machine) and the v2 one if any."""

    __slots__ = ("unified", "v1")

    def __init__(self, v1: list[Hierarchy], unified: Hierarchy | None) -> None:
        self.v1 = v1
        self.unified = unified

    @property
    def mode(self) -> str:
        """ "v2" when only the unified hierarchy is there, "hybrid" with both, "v1", or "none"."""
        if self.v1:
            return "hybrid" if self.unified else "v1"
        return "v2" if self.unified else "none"


_V1_OPTIONS = frozenset(
    ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
    + ("net_cls", "net_prio", "perf_event", "hugetlb", "rdma", "misc", "debug")
)
_cached: Layout | None = None


def parse_mountinfo(text: str) -> Layout:
    """The layout that a /proc/PID/mountinfo describes (proc_pid_mountinfo(5)). Of several mounts of one hierarchy the
    first counts, of those at one place the last, which covers the others.
    """
    mounted: dict[str, tuple[str, str, str]] = {}
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        kind, _, tail = right.partition(" ")
        if kind in ("cgroup", "cgroup2"):
            fields = left.split(" ")
            mounted[unescape(fields[4])] = kind, unescape(fields[3]), tail
    v1: list[Hierarchy] = []
    unified: Hierarchy | None = None
    seen: set[str] = set()
    for mountpoint, (kind, root, tail) in mounted.items():
        if kind == "cgroup2":
            unified = unified or Hierarchy(mountpoint, root, ())
            continue
        options = tail.partition(" ")[2].split(",")
        controllers = tuple(option for option in options if option in _V1_OPTIONS or option.startswith("name="))
        if controllers and seen.isdisjoint(controllers):
            seen.update(controllers)
            v1.append(Hierarchy(mountpoint, root, controllers))
    return Layout(v1, unified)


def unescape(text: str) -> str:
    """A path as mountinfo writes it, with its blanks and backslashes back."""
    if "\\" not in text:
        return text
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def detect() -> Layout:
    """This machine's layout, read once. FailedPrecondition when no cgroup file system is mounted."""
    global _cached
    if _cached is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            layout = parse_mountinfo(file.read())
        if layout.mode == "none":
            raise FailedPrecondition("no cgroup file system is mounted (looked in /proc/self/mountinfo)")
        _cached = layout
    return _cached


def own_groups() -> dict[str, str]:
    """This process's group per controller (cgroups(7), /proc/PID/cgroup); the unified hierarchy has the key ""."""
    groups = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def open_group(cgroups_path: str, *, layout: Layout | None = None, unified: bool = False) -> Cgroup:
    """The group of an OCI `linux.cgroupsPath`: absolute paths count from the hierarchies' roots, relative ones from
    this process's own group (on v2 from its parent, since a group that has processes cannot have controllers for its
    children). ".." cannot leave the root. `unified`: on a hybrid machine also in the v2 hierarchy.
    """
    if "\0" in cgroups_path or "\n" in cgroups_path:
        raise InvalidArgument(f"cgroupsPath {cgroups_path!r} has a character that no path may have")
    relative = not cgroups_path.startswith("/")
    clean = os.path.normpath("/" + cgroups_path.lstrip("/"))
    if clean == "/":
        raise InvalidArgument(f"cgroupsPath {cgroups_path!r} is the root group: a container needs a group of its own")
    layout = layout or detect()
    own = own_groups() if relative else {}
    paths: dict[str, str] = {}
    for hierarchy in layout.v1:
        base = _below(hierarchy, own.get(hierarchy.controllers[0], "/"))
        for controller in hierarchy.controllers:
            paths[controller] = f"{base}{clean}"
    if unified and layout.v1 and layout.unified:
        paths[""] = f"{_below(layout.unified, own.get('', '/'))}{clean}"
    if not layout.v1:
        assert layout.unified is not None
        parent = os.path.dirname(own.get("", "/"))
        paths[""] = f"{_below(layout.unified, parent)}{clean}"
    return reopen(paths, layout=layout)


def reopen(paths: dict[str, str], *, layout: Layout | None = None, unit: str = "") -> Cgroup:
    """The group that had these `paths` (and was that systemd unit), for a process that did not make it."""
    if unit:
        from wherry.linux.cgroups import systemd

        return systemd.reopen(paths, unit, layout=layout)
    if paths.keys() == {""}:
        from wherry.linux.cgroups import v2

        unified = (layout or detect()).unified
        return v2.CgroupV2(paths[""], unified.mountpoint if unified else "/sys/fs/cgroup")
    from wherry.linux.cgroups import v1

    return v1.CgroupV1(paths, layout.v1 if layout else None)


def below(group: Cgroup, paths: dict[str, str]) -> Cgroup:
    """The group at `paths` below `group`: {controller: relative path}, "" for all controllers; `group` itself for none.

    InvalidArgument for a controller that it does not have, and for a path that leads out.
    """
    if not paths:
        return group
    result = dict(group.paths)
    for controller in paths:
        if controller and (controller not in result or group.mode == "v2"):
            raise InvalidArgument(f"unknown controller {controller} in --cgroup")
    for controller, base in group.paths.items():
        if not controller and group.mode == "v1":
            continue  # without controllers there is nothing to divide
        wanted = paths.get(controller, paths.get(""))
        if wanted is not None:
            result[controller] = os.path.normpath(f"{base}/{wanted}")
            if not f"{result[controller]}/".startswith(f"{base}/"):
                raise InvalidArgument(f"bad sub cgroup path: {wanted}")
    return reopen(result)


def _below(hierarchy: Hierarchy, group: str) -> str:
    """The host path of `group` without a trailing slash, where the mount may show only a part of the hierarchy (in a
    container).
    """
    root = hierarchy.root.rstrip("/")
    if root and (group == root or group.startswith(root + "/")):
        group = group[len(root) :]
    elif root:
        group = "/"
    return hierarchy.mountpoint + group.rstrip("/")


def join(fds: list[int]) -> None:
    """Moves the calling thread, which must be its process's only one, into the group whose `prepare_join` gave `fds`;
    they are closed.

    Writing "0" to each hierarchy's `tasks` moves just this thread and so spares the kernel a grace period of about 10
    ms that moving another process costs.
    """
    for fd in fds:
        os.write(fd, b"0")
        os.close(fd)
