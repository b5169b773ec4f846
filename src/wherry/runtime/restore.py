"""A container from the files that a checkpoint has left: the same processes, in a new cgroup, on a bundle's root file system.

Runs in `wherry-runc`. criu does the work, in a mount namespace of its own that is gone with it, so nothing is ever mounted in the
host's. Its notifications are answered in this order:

    setup-namespaces    the namespaces are there: prestart and createRuntime hooks, the loopback interface
    orphan-pts-master   the terminal's master
    pre-resume          every process is complete and stands still: `restored.check`, then the caller records the container
    (answer)            they run

criu binds the sources of bind mounts where we have put them for it, with all the attributes that the configuration gives them: it leaves
out those of one that lies in what another shows, where both have the same (criu up to 4.2, do_bind_mount_v2).

**Invariants:** when `restore` raises, no process of the container is left and its cgroup is gone; no process runs an
instruction before it was compared with the configuration. Absent: addresses and routes of the network namespace (hooks,
or the namespace's maker), the root file system's content.
"""

from __future__ import annotations

import _socket
import os
import stat

from wherry import errors
from wherry.errors import DataLoss, FailedPrecondition, InvalidArgument
from wherry.linux import cgroups, mounts, namespaces, paths, syscalls
from wherry.runtime import checkpoint, container, criu, hooks, init, mount_options, netdevices, process, restored
from wherry.runtime import criu_rpc as rpc
from wherry.runtime import namespaces as runtime_namespaces
from wherry.runtime.rootfs import Rootfs
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.state import State
    from wherry.spec import oci

_DESCRIPTORS_LIMIT = 1 << 16
_LEFT = ".criu.cgyard."
"""A directory that a killed criu leaves in its work directory."""
_JOINED = ("ipc", "uts", "mount", "user", "time")
"""Namespaces by path that criu enters itself."""


class Restored:
    """A container that runs again: host `pid`, its `cgroup`, and the terminal's master if it has one (the caller's to close)."""

    __slots__ = ("cgroup", "console", "pid", "warnings")

    def __init__(self, cgroup: Cgroup) -> None:
        self.cgroup = cgroup
        self.pid = 0
        """The first process as soon as criu has told it, which it does not do every time."""
        self.console: int | None = None
        self.warnings: list[str] = []
        """What the configuration has and the restored container has not."""


def restore(
    state: State,
    config: oci.Config,
    options: checkpoint.Options,
    *,
    rootfs: str,
    bundle: str,
    stdio: tuple[int, int, int],
    on_ready: Callable[[Restored], None],
    systemd: bool = False,
) -> Restored:
    """Restores the image at `options.image_path` as the container of `config`, a child of ours; its 0, 1 and 2 become `stdio` where they were
    pipes. `on_ready` is called when it is whole and does not run yet.

    FailedPrecondition with criu's words, or naming what in the image is more than the configuration gives.
    """
    checkpoint.check_config(config)
    if (config.get("linux") or {}).get("intelRdt"):
        raise errors.NotImplemented("linux.intelRdt: wherry-runc does not set it up for a container that is restored")
    undo: list[Callable[[], object]] = []
    with (
        checkpoint.open_directory(options.image_path) as images,
        checkpoint.open_directory(options.work_path, make=True) as work_directory,
    ):
        checkpoint.check_images(images.fd, options.image_path, lazily=options.lazy_pages)
        try:
            group = container.make_group(config, state.id, undo, systemd=systemd, unified=True)
            work = _Work(state, config, group, rootfs, bundle, on_ready)
            undo.append(container.OnFailure(work.end))
            work.open_binds()
            request = work.request(options, [images, *([work_directory] if options.work_path else [])])
            _prepare_mount_points(work)
            answer = work.run(options, request, stdio)
            if not work.was_ready or answer.get("restore", {}).get("pid") != work.result.pid:
                raise FailedPrecondition("criu has not told of the container before it ran: too old?")
        except BaseException:
            container.unwind(undo, failed=True)
            raise
    container.unwind(undo, failed=False)
    work.close()
    return work.result


class _Work:
    """One restore: what its steps share."""

    def __init__(
        self,
        state: State,
        config: oci.Config,
        group: Cgroup,
        rootfs: str,
        bundle: str,
        on_ready: Callable[[Restored], None],
    ) -> None:
        self.state = state
        self.config = config
        self.group = group
        self.bundle = bundle
        self.on_ready = on_ready
        self.result = Restored(group)
        self.pid = 0
        """The first process as soon as criu has told it, which it does not do every time."""
        self.was_ready = False
        self.hooks = hooks.parse(config.get("hooks") or {})
        linux = config.get("linux") or {}
        self.plan = runtime_namespaces.Plan(linux)
        self.tree = Rootfs(config, rootfs, group=None, namespaces=self.plan, bundle=bundle)
        self.binds: dict[int, int] = {}
        """The number of a bind mount's entry, and what it shows. Not in a user namespace, whose root does not get to `place`."""
        self.net_devices: list[tuple[str, str]] = []
        if linux.get("netDevices") and self.has_own("network"):
            self.net_devices = netdevices.check(linux["netDevices"], own=self.plan.own)
        self.rootfs = rootfs
        self.root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.place = f"{state.directory}/criu-root"
        """Where criu finds what it mounts: in its mount namespace a tmpfs."""
        self.point = f"{self.place}/root"
        """The root file system: it wants a mount there."""
        os.mkdir(self.place, 0o700)
        self.directories: list[checkpoint.Directory] = []
        self.namespaces: list[tuple[str, int]] = []
        """(criu's key, descriptor) of those that criu is handed."""

    def close(self) -> None:
        for fd in (self.root, *(fd for _, fd in self.namespaces)):
            os.close(fd)
        self.tree.close()
        self.plan.close()
        os.rmdir(self.place)

    def end(self) -> None:
        """After a failure: what criu has not undone itself."""
        self.group.kill()
        _reap(self.pid)
        if self.result.console is not None:
            os.close(self.result.console)
        for name in os.listdir(self.directories[-1].fd) if self.directories else ():
            if name.startswith(_LEFT):
                os.rmdir(name, dir_fd=self.directories[-1].fd)
        self.close()

    def request(self, options: checkpoint.Options, directories: list[checkpoint.Directory]) -> dict[str, Any]:
        self.directories = directories
        joined = self._open_namespaces()
        external = [
            {"key": point, "val": self.source_of(source) if isinstance(source, int) else source}
            for point, source in checkpoint.external_mounts(self.config, self.group, self.root)
        ]
        external.append({"key": "/dev/null", "val": "/dev/null"})
        inherited = [
            {"key": key, "fd": number}
            for number, key in enumerate(_descriptors(directories[0].fd))
            if key.startswith("pipe:[")
        ]
        inherited += [
            {"key": key, "fd": number} for number, (key, _) in enumerate(self.namespaces, criu.FIRST + len(directories))
        ]
        return {
            **options.for_criu(self.config),
            "images_dir_fd": criu.FIRST,
            "work_dir_fd": criu.FIRST + 1 if options.work_path else None,
            "log_file": "restore.log",
            "root": self.point,
            "rst_sibling": True,
            "evasive_devices": True,
            "ext_mnt": external,
            "inherit_fd": inherited,
            "join_ns": joined,
            "lsm_profile": options.lsm_profile or None,
            "lsm_mount_context": options.lsm_mount_context or None,
        }

    def has_own(self, kind: str) -> bool:
        """Whether the container has a new namespace of this kind."""
        entries = (self.config.get("linux") or {}).get("namespaces") or ()
        return any(entry["type"] == kind and not entry.get("path") for entry in entries)

    def _open_namespaces(self) -> list[dict[str, str]]:
        """Opens what criu gets as descriptors; the rest as it wants them: by name and path."""
        joined = []
        for entry in (self.config.get("linux") or {}).get("namespaces") or ():
            kind, path = entry["type"], entry.get("path", "")
            if not path:
                continue
            if kind in checkpoint.EXTERNAL_NAMESPACES:
                key = checkpoint.EXTERNAL_NAMESPACES[kind][1]
                self.namespaces.append((key, namespaces.open_namespace(kind, path)))
            elif kind in _JOINED:
                os.close(namespaces.open_namespace(kind, path))
                joined.append({"ns": namespaces.FILE[kind], "ns_file": path})
            else:
                raise errors.NotImplemented(f"linux.namespaces: criu does not restore into a {kind} namespace by path")
        return joined

    def run(self, options: checkpoint.Options, request: dict[str, Any], stdio: tuple[int, int, int]) -> dict[str, Any]:
        cgroup_fd = self.group.clone_fd()
        fds = self.group.prepare_join(born=cgroup_fd is not None)

        def prepare() -> list[int]:
            cgroups.join(fds)
            if options.cgroups_mode == "ignore" and self.has_own("cgroup"):
                syscalls.unshare(
                    namespaces.NEWCGROUP, "cgroup namespace"
                )  # criu makes none then, but passes its own on
            self.attach_root(readonly=self.tree.readonly)  # criu before 4.1 has the root file system writable
            self.attach_binds()
            if (self.config.get("process") or {}).get("noNewPrivileges"):
                process.forbid_new_privileges()  # criu before 4 forgets it; what it forks inherits it
            return [*(directory.open_here() for directory in self.directories), *(fd for _, fd in self.namespaces)]

        try:
            session = criu.Session(
                options.criu, stdio=stdio, flags=namespaces.NEWNS, cgroup_fd=cgroup_fd, prepare=prepare,
                keep=(*fds, *self.binds.values(), *(directory.fd for directory in self.directories), *(fd for _, fd in self.namespaces)),
            )  # fmt: skip
        finally:
            for fd in (*fds, *((cgroup_fd,) if cgroup_fd is not None else ())):
                os.close(fd)
        with session:
            request["cg_root"] = [{"ctrl": name, "path": path} for name, path in _groups_of(session.pid)]
            return checkpoint.ask(
                session, {"type": rpc.RESTORE, "opts": request}, options, "restore.log", self.on_notify
            )

    def attach_root(self, *, readonly: bool = False) -> None:
        """In a new mount namespace: the root file system at its point, with nothing going back to the host."""
        mounts.set_propagation("/", mounts.PRIVATE)
        place = mounts.Filesystem("tmpfs", [("mode", "0700")]).open()
        mounts.attach_at(place, self.place)
        os.close(place)
        os.mkdir(self.point)
        tree = mounts.clone_tree(self.rootfs, recursive=True)
        mounts.set_attributes(tree, mounts.Attributes(propagation=mounts.PRIVATE), recursive=True, subject=self.rootfs)
        if readonly:
            mounts.set_attributes(tree, mounts.Attributes(mounts.RDONLY), subject=self.rootfs)
        mounts.attach_at(tree, self.point)
        os.close(tree)

    def open_binds(self) -> None:
        if "user" not in self.plan.own:
            self.binds = self.tree.open_binds(self.root)
        elif any(mount.id_maps is not None for mount in self.tree.entries):
            raise errors.NotImplemented(
                "mounts: wherry-runc does not restore id-mapped ones of a container in a user namespace"
            )

    def source_of(self, number: int) -> str:
        return f"{self.place}/{number}" if number in self.binds else self.tree.entries[number].source

    def attach_binds(self) -> None:
        """There, too: what bind mounts show, each at its number."""
        for number, fd in self.binds.items():
            path = f"{self.place}/{number}"
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                os.mkdir(path)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
            mounts.attach_at(fd, path)

    def on_notify(self, script: str, pid: int, fd: int | None) -> None:
        self.pid = pid or self.pid
        if fd is not None:
            if script != "orphan-pts-master" or self.result.console is not None:
                os.close(fd)
                raise InvalidArgument("the image has more than one terminal of the outside")
            self.result.console = fd
        match script:
            case "setup-namespaces":
                self._set_up_namespaces(self.pid)
            case "pre-resume":
                # Whatever goes wrong from here on, criu would let them run
                self.result.pid = self.pid
                try:
                    restored.check(self.pid, self.config, self.group, self.root)
                    self.on_ready(self.result)
                except BaseException:
                    restored.kill(self.pid)
                    raise
                self.was_ready = True

    def _set_up_namespaces(self, pid: int) -> None:
        state = hooks.state(self.config, self.state.id, "creating", pid, self.bundle)
        if self.has_own("network"):
            _in_namespaces_of(pid, namespaces.NEWNET, init.raise_loopback)
            self._move_devices(pid)
        hooks.run(self.hooks["prestart"] + self.hooks["createRuntime"], state, self.bundle)

    def _move_devices(self, pid: int) -> None:
        """Those that there are: a virtual one ended with the container that it was in, and nobody may have made another."""
        there = [pair for pair in self.net_devices if _has_device(pair[0])]
        self.result.warnings += [
            f"linux.netDevices: there is no device {name}: the container is restored without"
            for name, wanted in self.net_devices
            if (name, wanted) not in there
        ]
        if there:
            target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                netdevices.move(there, target)
            finally:
                os.close(target)


def _has_device(name: str) -> bool:
    try:
        return bool(_socket.if_nametoindex(name))
    except OSError:
        return False


def _reap(pid: int) -> None:
    """The end of a child of ours that criu has made; of any other process not."""
    try:
        if pid > 0:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            restored.kill(pid)
            os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def _groups_of(pid: int) -> list[tuple[str, str]]:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    return [(controllers, path) for _, controllers, path in lines]


def _descriptors(images: int) -> list[str]:
    """What 0, 1 and 2 were. DataLoss for anything but three strings; the file is as little to be trusted as the image."""
    try:
        fd = os.open(checkpoint.DESCRIPTORS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=images)
    except FileNotFoundError:
        raise InvalidArgument(f"no checkpoint: there is no {checkpoint.DESCRIPTORS} in the image directory") from None
    try:
        found = fastjson.loads(os.read(fd, _DESCRIPTORS_LIMIT))
    except (ValueError, RecursionError):
        found = None
    finally:
        os.close(fd)
    if not isinstance(found, list) or len(found) > 3 or not all(isinstance(item, str) for item in found):
        raise DataLoss(f"{checkpoint.DESCRIPTORS} of the checkpoint is damaged")
    return found


def _in_namespaces_of(pid: int, flags: int, action: Callable[[], None]) -> None:
    """Runs `action` in a process that is in some namespaces of `pid`. FailedPrecondition when it fails."""
    pidfd = os.pidfd_open(pid)
    child, child_fd = namespaces.clone()
    if child == 0:
        status = 1
        try:
            syscalls.setns(pidfd, flags, namespaces.names(flags))
            action()
            status = 0
        except BaseException as error:
            os.write(2, f"{error}\n".encode("utf-8", "replace"))
        os._exit(status)
    os.close(pidfd)
    os.close(child_fd)
    if os.waitpid(child, 0)[1]:
        raise FailedPrecondition(f"cannot set up the {namespaces.names(flags)} namespace of process {pid}")


def _prepare_mount_points(work: _Work) -> None:
    """Makes the mount points that the root file system lacks, also those inside of bind mounts, as a first start does; on a
    tmpfs criu restores them itself. In a process with a mount namespace of its own, which takes along what is mounted for it.
    """
    from wherry.runtime import channel as messages
    from wherry.runtime import spawn

    ours, theirs = messages.pair()
    pid, pidfd = namespaces.clone(namespaces.NEWNS)
    if pid == 0:
        spawn.guard(lambda end: _make_mount_points(work, end), theirs)
    theirs.close()
    os.close(pidfd)
    try:
        message, _ = messages.receive(ours)
        os.waitpid(pid, 0)
        if message[:1] == messages.FAILED:
            raise messages.read_failure(message)
    finally:
        ours.close()


def _make_mount_points(work: _Work, channel: Any) -> None:
    from wherry.runtime import channel as messages

    work.attach_root()
    root = os.open(work.point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    over: list[str] = []
    for mount in work.config.get("mounts") or ():
        options = mount_options.parse(mount.get("options") or [])
        point = os.path.normpath("/" + mount.get("destination", "").lstrip("/"))
        if mount.get("type") == "cgroup" or options.remount or any(point.startswith(f"{place}/") for place in over):
            continue
        source = -1
        if options.bind or mount.get("type") == "bind":
            source = mounts.clone_tree(mount.get("source", ""), recursive=options.recursive)
        elif mount.get("type") == "tmpfs":
            over.append(point)
        make = paths.make_file if source >= 0 and not os.path.isdir(f"/proc/self/fd/{source}") else paths.make_directory
        target = make(root, point)
        if source >= 0:
            mounts.attach(source, target, subject=point)
    process.close_descriptors([channel.fileno()])
    messages.send(channel, messages.READY)
    os._exit(0)
