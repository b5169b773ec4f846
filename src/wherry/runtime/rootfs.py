"""What a container sees as its file system: assembled from detached mounts, then made the root.

`Rootfs` is made in the parent, where it opens everything that comes from the host - the root tree and the sources of
bind mounts - as detached mounts (for an ordinary user the child does so, with that user's view and rights); the child
attaches them in its own mount namespace, each on a descriptor resolved inside the new root. So no host path is looked
up once the new root is there, and none in the container is looked up by the host's
rules. The one source that the child opens is what an earlier mount shows below the root, resolved there. Steps in the
child, in this order:

    attach_root → mount_all → create_devices → (hooks) → write_protect → mask → pivot

**Invariant:** an attribute (read-only, nosuid, private, an id mapping) is on a mount before the mount is attached.
Sources: OCI config.md "Mounts", config-linux.md.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import FailedPrecondition, InvalidArgument, StartError, SyscallError, WherryError
from wherry.linux import cgroups, mounts, namespaces, paths, procfs, syscalls, trees
from wherry.runtime import devices, mount_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime import namespaces as runtime_namespaces
    from wherry.spec import oci

    NewMount = tuple[str, str, tuple[tuple[str, str | None], ...], int, str]

_PROC_FILES = frozenset((
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg", "/proc/slabinfo",
    "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
))  # fmt: skip
"""What may be mounted inside /proc (as lxcfs does). Anything else could fool what reads or writes there (CVE-2019-16884)."""
_NULL = os.makedev(1, 3)
_INERT = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
_SYSFS_MAGIC = 0x62656572
_LONGEST_VALUE = 255  # of one fsconfig(2)
_UNLABELLED = frozenset(("proc", "sysfs", "mqueue"))
"""File systems whose files have SELinux contexts of their own."""
_LOOKING = ("prestart", "createRuntime", "createContainer")
_EMPTY_TMPFS = (("mode", "0755"), ("size", "4k"), ("nr_inodes", "2"))
EMPTY: NewMount = ("", "tmpfs", _EMPTY_TMPFS, _INERT | mounts.RDONLY, "tmpfs")
"""What covers a masked directory."""


class _Mount:
    """One entry of `mounts`, understood, with the detached mount of its source if that comes from the host."""

    __slots__ = ("destination", "fd", "id_maps", "inside", "is_directory", "is_locked", "is_new", "options", "source", "type")  # fmt: skip

    def __init__(self, entry: oci.Mount, bundle: str, *, is_locked: bool) -> None:
        self.is_locked = is_locked
        """What the mount of the source has of read-only, nosuid, … stays: the container is in a user namespace."""
        self.destination = entry.get("destination", "")
        self.options = mount_options.parse(entry.get("options") or [])
        bind = self.options.bind or entry.get("type") == "bind"
        self.type = "bind" if bind else entry.get("type", "")
        self.source = entry.get("source", "")
        self.fd = -1
        self.is_directory = True
        self.is_new = False
        """The mount point was not there and has been made."""
        self.inside = ""
        """The source's path from the container's root, where an earlier mount is to be seen in it."""
        if not self.destination.startswith("/"):
            self.destination = "/" + self.destination  # relative destinations are deprecated, and meant from the root
        self.id_maps: tuple[str, str] | None = None
        """None: not id-mapped; empty ones are those of the container's user namespace."""
        if self.options.idmap or entry.get("uidMappings") or entry.get("gidMappings"):
            self._set_id_maps(entry)
        if bind and self.options.data and not self.options.remount:
            raise InvalidArgument(
                f"mount {self.destination}: bind mounts cannot have any filesystem-specific options applied: {self.options.data[0][0]}"
            )
        if self.options.copy_up and self.type != "tmpfs":
            raise InvalidArgument(
                f"mount {self.destination}: tmpcopyup is for a tmpfs, not for {self.type or 'a bind mount'}"
            )
        if bind and not self.source and not self.options.remount:
            raise InvalidArgument(f"mount {self.destination}: a bind mount needs a source")
        if bind and not self.source.startswith("/"):
            self.source = os.path.join(os.path.abspath(bundle or "."), self.source)

    def _set_id_maps(self, entry: oci.Mount) -> None:
        if self.type != "bind":
            raise InvalidArgument(f"mount {self.destination}: id-mapped mounts are only supported for bind-mounts")
        from wherry.runtime import namespaces

        uids, gids = entry.get("uidMappings") or [], entry.get("gidMappings") or []
        if bool(uids) != bool(gids):
            raise InvalidArgument(
                f"mount {self.destination}: id-mapped mounts must have both uid and gid mappings specified"
            )
        self.id_maps = namespaces.id_map(uids, "uidMappings"), namespaces.id_map(gids, "gidMappings")

    def open_source(self, given: int | None, map_ids: Callable[[_Mount], None]) -> None:
        """Bind mounts: the source as a detached mount with all its attributes; private unless the options say otherwise.

        `given`: a detached mount to take instead of the source's path. `map_ids`: gives `fd` its id mappings.
        """
        if self.type != "bind" or self.options.remount or self.inside:
            return
        self.fd = mounts.clone_tree(self.source, recursive=self.options.recursive) if given is None else os.dup(given)
        self._prepare(map_ids)

    def open_inside(self, root: int, map_ids: Callable[[_Mount], None]) -> None:
        """The same for a source `inside` the container's root."""
        place = paths.open_in_root(root, self.inside)
        try:
            self.fd = mounts.clone_tree("", fd=place, recursive=self.options.recursive, subject=self.source)
        finally:
            os.close(place)
        self._prepare(map_ids)

    def _prepare(self, map_ids: Callable[[_Mount], None]) -> None:
        options = self.options
        self.is_directory = stat.S_ISDIR(os.fstat(self.fd).st_mode)
        if self.id_maps is not None:
            map_ids(self)
        every = options.recursive_attributes
        if options.recursive and options.readonly and _is_sysfs(self.fd):
            # what is mounted in /sys, cgroups above all, may be the user's own to change (CVE-2023-25809)
            every = mounts.Attributes(every.set | mounts.RDONLY, every.clear, every.propagation)
        if not options.propagation or options.propagate_recursively:
            every = mounts.Attributes(every.set, every.clear, options.propagation or mounts.PRIVATE)
        if options.names_attributes:
            self._set_flags()
        mounts.set_attributes(self.fd, every, recursive=True, subject=self.source)
        if options.propagation and not options.propagate_recursively:
            mounts.set_attributes(self.fd, mounts.Attributes(propagation=options.propagation), subject=self.source)

    def _set_flags(self) -> None:
        if not self.is_locked:
            try:
                mounts.set_attributes(self.fd, self.options.of_bind_mount(), subject=self.source)
                return
            except SyscallError as error:
                if error.errno != errno.EPERM:  # we are in a user namespace ourselves
                    raise
        has = os.fstatvfs(self.fd).f_flag
        mounts.set_attributes(self.fd, self.options.of_locked_mount(has), subject=self.source)

    def error(self, error: WherryError) -> StartError:
        number = error.errno if isinstance(error, SyscallError) else 0
        return StartError(
            "mounts", f'error mounting "{self.source or self.type}" to rootfs at "{self.destination}": {error}', number
        )


class Rootfs:
    """The container's file system. `path` is its root directory in the caller's view, or a detached mount; `own`: OCI names of its namespaces."""

    def __init__(
        self,
        config: oci.Config,
        path: str | int,
        *,
        group: Cgroup | None,
        namespaces: runtime_namespaces.Plan,
        bundle: str = "",
        sources: dict[str, int] | None = None,
        pivot: bool = True,
    ) -> None:
        linux, own = config.get("linux") or {}, namespaces.own
        self.path = path
        self.sources = sources or {}
        self.readonly = bool((config.get("root") or {}).get("readonly"))
        self.propagation = mount_options.propagation(linux.get("rootfsPropagation") or "")
        self.can_pivot = pivot
        self.is_at_path = isinstance(path, str) and any((config.get("hooks") or {}).get(kind) for kind in _LOOKING)
        """A hook that enters the mount namespace before the root is changed looks for it where it was, as it is in runc's."""
        self.shares_mounts = "mount" not in own
        """Without a mount namespace of its own, what the container mounts is mounted in the runtime's, on `path`."""
        if not pivot and self.propagation[0] == mounts.PRIVATE:
            raise InvalidArgument("linux.rootfsPropagation: [r]private is not safe without pivot_root")
        self.label = _label(linux.get("mountLabel") or "")
        self.masked = list(dict.fromkeys(linux.get("maskedPaths") or ()))
        self.readonly_paths = linux.get("readonlyPaths") or []
        self.in_user_namespace = "user" in own
        self.group = group
        self.namespaces = namespaces
        self.cwd = (config.get("process") or {}).get("cwd") or "/"
        self.kcore = os.path.exists("/proc/kcore")
        self.procfs: procfs.Procfs | None = None
        self._late_readonly: list[int] = []
        self._nodes: list[tuple[oci.Device, int]] = []
        self._groups: list[tuple[_Mount, str, str, int]] = []
        self._user_namespaces: dict[tuple[str, str], int] = {}
        self._whole: list[str] = []
        self.stock: dict[NewMount, int] = {}
        """New file systems that were made ahead, by (destination, type, options with sizes in bytes, attributes, source): detached mounts for
        the entries that ask for just these. That for /dev has what `devices.furnish` makes, and is for containers with no other devices.
        """
        self.root = -1
        self.entries = [_Mount(entry, bundle, is_locked=self.in_user_namespace) for entry in config.get("mounts") or ()]
        if isinstance(path, str):
            _find_inside(self.entries, os.path.normpath(path))
        self.ask_for_ids: Callable[[int, int], None] | None = None
        """In the child: has the parent give the descriptor, the source of the entry with this number, its id mappings (`map_ids`)."""
        self.make_dev = not any(
            mount.type == "bind" and mount.destination.rstrip("/") == "/dev" for mount in self.entries
        )
        wanted = devices.wanted(linux.get("devices") or []) if self.make_dev else linux.get("devices") or []
        for device in wanted:
            devices.check(device)
        mounted = _mount_points(self.entries)
        self.devices = [device for device in wanted if os.path.normpath(device["path"]) not in mounted]

    # -------------------------------------------------------------------------------------------------- in the parent

    def open_sources(self) -> None:
        """Opens everything of the host's. StartError naming the mount; `close` afterwards in any case."""
        try:
            self.root = (
                mounts.clone_tree(self.path, recursive=True) if isinstance(self.path, str) else os.dup(self.path)
            )
            kind = self.propagation[0] if self.propagation[0] == mounts.SLAVE else mounts.PRIVATE
            mounts.set_attributes(
                self.root, mounts.Attributes(propagation=kind), recursive=True, subject=str(self.path)
            )
        except SyscallError as error:
            raise StartError(
                "rootfs", f"cannot use {self.path} as the root file system: {error}", error.errno
            ) from None
        for mount in self.entries:
            try:
                mount.open_source(self.sources.get(mount.destination), self._map_ids)
                if mount.type == "cgroup" and self.group is not None:
                    if self.group.mode == "v1":
                        self._open_groups(mount)
                    elif self.group.mode == "v2" and self.in_user_namespace and "cgroup" not in self.namespaces.own:
                        mount.fd = self._clone_hierarchy(mount)
            except WherryError as error:
                raise mount.error(error) from None
        if self.in_user_namespace:
            for device in self.devices:
                if device["type"] != "p":
                    self._nodes.append((device, devices.open_host_node(device)))
        if self.shares_mounts:
            if not isinstance(self.path, str):
                raise InvalidArgument(
                    "linux.namespaces: a container without a mount namespace needs a path as its root"
                )
            mounts.attach_at(self.root, self.path)

    def open_binds(self, root: int) -> dict[int, int]:
        """For a restore: the number of each bind mount's entry, and what it shows as a detached mount. `root`: a descriptor of the root
        directory. StartError naming the mount; `close` afterwards in any case."""
        self.root = os.dup(root)
        found = {}
        for number, mount in enumerate(self.entries):
            if mount.type != "bind" or mount.options.remount:
                continue
            try:
                if mount.inside:
                    mount.open_inside(self.root, self._map_ids)
                else:
                    mount.open_source(None, self._map_ids)
            except WherryError as error:
                raise mount.error(error) from None
            found[number] = mount.fd
        return found

    def withdraw(self) -> None:
        """Takes back what a container without a mount namespace of its own has mounted."""
        if self.shares_mounts:
            mounts.detach(f"/proc/self/fd/{self.root}")

    def _user_namespace(self, maps: tuple[str, str]) -> int:
        """A descriptor, ours, of a user namespace with these mappings, or with those of the container's."""
        if not maps[0]:
            joined = self.namespaces.joined("user")
            if joined is not None:
                return joined
            maps = self.namespaces.uid_map, self.namespaces.gid_map
            if not maps[0] or not maps[1]:
                raise InvalidArgument("id-mapped mounts must have both uid and gid mappings specified")
        if maps not in self._user_namespaces:
            from wherry.linux import idmaps

            self._user_namespaces[maps] = idmaps.user_namespace(*maps)
        return self._user_namespaces[maps]

    def _map_ids(self, mount: _Mount) -> None:
        self.map_ids(self.entries.index(mount), mount.fd)

    def map_ids(self, number: int, fd: int) -> None:
        """Id mappings for the detached mount `fd`, the source of the entry with this number."""
        mount = self.entries[number]
        assert mount.id_maps is not None
        recursive = mount.options.idmap == "ridmap"
        mounts.map_ids(fd, self._user_namespace(mount.id_maps), recursive=recursive, subject=mount.source)

    def _clone_hierarchy(self, mount: _Mount) -> int:
        """cgroup v2 in a user namespace, which may mount it only with a cgroup namespace of its own: the host's, where its
        groups are not the container's to write.
        """
        if self.namespaces.unprivileged or namespaces.in_user_namespace():
            return self._clone_group()
        unified = cgroups.detect().unified
        assert unified is not None
        return _inert_clone(unified.mountpoint, mount.options.of_new_mount() & mounts.RDONLY)

    def _clone_group(self) -> int:
        """The container's own group, to be looked at: it is a user's, as the container's root may be (CVE-2023-25809)."""
        assert self.group is not None
        return _inert_clone(self.group.paths[""], mounts.RDONLY)

    def _open_groups(self, mount: _Mount) -> None:
        """cgroup v1: the container's own group in each hierarchy, and nothing above it."""
        assert self.group is not None
        flags = _INERT | (mount.options.attributes.set & mounts.RDONLY)
        for controllers, name, path in self.group.mounts():
            fd = mounts.clone_tree(path)
            self._groups.append((mount, controllers, name, fd))
            mounts.set_attributes(fd, mounts.Attributes(flags, propagation=mounts.PRIVATE), subject=path)

    def descriptors(self) -> list[int]:
        """What `open_sources` has opened, for the child to keep."""
        fds = [
            self.root,
            *(mount.fd for mount in self.entries),
            *(fd for _, fd in self._nodes),
            *(fd for _, _, _, fd in self._groups),
            *self.stock.values(),
        ]
        return [fd for fd in fds if fd >= 0]

    def take(self, fds: list[int]) -> None:
        """In place of `open_sources`: the `descriptors` of another process's Rootfs of the same configuration, which has no user namespace and
        was made without the `group`; that is there by now.
        """
        self.root = fds.pop(0)
        for mount in self.entries:
            if mount.type == "bind" and not mount.options.remount:
                mount.fd = fds.pop(0)
                mount.is_directory = stat.S_ISDIR(os.fstat(mount.fd).st_mode)

    def open_groups(self) -> None:
        """The part of `open_sources` that is about cgroup v1."""
        for mount in self.entries:
            if mount.type == "cgroup":
                try:
                    self._open_groups(mount)
                except WherryError as error:
                    raise mount.error(error) from None

    def close(self) -> None:
        for fd in (*self.descriptors(), *self._user_namespaces.values()):
            os.close(fd)
        self.root = -1
        self._nodes, self._groups, self._user_namespaces = [], [], {}
        for mount in self.entries:
            mount.fd = -1

    # --------------------------------------------------------------------------------------------------- in the child

    def attach_root(self) -> None:
        """The new root goes on top of "/": no path is walked, so an unprivileged user namespace need not be able to reach it. With
        hooks, on its own path."""
        if self.shares_mounts:
            return
        mounts.set_propagation("/", mounts.PRIVATE)
        if not self.can_pivot:
            self._whole = _whole_mounts("proc", "sysfs")
        mounts.attach_at(self.root, self.path if self.is_at_path and isinstance(self.path, str) else "/")

    def mount_all(self) -> None:
        for mount in self.entries:
            try:
                self._mount(mount)
            except WherryError as error:
                raise mount.error(error) from None
            except OSError as error:
                raise mount.error(SyscallError("open", mount.destination, error.errno or 0)) from None

    def _mount(self, mount: _Mount) -> None:
        if mount.options.remount:
            self._remount(mount)
            return
        if mount.inside:
            mount.open_inside(self.root, self._have_ids_mapped)
        target = self._target(mount)
        try:
            if os.path.sameopenfile(target, self.root):  # what is mounted there nobody would see
                raise InvalidArgument(f'mountpoint "{mount.destination}" is on the top of rootfs')
            match mount.type:
                case "bind":
                    mounts.attach(mount.fd, target, subject=mount.destination)
                    os.close(mount.fd)  # many mounts, few descriptors
                    mount.fd = -1
                case "cgroup":
                    self._mount_cgroup(mount, target)
                case _:
                    self._mount_new(mount, target)
        finally:
            os.close(target)

    def _have_ids_mapped(self, mount: _Mount) -> None:
        """By the parent, who has power over the file system."""
        assert self.ask_for_ids is not None
        self.ask_for_ids(self.entries.index(mount), mount.fd)

    def _target(self, mount: _Mount) -> int:
        """The mount point, made if missing. proc and sysfs want a plain directory (CVE-2023-27561); the inside of /proc is off limits."""
        if mount.type in ("proc", "sysfs"):
            return self._plain_directory(mount)
        mount.is_new = mount.type == "tmpfs" and not paths.exists_in_root(self.root, mount.destination)
        make = paths.make_directory if mount.is_directory else paths.make_file
        target = make(self.root, mount.destination)
        if syscalls.filesystem_type(target) == procfs.PROC_SUPER_MAGIC:
            clean = os.path.normpath(mount.destination)
            over = clean == "/proc" and mount.type == "bind" and procfs.is_root(mount.fd)
            if not over and clean not in _PROC_FILES:
                os.close(target)
                raise InvalidArgument(f'"{mount.destination}" cannot be mounted because it is inside /proc')
        return target

    def _plain_directory(self, mount: _Mount) -> int:
        for _ in range(2):
            try:
                return paths.open_in_root(self.root, mount.destination, os.O_PATH | os.O_DIRECTORY, follow=False)
            except SyscallError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise InvalidArgument(f'filesystem "{mount.type}" must be mounted on ordinary directory') from None
                if error.errno != errno.ENOENT:
                    raise
            os.close(paths.make_directory(self.root, mount.destination))
        raise SyscallError("open", mount.destination, errno.ENOENT)

    def _remount(self, mount: _Mount) -> None:
        options = mount.options
        target = paths.open_in_root(self.root, mount.destination)
        try:
            if options.data:
                mounts.reconfigure(target, options.data, subject=mount.destination)
            if options.attributes:
                mounts.set_attributes(target, options.attributes, subject=mount.destination)
            if options.recursive_attributes:
                mounts.set_attributes(target, options.recursive_attributes, recursive=True, subject=mount.destination)
        finally:
            os.close(target)

    def open_network_filesystems(self) -> None:
        """In a helper that is in the container's network namespace, but not yet in its user namespace: sysfs shows
        that network, and mounting it takes power over it, which a new user namespace does not have."""
        for mount in self.entries:
            if mount.type == "sysfs" and mount.fd < 0:
                mount.fd = mounts.Filesystem("sysfs", mount.options.data, mount.options.of_new_mount(), "sysfs").open()

    def _mount_new(self, mount: _Mount, target: int) -> None:
        """A file system of the kernel's: proc, sysfs, tmpfs, devpts, mqueue, or any other that takes its options as strings."""
        if mount.fd >= 0:
            mounts.attach(mount.fd, target, subject=mount.destination)
            return
        options = mount.options
        data = list(options.data)
        if mount.type == "tmpfs" and not mount.is_new and not any(key == "mode" for key, _ in data):
            # as the directory that it covers; over a new one the kernel's own, 1777, as in runc
            data.append(("mode", f"{stat.S_IMODE(os.fstat(target).st_mode):o}"))
        # a read-only /dev, or a tmpfs that is filled first, becomes read-only when it is complete
        late = options.readonly and (options.copy_up or (self.make_dev and mount.destination.rstrip("/") == "/dev"))
        attributes = options.of_new_mount() & ~(mounts.RDONLY if late else 0)
        if self.label and mount.type not in _UNLABELLED:
            data.append(("context", self.label))
        if mount.type == "overlay" and any(len(value or "") > _LONGEST_VALUE for _, value in data):
            fd = _open_long_overlay(data, attributes)
        else:
            fd = self._open_new(mount, data, attributes)
        keep = False
        try:
            if options.copy_up and mount.type == "tmpfs" and not mount.is_new:
                trees.copy_contents(target, fd)
                _restore_asked_for(fd, {key: value for key, value in options.data if value})
            mounts.attach(fd, target, subject=mount.destination)
            if options.propagation:
                mounts.set_attributes(fd, mounts.Attributes(propagation=options.propagation), subject=mount.destination)
            if late and options.copy_up:
                mounts.set_attributes(fd, mounts.Attributes(mounts.RDONLY), subject=mount.destination)
            elif late:
                self._late_readonly.append(fd)
                keep = True
            if mount.type == "proc" and self.procfs is None:
                self.procfs = procfs.Procfs(fd)
                keep = True
        finally:
            if not keep:
                os.close(fd)

    def _open_new(self, mount: _Mount, data: list[tuple[str, str | None]], attributes: int) -> int:
        source = mount.source or mount.type
        plain = tuple((key, _in_bytes(value) if key == "size" and value else value) for key, value in data)
        fd = self.stock.pop((mount.destination, mount.type, plain, attributes, source), None)
        if fd is None:
            return mounts.Filesystem(mount.type, data, attributes, source).open()
        if mount.destination == "/dev":
            self.make_dev = False
            self.devices = []
        return fd

    def _mount_cgroup(self, mount: _Mount, target: int) -> None:
        if self.group is None:
            raise InvalidArgument("there is no cgroup to show: linux.cgroupsPath is not set")
        # without a group of its own a container sees none: an empty directory
        readonly = mounts.RDONLY if self.group.mode == "none" else mount.options.attributes.set & mounts.RDONLY
        flags = _INERT | readonly
        if mount.fd >= 0:
            mounts.attach(mount.fd, target, subject=mount.destination)
            return
        if self.group.mode == "v2":
            try:
                fd = mounts.Filesystem("cgroup2", [], flags, "cgroup").open()
            except SyscallError as error:
                if error.errno != errno.EPERM:
                    raise
                fd = self._clone_group()  # root in a user namespace has made us
            try:
                mounts.attach(fd, target, subject=mount.destination)
            finally:
                os.close(fd)
            return
        base = mounts.Filesystem("tmpfs", [("mode", "0755")], flags & ~mounts.RDONLY, "tmpfs").open()
        try:
            mounts.attach(base, target, subject=mount.destination)
            for of, controllers, name, fd in self._groups:
                if of is not mount:
                    continue
                os.mkdir(name, 0o755, dir_fd=base)
                point = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
                try:
                    mounts.attach(fd, point, subject=f"{mount.destination}/{name}")
                finally:
                    os.close(point)
                for controller in controllers.split(",") if "," in controllers else ():
                    if controller != name:
                        os.symlink(name, controller, dir_fd=base)
            if readonly:
                mounts.set_attributes(base, mounts.Attributes(mounts.RDONLY), subject=mount.destination)
        finally:
            os.close(base)

    def create_devices(self) -> None:
        if self._nodes:
            for device, fd in self._nodes:
                devices.bind_node(self.root, device, fd)
        for device in self.devices:
            if not self.in_user_namespace or device["type"] == "p":
                self._make_node(device)
        if self.make_dev:
            dev = paths.make_directory(self.root, "/dev")
            try:
                devices.make_links(dev, kcore=self.kcore)
            finally:
                os.close(dev)

    def _make_node(self, device: oci.Device) -> None:
        try:
            devices.make_node(self.root, device)
        except SyscallError as error:
            # root in a user namespace may have made us: it has no more power to make nodes than a user
            if error.errno != errno.EPERM or not namespaces.in_user_namespace():
                raise
            devices.bind_node(self.root, device, devices.open_host_node(device))

    def make_working_directory(self) -> None:
        """A working directory that the image lacks is made, as Docker's users expect."""
        try:
            os.close(paths.make_directory(self.root, self.cwd))
        except SyscallError as error:
            if error.errno != errno.EROFS and error.errno != errno.ENOTDIR:
                raise StartError(
                    "chdir", f"mkdir {self.cwd}: {os.strerror(error.errno).lower()}", error.errno
                ) from None

    def write_protect(self) -> None:
        """`readonlyPaths`, /dev where it was asked for, and the root itself."""
        for path in self.readonly_paths:
            target = self._open_existing(path)
            if target is None:
                continue
            fd = mounts.clone_tree("", fd=target, recursive=True, subject=path)
            try:
                mounts.set_attributes(fd, mounts.Attributes(mounts.RDONLY), recursive=True, subject=path)
                mounts.attach(fd, target, subject=path)
            finally:
                os.close(fd)
                os.close(target)
        for fd in self._late_readonly:
            mounts.set_attributes(fd, mounts.Attributes(mounts.RDONLY), subject="/dev")
            os.close(fd)
        if self.readonly:
            mounts.set_attributes(self.root, mounts.Attributes(mounts.RDONLY), subject="/")

    def mask(self) -> None:
        """`maskedPaths`: a file becomes /dev/null, a directory an empty read-only one. One mount of each kind, cloned for every path."""
        null = empty = -1
        try:
            for path in self.masked:
                target = self._open_existing(path)
                if target is None:
                    continue
                try:
                    if not stat.S_ISDIR(os.fstat(target).st_mode):
                        null = self._open_null() if null < 0 else null
                        fd = mounts.clone_tree("", fd=null, subject="/dev/null")
                    elif empty < 0:
                        labels = [("context", self.label)] if self.label else []
                        empty = -1 if labels else self.stock.pop(EMPTY, -1)
                        if empty < 0:
                            empty = mounts.Filesystem(
                                "tmpfs", [*_EMPTY_TMPFS, *labels], _INERT | mounts.RDONLY, "tmpfs"
                            ).open()
                        fd = empty
                    else:
                        fd = mounts.clone_tree("", fd=empty, subject="empty directory")
                    try:
                        mounts.attach(fd, target, subject=path)
                    finally:
                        if fd != empty:
                            os.close(fd)
                finally:
                    os.close(target)
        finally:
            for fd in (null, empty):
                if fd >= 0:
                    os.close(fd)

    def _open_existing(self, path: str) -> int | None:
        try:
            return paths.open_in_root(self.root, path)
        except SyscallError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def _open_null(self) -> int:
        """The container's /dev/null if it is one, else the host's: never something else under that name (CVE-2025-31133)."""
        for root in (self.root, syscalls.AT_FDCWD):
            try:
                fd = syscalls.openat2(
                    root, "dev/null" if root == self.root else "/dev/null", os.O_PATH, resolve=paths.RESOLVE_NO_SYMLINKS
                )
            except SyscallError:
                continue
            status = os.fstat(fd)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL:
                return fd
            os.close(fd)
        raise StartError("mask", "there is no /dev/null to mask files with", errno.ENOENT)

    def writable_procfs(self) -> procfs.Procfs:
        """A proc file system of this PID namespace that nothing is mounted over: the container's, else one that is attached nowhere."""
        if self.procfs is None:
            self.procfs = procfs.Procfs(mounts.Filesystem("proc", [], _INERT).open())
        return self.procfs

    def pivot(self) -> None:
        """Makes the new root the root and lets go of the old one, with everything of the host's."""
        os.fchdir(self.root)
        if self.shares_mounts:
            os.chroot(".")
        elif self.can_pivot:
            syscalls.pivot_root(".", ".")
            mounts.detach(".")
        else:
            _cover(self._whole)
            os.chroot(".")
        os.chdir("/")
        kind, recursive = self.propagation
        if kind and kind != mounts.SLAVE:
            mounts.set_propagation("/", kind, recursive=recursive)


def _mount_points(entries: list[_Mount]) -> set[str]:
    """Where something is mounted that can be seen at the end. What is asked for at a device's path is there in place of the device."""
    seen: set[str] = set()
    for mount in entries:
        place = os.path.normpath(mount.destination)
        seen = {other for other in seen if not other.startswith(f"{place}/")}
        if not mount.options.remount:
            seen.add(place)
    return seen


def _find_inside(entries: list[_Mount], root: str) -> None:
    """What runc gets by mounting one after the other: a source below the root's path in which earlier mounts are to be seen is
    looked up there, when they are; a destination may begin with the root's path.
    """
    earlier: list[str] = []
    for mount in entries:
        mount.destination = _below(root, mount.destination) or mount.destination
        if mount.type == "bind":
            inside = _below(root, mount.source)
            below, every = f"{inside.rstrip('/')}/", mount.options.recursive
            if inside and any(
                below.startswith(f"{at.rstrip('/')}/") or (every and at.startswith(below)) for at in earlier
            ):
                mount.inside = inside
        earlier.append(os.path.normpath(mount.destination))


def _below(root: str, path: str) -> str:
    """The absolute `path` from `root` on, "" when it is not below it."""
    if root == "/" or not path.startswith(root):
        return ""
    clean = os.path.normpath(path)
    return clean.removeprefix(root) or "/" if clean == root or clean.startswith(f"{root}/") else ""


def _in_bytes(size: str) -> str:
    """A tmpfs's size as a plain number, where it has a unit (tmpfs(5))."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(size[-1:].lower())
    return str(int(size[:-1]) * factor) if factor and size[:-1].isdecimal() else size


def _inert_clone(path: str, flags: int) -> int:
    fd = mounts.clone_tree(path)
    mounts.set_attributes(fd, mounts.Attributes(_INERT | flags, propagation=mounts.PRIVATE), subject=path)
    return fd


def _is_sysfs(fd: int) -> bool:
    return syscalls.filesystem_type(fd) == _SYSFS_MAGIC


def _label(label: str) -> str:
    if label and not os.path.exists("/sys/fs/selinux/enforce"):
        raise FailedPrecondition("linux.mountLabel: selinux is disabled or not supported on this machine")
    return label


def _open_long_overlay(data: list[tuple[str, str | None]], attributes: int) -> int:
    """An overlay whose options are longer than one fsconfig(2) takes: its layers one by one."""
    values = {key: value for key, value in data if value is not None}
    lower = values.pop("lowerdir", "")
    if "::" in lower:
        raise InvalidArgument("overlay: a lowerdir of more than 255 bytes cannot have data-only layers")
    layers = lower.replace("\\:", "\0").split(":")
    upper, work = values.pop("upperdir", ""), values.pop("workdir", "")
    rest = [(key, value) for key, value in data if key not in ("lowerdir", "upperdir", "workdir")]
    fd = mounts.open_overlay([layer.replace("\0", ":") for layer in layers], upper, work, rest)
    if attributes:
        mounts.set_attributes(fd, mounts.Attributes(attributes), subject="overlay")
    return fd


def _whole_mounts(*kinds: str) -> list[str]:
    """Mount points of whole file systems of these kinds, the innermost first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            if fields[3] == "/" and fields[fields.index("-") + 1] in kinds:
                found.append(cgroups.unescape(fields[4]))
    return found[::-1]


def _cover(points: list[str]) -> None:
    """Takes the host's whole proc and sysfs away, for want of pivot_root: while they can be reached, the kernel lets a container mount them
    anew, without what masks its own. What cannot be unmounted is covered.
    """
    for point in points:
        try:
            mounts.detach(point)
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                continue
            cover = mounts.Filesystem("tmpfs", list(_EMPTY_TMPFS), _INERT | mounts.RDONLY, "tmpfs").open()
            mounts.attach_at(cover, point)
            os.close(cover)


def _restore_asked_for(fd: int, options: dict[str, str]) -> None:
    """Copying gave the tmpfs's root the image's owner and mode; those that the mount's options name win."""
    uid, gid = int(options.get("uid", "-1")), int(options.get("gid", "-1"))
    if (uid, gid) != (-1, -1):
        os.chown(".", uid, gid, dir_fd=fd)
    if "mode" in options:
        os.chmod(".", int(options["mode"], 8), dir_fd=fd)
