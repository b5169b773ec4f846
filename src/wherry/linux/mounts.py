"""Mounts as detached objects: made, configured, and only then attached - by descriptor.

    mount = new_filesystem("tmpfs", {"size": "64m"}, attributes=NOSUID | NODEV)     # nobody can see it yet
    attach(mount, target_fd)                                                        # now it is there, complete

Runs in the engine, the shim, `wherry-runc` and a container's init. A target inside a container is always a descriptor
that `paths` opened, so no path is looked up twice and no attribute (read-only, nosuid) is added after the mount can
be reached. Sources: mount_namespaces(7), mount_setattr(2), the kernel's Documentation/filesystems/mount_api. Needs
Linux 5.12; `mount_overlay` uses `lowerdir+` from 6.5 on and falls back.
Absent: reading mount options of the OCI configuration (runtime.mount_options), deciding what a container sees
(runtime.rootfs).
"""

from __future__ import annotations

import errno
import os

from wherry.errors import SyscallError
from wherry.linux import syscalls
from wherry.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE

# mount_setattr(2) attributes
RDONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8
ATIME_MASK, NOATIME, STRICTATIME, NODIRATIME = 0x70, 0x10, 0x20, 0x80
IDMAP, NOSYMFOLLOW = 0x100000, 0x200000
# propagation types
UNBINDABLE, PRIVATE, SLAVE, SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2

_HAS_LOWERDIR_PLUS = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 5)
_OPEN_TREE_CLONE = 1
_F_EMPTY_PATH, _T_EMPTY_PATH = 0x4, 0x40
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE, _RECONFIGURE = 0, 1, 5, 6, 7

_NAMES = {RDONLY: "ro", NOSUID: "nosuid", NODEV: "nodev", NOEXEC: "noexec", NOATIME: "noatime", STRICTATIME: "strictatime", NODIRATIME: "nodiratime",
          NOSYMFOLLOW: "nosymfollow"}  # fmt: skip
_PROPAGATIONS = {UNBINDABLE: "unbindable", PRIVATE: "private", SLAVE: "slave", SHARED: "shared"}


class Attributes:
    """What to set and clear on a mount, and its propagation (0: leave). Prints as mount(8) would spell it: "ro,nosuid,private"."""

    __slots__ = ("clear", "propagation", "set")

    def __init__(self, set_: int = 0, clear: int = 0, propagation: int = 0) -> None:
        self.set = set_
        self.clear = clear
        self.propagation = propagation

    def __bool__(self) -> bool:
        return bool(self.set or self.clear or self.propagation)

    def __str__(self) -> str:
        words = [name for bit, name in _NAMES.items() if self.set & bit]
        if self.clear & RDONLY:
            words.append("rw")
        if self.propagation:
            words.append(_PROPAGATIONS[self.propagation])
        return ",".join(words)


class Filesystem:
    """A file system to be mounted: prints itself as `type[source](options) attributes`; `open` makes the detached mount."""

    __slots__ = ("attributes", "fstype", "options", "source")

    def __init__(
        self, fstype: str, options: list[tuple[str, str | None]], attributes: int = 0, source: str = ""
    ) -> None:
        self.fstype = fstype
        self.options = options
        self.attributes = attributes
        self.source = source

    def __str__(self) -> str:
        options = ",".join(key if value is None else f"{key}={value}" for key, value in self.options)
        return f"{self.fstype}({options})" if options else self.fstype

    def open(self) -> int:
        """A detached mount of a new instance. The caller owns the descriptor; closing it unattached unmounts."""
        subject = self.fstype
        context = syscalls.fsopen(self.fstype)
        try:
            if self.source:
                syscalls.fsconfig(context, _SET_STRING, "source", self.source, 0, subject)
            for key, value in self.options:
                syscalls.fsconfig(context, _SET_FLAG if value is None else _SET_STRING, key, value, 0, subject)
            syscalls.fsconfig(context, _CREATE, None, None, 0, subject)
            return syscalls.fsmount(context, self.attributes, subject)
        finally:
            os.close(context)


def clone_tree(path: str, *, fd: int = AT_FDCWD, recursive: bool = False, subject: str = "") -> int:
    """A detached copy of the mount at `path` (of what `fd` refers to when `path` is ""), with the mounts below it
    when `recursive`: the source of a bind mount.

    The copy shows the file tree from that point on and keeps the source's attributes and propagation. The caller owns the descriptor.
    """
    flags = _OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    try:
        return syscalls.open_tree(fd, path, flags)
    except SyscallError as error:
        if subject:
            raise SyscallError(error.call, subject, error.errno) from None
        raise


def set_attributes(fd: int, attributes: Attributes, *, recursive: bool = False, subject: str = "") -> None:
    """Changes the mount whose root `fd` is. Recursive changes happen for all mounts below or for none."""
    syscalls.mount_setattr(
        fd, "", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
        set_=attributes.set, clear=attributes.clear, propagation=attributes.propagation,
        subject=f"{attributes} {subject or f'descriptor {fd}'}",
    )  # fmt: skip


def map_ids(fd: int, user_namespace: int, *, recursive: bool = False, subject: str = "") -> None:
    """Makes a detached mount id-mapped, for good: ids on disk appear as the user namespace's mappings translate them (Linux 5.12)."""
    try:
        syscalls.mount_setattr(
            fd, "", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0),
            set_=IDMAP, clear=0, propagation=0, userns_fd=user_namespace, subject=f"idmap {subject}",
        )  # fmt: skip
    except SyscallError as error:
        hint = " (does its file system take id-mapped mounts?)" if error.errno == errno.EINVAL else ""
        raise SyscallError(error.call, error.subject + hint, error.errno) from None


def reconfigure(fd: int, options: list[tuple[str, str | None]], *, subject: str = "") -> None:
    """Changes options of the mounted file system whose root `fd` is, for all of its mounts (mount -o remount)."""
    context = syscalls.fspick(fd, subject)
    try:
        for key, value in options:
            syscalls.fsconfig(context, _SET_FLAG if value is None else _SET_STRING, key, value, 0, subject)
        syscalls.fsconfig(context, _RECONFIGURE, None, None, 0, subject)
    finally:
        os.close(context)


def set_propagation(path: str, propagation: int, *, recursive: bool = True) -> None:
    """Propagation of the mount at `path`, a path of this process's own view (such as "/")."""
    syscalls.mount_setattr(
        AT_FDCWD, path, AT_RECURSIVE if recursive else 0, set_=0, clear=0, propagation=propagation,
        subject=f"{_PROPAGATIONS[propagation]} {path}",
    )  # fmt: skip


def attach(mount_fd: int, target_fd: int, *, subject: str = "") -> None:
    """Attaches a detached mount on top of the file or directory `target_fd`. `mount_fd` then refers to the attached mount's root."""
    try:
        syscalls.move_mount(mount_fd, "", target_fd, "", _F_EMPTY_PATH | _T_EMPTY_PATH)
    except SyscallError as error:
        raise SyscallError("mount", subject or f"descriptor {target_fd}", error.errno) from None


def attach_at(mount_fd: int, target: str) -> None:
    """Attaches a detached mount at a path that no container has a say in."""
    syscalls.move_mount(mount_fd, "", AT_FDCWD, target, _F_EMPTY_PATH)


def detach(path: str) -> None:
    """Lazily unmounts what is mounted at `path`, with all below it."""
    syscalls.umount2(path, MNT_DETACH)


def open_overlay(
    lower: list[str], upper: str = "", work: str = "", options: list[tuple[str, str | None]] | None = None
) -> int:
    """A detached overlay mount; `lower` topmost first; read-only without `upper`. The caller owns the descriptor.

    Takes 128 layers on every supported kernel, however long their paths. SyscallError with the kernel's own words about what it does not like.
    """
    if not _HAS_LOWERDIR_PLUS:
        return _open_overlay_classic(lower, upper, work, options or [])
    subject = f"overlay of {len(lower)} layers"
    context = syscalls.fsopen("overlay")
    try:
        for directory in lower:
            syscalls.fsconfig(context, _SET_STRING, "lowerdir+", directory, 0, subject)
        if upper:
            syscalls.fsconfig(context, _SET_STRING, "upperdir", upper, 0, subject)
            syscalls.fsconfig(context, _SET_STRING, "workdir", work, 0, subject)
        for key, value in options or ():
            syscalls.fsconfig(context, _SET_FLAG if value is None else _SET_STRING, key, value, 0, subject)
        syscalls.fsconfig(context, _CREATE, None, None, 0, subject)
        return syscalls.fsmount(context, 0, subject)
    finally:
        os.close(context)


def open_erofs(directory: str) -> int:
    """A detached mount of the erofs image `image` in that directory, whose files lie in `tar` beside it: both plain files (Linux 6.12)."""
    return Filesystem("erofs", [("device", f"{directory}/tar")], source=f"{directory}/image").open()


def open_erofs_overlay(lower: list[str], upper: str, work: str) -> int:
    """As `open_overlay`; all but the first of `lower` are directories as `open_erofs` takes them. The kernel takes detached mounts as
    layers since 6.15."""
    opened: list[int] = []
    try:
        for layer in lower[1:]:
            opened.append(open_erofs(layer))
        return open_overlay([lower[0], *(f"/proc/self/fd/{fd}" for fd in opened)], upper, work)
    finally:
        for fd in opened:
            os.close(fd)


def mount_overlay(
    lower: list[str], upper: str, work: str, target: str, options: list[tuple[str, str | None]] | None = None
) -> None:
    """Mounts an overlay as `open_overlay` makes it at `target`."""
    fd = open_overlay(lower, upper, work, options)
    try:
        attach_at(fd, target)
    finally:
        os.close(fd)


def _open_overlay_classic(lower: list[str], upper: str, work: str, options: list[tuple[str, str | None]]) -> int:
    """Before Linux 6.5: mount(2), whose options must fit in one page, so every directory is named by the number of a descriptor in /proc/self/fd.

    mount(2) wants a place to mount at: the topmost directory itself, for the moment until it is cloned from there and let go.
    """
    subject = f"overlay of {len(lower)} layers"
    target = upper or lower[0]
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    fds: list[int] = [here]

    def name(path: str) -> str:
        try:
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise SyscallError("mount", f"{subject} option lowerdir={path}", error.errno or 0) from None
        return str(fds[-1])

    try:
        data = "lowerdir=" + ":".join([name(path) for path in lower])
        if upper:
            data += f",upperdir={name(upper)},workdir={name(work)}"
        for key, value in options:
            data += f",{key}" if value is None else f",{key}={value}"
        target = os.path.abspath(target)
        os.chdir("/proc/self/fd")
        try:
            syscalls.mount("overlay", target, "overlay", 0, data)
        finally:
            os.fchdir(here)
        try:
            return clone_tree(target)
        finally:
            detach(target)
    finally:
        for fd in fds:
            os.close(fd)
