"""Containers by wherry's own runtime, as a library in this process: what a shim does unless `--runtime` names another.

Runs in a shim's workers, `delete` in the shim itself; the processes that it makes are the shim's children. `external.ExternalRuntime` has the
same methods but for the exec, which is done without a worker here. Descriptors that it is given are
borrowed, those that it returns are the caller's.
"""

from __future__ import annotations

import os
from binascii import a2b_base64

from wherry.errors import FailedPrecondition, InvalidArgument, StartError, SyscallError
from wherry.linux import cgroups, mounts, namespaces, paths
from wherry.runtime import container, users
from wherry.runtime.standby import UNSUITABLE
from wherry.runtime.standby import create as create_by_standby
from wherry.shim import copyup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as Socket
    from collections.abc import Callable

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.standby import Standby
    from wherry.spec import oci
    from wherry.wire.shim import Message, StartRequest, UserConfig


class Started:
    """A process that runs: `console` is its terminal's master, or None."""

    __slots__ = ("console", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console: int | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console


def open_rootfs(rootfs: object) -> int:
    """The container's root file system of a start request as a detached mount: nothing appears in any mount table. StartError."""
    assert isinstance(rootfs, dict)
    try:
        if rootfs["type"] == "overlay":
            return mounts.open_overlay(rootfs["lower"], rootfs["upper"], rootfs["work"])
        if rootfs["type"] == "erofs":
            return mounts.open_erofs_overlay(rootfs["lower"], rootfs["upper"], rootfs["work"])
        if rootfs["type"] == "bind":
            return mounts.clone_tree(rootfs["path"], recursive=True)
        if rootfs["type"] == "fuse-overlayfs":
            from wherry.linux import fuse

            return fuse.open_overlay(rootfs["lower"], rootfs["upper"], rootfs["work"])[0]
    except SyscallError as error:
        raise StartError("rootfs", f"failed to mount the container's root file system: {error}", error.errno) from None
    raise StartError("rootfs", f"unknown type of root file system: {rootfs['type']!r}")


def set_user(root: int, process: oci.Process, wish: UserConfig | None) -> None:
    """Puts the numbers of the user that `wish` names into `process`, from the files below `root`. StartError when there is no such user."""
    if wish is None:
        return
    try:
        who = users.resolve(root, wish["user"], wish["group_add"])
    except InvalidArgument as error:
        raise StartError("user", str(error)) from None
    process["user"] = {**process.get("user", {}), "uid": who.uid, "gid": who.gid, "additionalGids": who.groups}


def compiled_filter(request: StartRequest | Message) -> bytes | None:
    """The seccomp filter of a request to start or to execute."""
    program = request.get("seccomp")
    return None if program is None else a2b_base64(program)


def clone_foreign_mounts(config: oci.Config) -> dict[str, int]:
    """Detached copies, by destination, of the bind mounts whose source lies in another container ("/proc/PID/root/…", for --ipc container:).

    The kernel clones only what is in the caller's own mount namespace, so this process enters the other one for a moment; the path is
    resolved there, below that container's root, without following links. StartError.
    """
    found: dict[str, int] = {}
    for mount in config.get("mounts") or []:
        _, _, tail = mount.get("source", "").partition("/proc/")
        pid, _, path = tail.partition("/root/")
        if not mount.get("source", "").startswith("/proc/") or not pid.isdecimal() or not path:
            continue
        try:
            found[mount["destination"]] = _clone_from(pid, path)
        except SyscallError as error:
            for fd in found.values():
                os.close(fd)
            raise StartError("mounts", f"cannot share {mount['source']}: {error}", error.errno) from None
    return found


def clone_subpaths(config: oci.Config, subpaths: dict[str, str]) -> dict[str, int]:
    """Detached copies, by destination, of what `subpaths` names below the sources of bind mounts.

    A volume's content is its containers' work: the path is resolved inside the volume and used through its descriptor. StartError.
    """
    found: dict[str, int] = {}
    for mount in config.get("mounts") or []:
        subpath = subpaths.get(mount["destination"])
        if not subpath:
            continue
        try:
            root = os.open(mount["source"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                target = paths.open_in_root(root, subpath)
            finally:
                os.close(root)
            try:
                found[mount["destination"]] = mounts.clone_tree("", fd=target, recursive=True)
            finally:
                os.close(target)
        except (SyscallError, OSError) as error:
            for fd in found.values():
                os.close(fd)
            why = os.strerror(error.errno or 0).lower()
            where = f"cannot access path {mount['source']}/{subpath}"
            raise StartError("mounts", f"{where}: {why}", error.errno or 0) from None
    return found


def _clone_from(pid: str, path: str) -> int:
    own = namespaces.open_namespace("mount", "/proc/self/ns/mnt")
    try:
        other = namespaces.open_namespace("mount", f"/proc/{pid}/ns/mnt")
        try:
            namespaces.join(other, "mount")
        finally:
            os.close(other)
        try:
            root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            source = paths.open_in_root(root, path, follow=False)
            os.close(root)
            try:
                return mounts.clone_tree("", fd=source, subject=path)
            finally:
                os.close(source)
        finally:
            namespaces.join(own, "mount")
    finally:
        os.close(own)


class BuiltinRuntime:
    def __init__(self, config: oci.Config) -> None:
        self._config = config
        self._init_pid = 0
        self._init_pidfd = -1
        self.cgroup: Cgroup = cgroups.open_group((config.get("linux") or {}).get("cgroupsPath", ""))

    def start(
        self,
        request: StartRequest,
        stdio: tuple[int, int, int] | None,
        standby: Standby | None,
        meanwhile: Callable[[int], None],
    ) -> Started:
        """Creates the container and runs its program. `stdio` is None for a terminal; `standby` may become the container's init; `meanwhile`
        is called before the program runs, with the pid of the process where there is one. StartError, with everything undone.
        """
        copy_up = request.get("copy_up")

        def fill_volumes(root: int) -> None:
            if copy_up:
                copyup.fill_volumes(root, copy_up, self._config.get("mounts") or [])

        rootfs = open_rootfs(request["rootfs"])
        shared: dict[str, int] = {}
        try:
            shared = clone_foreign_mounts(self._config)
            shared |= clone_subpaths(self._config, request.get("subpaths") or {})
            set_user(rootfs, self._config["process"], request.get("user"))
            if standby is not None and standby.suits(self._config):
                try:
                    console = create_by_standby(
                        standby, self._config, root=rootfs, stdio=_stdio(stdio), prepare_rootfs=fill_volumes, mount_sources=shared,
                        meanwhile=meanwhile,
                    )  # fmt: skip
                    return Started(standby.pid, standby.pidfd, console)
                except StartError as error:
                    if error.step != UNSUITABLE:
                        raise
            if standby is not None:
                standby.close()
            meanwhile(0)
            init = container.create(
                self._config,
                rootfs=rootfs,
                stdio=_stdio(stdio),
                seccomp_bpf=compiled_filter(request),
                hold=False,
                prepare_rootfs=fill_volumes,
                mount_sources=shared,
                sibling=True,
            )
        finally:
            for fd in (rootfs, *shared.values()):
                os.close(fd)
        return Started(init.pid, init.pidfd, init.console)

    def adopt(self, pid: int, pidfd: int) -> None:
        """Says which container it is about: that whose first process is given."""
        self._init_pid = pid
        self._init_pidfd = pidfd

    def enter_and_exec(
        self,
        process: oci.Process,
        stdio: tuple[int, int, int] | None,
        seccomp: bytes | None,
        channel: Socket,
        *,
        born: bool,
    ) -> None:
        """Runs one more program in the container, from a process forked for that, see `container.enter_and_exec`."""
        container.enter_and_exec(
            self._init_pid, self._init_pidfd, self._config, process,
            cgroup=None if born else self.cgroup, stdio=_stdio(stdio), seccomp_bpf=seccomp, channel=channel,
        )  # fmt: skip

    def pause(self) -> None:
        self.cgroup.freeze()

    def resume(self) -> None:
        self.cgroup.thaw()

    def update(self, resources: oci.Resources) -> None:
        self.cgroup.apply(resources, update=True)

    def delete(self) -> None:
        """After init's end: whatever is left of the container."""
        try:
            self.cgroup.delete()
        except FailedPrecondition:  # somebody has been moved there
            self.cgroup.kill()
            self.cgroup.delete()


def _stdio(fds: tuple[int, int, int] | None) -> container.Stdio:
    return container.Stdio(*fds) if fds is not None else container.Stdio()
