"""An init that is there before its container: it waits, in namespaces of its own, to be told what it is to become.

Made by the worker of a shim that nobody has given a container yet, as the shim's child. What takes time and is the same for nearly every
container is done while nobody waits for it: the fork, the namespaces, the file systems of /proc and /dev, the copying of memory. With the
request the worker opens what is the host's (root, sources of bind mounts), while the standby, beside it, reads the configuration and makes
the cgroup:

    worker → standby    the start request, as it came
    standby → worker    READY: there is a cgroup
    worker → standby    JSON: what is sent along, the user; descriptors: streams, network namespace, root and mounts
    worker → standby    GO: whatever has to be written down about the container is
    standby → worker    as any init (`channel`)

Only for containers that are like most (`suits`); others are made by `container.create`. Not on cgroup v2, where a process that exists can be
moved only at the price of an RCU grace period (20 ms), and a new one is born where it belongs.

**Invariants**: its mount namespace holds nothing of the host's but the cgroup hierarchies from its first moments on, so that nothing mounted
on the host is kept busy by it and nothing can be imported; it ends when the worker, or the shim, does. Until it is READY it removes itself
what it has made; then the worker does, since the standby is in the cgroup.
"""

from __future__ import annotations

import _socket
import os
import stat

from wherry.errors import StartError, SyscallError, WherryError
from wherry.linux import cgroups, memory, mounts, namespaces, pidfds, syscalls
from wherry.runtime import channel as messages
from wherry.runtime import container, devices, process, rootfs, spawn
from wherry.runtime import namespaces as runtime_namespaces
from wherry.runtime.init import Init
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.runtime.container import Stdio
    from wherry.runtime.rootfs import NewMount
    from wherry.spec import oci

    Read = Callable[[bytes], tuple[oci.Config, bytes | None]]

_NEW = frozenset(("pid", "mount", "ipc", "uts"))
_NOT_HERE = {
    "linux": ("uidMappings", "gidMappings", "timeOffsets", "intelRdt", "netDevices", "personality", "memoryPolicy", "mountLabel"),
    "process": ("scheduler", "execCPUAffinity", "apparmorProfile", "selinuxLabel"),
}  # fmt: skip
"""What asks for the host's view, or for modules that are not loaded ahead."""
_MOUNTS = frozenset(("bind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup"))
_MOST_MOUNTS = 64
_INERT = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
UNSUITABLE = "standby"
_SIGKILL = 9
_PATIENCE = 10
"""Seconds for a process that was killed or told to end."""

_DEV: NewMount = ("/dev", "tmpfs", (("mode", "755"), ("size", "67108864")), mounts.NOSUID | mounts.STRICTATIME, "tmpfs")
_STOCK: tuple[NewMount, ...] = (
    ("/proc", "proc", (), _INERT, "proc"),
    (
        "/dev/pts", "devpts", (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")),
        mounts.NOSUID | mounts.NOEXEC, "devpts",
    ),
    ("/dev/shm", "tmpfs", (("mode", "1777"), ("size", "67108864")), _INERT, "shm"),
    ("/dev/mqueue", "mqueue", (), _INERT, "mqueue"),
    rootfs.EMPTY,
)  # fmt: skip
"""As the engine asks for them. sysfs is not among them: it shows the network namespace of its maker."""
_IN_DEV = frozenset(place for place, *_ in _STOCK)


class Standby:
    """The waiting process: `pid`, its `pidfd`, and our end of the `channel` to it."""

    __slots__ = ("channel", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, channel: _socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel

    def close(self) -> None:
        """Lets go of it: it ends, unless it has become a container."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.channel.close()
            self.pidfd = -1

    def announce(self, request: bytes) -> None:
        """Lets it read the start request, and begin with it; one that is longer than a message is not for it."""
        if len(request) > messages.LIMIT:
            self.close()
            return
        try:
            messages.send(self.channel, request)
        except OSError:  # it is gone
            self.close()

    def suits(self, config: oci.Config) -> bool:
        """Whether it becomes this container."""
        return self.pidfd >= 0 and _suits(config)

    def dismiss(self) -> None:
        """Ends it, and waits until it has ended: what it has made of a container's is gone then, unless it was given the root."""
        if self.pidfd >= 0:
            self.channel.shutdown(_socket.SHUT_RDWR)
            pidfds.await_end(self.pidfd, _PATIENCE)
            self.close()


def _suits(config: oci.Config) -> bool:
    linux, spec = config.get("linux") or {}, config.get("process") or {}
    kinds = {entry["type"] for entry in linux.get("namespaces") or () if not entry.get("path")}
    joined = {entry["type"] for entry in linux.get("namespaces") or () if entry.get("path")}
    seccomp = linux.get("seccomp") or {}
    entries = config.get("mounts") or ()
    return (
        kinds - {"cgroup", "network"} == _NEW
        and not joined - {"network"}
        and not config.get("hooks")
        and not any(linux.get(name) for name in _NOT_HERE["linux"])
        and not any(spec.get(name) for name in _NOT_HERE["process"])
        and not (seccomp.get("listenerPath") or seccomp.get("flags"))
        and len(entries) <= _MOST_MOUNTS
        and all(_is_plain(entry) for entry in entries)
        and str(linux.get("cgroupsPath") or "").startswith("/")
    )


def _is_plain(mount: oci.Mount) -> bool:
    options = mount.get("options") or ()
    bind = "bind" in options or "rbind" in options
    mapped = "idmap" in options or "ridmap" in options or mount.get("uidMappings") or mount.get("gidMappings")
    return (bind or mount.get("type") in _MOUNTS) and not mapped


def make(read: Read) -> Standby | None:
    """A standby, the child of the caller's parent; None where there can be none. The caller has one thread.

    `read` gets the configuration and the compiled filter out of a start request; an empty configuration where that is for somebody else.
    """
    if not cgroups.detect().v1 or os.geteuid() != 0:
        return None
    ours, theirs = messages.pair()
    dumpable = process.set_dumpable(0)
    try:
        pid, pidfd = namespaces.clone(
            namespaces.NEWPID | namespaces.NEWNS | namespaces.NEWIPC | namespaces.NEWUTS | namespaces.CLONE_PARENT
        )
    except SyscallError:
        ours.close()
        theirs.close()
        return None
    finally:
        process.set_dumpable(dumpable)
    if pid == 0:
        spawn.guard(lambda channel: _wait(channel, read), theirs)
    theirs.close()
    return Standby(pid, pidfd, ours)


def create(
    standby: Standby,
    config: oci.Config,
    *,
    root: int,
    stdio: Stdio,
    prepare_rootfs: Callable[[int], None],
    mount_sources: dict[str, int],
    meanwhile: Callable[[int], None],
) -> int | None:
    """As `container.create` with `sibling`, by the standby; returns the terminal's master, if there is one. For a caller that ends soon: of its
    own descriptors it closes none.

    `stdio` is whole, or empty for a terminal; `meanwhile(pid)` is called before the program runs. StartError; its step is UNSUITABLE where
    the container has to be made by `container.create`.
    """
    linux, spec = config.get("linux") or {}, config["process"]
    group = cgroups.open_group(linux.get("cgroupsPath", ""))
    opened: list[int] = []
    ready = False
    try:
        opened += [fd for fd in (stdio.stdin, stdio.stdout, stdio.stderr) if fd is not None]
        about = {"streams": len(opened), "user": spec.get("user") or {}, "oom_score_adj": spec.get("oomScoreAdj")}
        described = fastjson.dumps(about)
        if len(described) > messages.LIMIT:
            raise StartError(UNSUITABLE, "the user is in more groups than a message has room for", 0)
        network = _open_network(linux)
        if network is not None:
            opened.append(network)
        shared = rootfs.Rootfs(config, root, group=None, namespaces=_plan(linux), sources=mount_sources)
        shared.open_sources()
        prepare_rootfs(shared.root)
        _tell(standby, described, [*opened, *shared.descriptors()])
        _, ready = container.await_exec(standby.channel)
        meanwhile(standby.pid)
        _tell(standby, messages.GO, [])
        return container.await_exec(standby.channel)[0]
    except BaseException as error:
        standby.dismiss()
        if ready:
            try:
                group.delete()
            except WherryError:
                pass
        if isinstance(error, WherryError | OSError):
            raise spawn.as_start_error("create", error) from None
        raise


def _tell(standby: Standby, message: bytes, fds: list[int]) -> None:
    """One that has failed meanwhile has said why: that is still to be read."""
    try:
        messages.send_all(standby.channel, message, fds)
    except (BrokenPipeError, ConnectionResetError):
        pass


def _open_network(linux: oci.Linux) -> int | None:
    """The network namespace that is joined by path, if any. StartError when it is our own, over which a container has no power."""
    for entry in linux.get("namespaces") or ():
        if entry["type"] == "network" and entry.get("path"):
            fd = namespaces.open_namespace("network", entry["path"])
            if namespaces.is_own("network", fd):
                raise StartError(UNSUITABLE, "the network namespace is the host's", 0)
            return fd
    return None


def _plan(linux: oci.Linux) -> runtime_namespaces.Plan:
    """The plan without the network namespace that is joined by path, the only one that can be."""
    entries = [entry for entry in linux.get("namespaces") or () if not entry.get("path")]
    return runtime_namespaces.Plan({"namespaces": entries})


# ------------------------------------------------------------------------------------------------------- in the standby


class _Init(Init):
    def join_namespaces(self) -> None:
        if "network" in self.namespaces.new:
            syscalls.unshare(namespaces.NEWNET, "network namespace")
        super().join_namespaces()

    def wait_for_start(self) -> None:
        messages.wait_for_go(self.channel)


def _wait(channel: _socket.socket, read: Read) -> None:
    """The standby's life."""
    process.close_descriptors([channel.fileno()])
    process.set_parent_death_signal(_SIGKILL, channel)
    os.umask(0)
    kcore = os.path.exists("/proc/kcore")
    _leave_the_host()
    stock = _make_stock(kcore)
    memory.copy_ahead()
    request, _ = messages.receive_all(channel)
    config, seccomp = read(request) if request else ({}, None)
    if not _suits(config):
        os._exit(0)
    undo: list[Callable[[], object]] = []
    try:
        init = _prepare(config, seccomp, stock, kcore)
        if cgroups.open_group(config["linux"]["cgroupsPath"]).exists():
            raise StartError(UNSUITABLE, "the cgroup is there already, and who is in it cannot be seen from here", 0)
        group = init.rootfs.group = container.make_group(config, "", undo, systemd=False)
        init.rootfs.open_groups()
        init.cgroup_fds = group.prepare_join()
        messages.send(channel, messages.READY)
        answer, fds = messages.receive_all(channel)
    except BaseException as error:
        container.unwind(undo, failed=True)
        raise spawn.as_start_error("create", error) from None
    if not answer:
        container.unwind(undo, failed=True)
        os._exit(0)
    about: Any = fastjson.loads(answer)
    init.plan.set_user(about["user"])
    init.plan.oom_score_adj = about["oom_score_adj"]
    init.stdio = (fds.pop(0), fds.pop(0), fds.pop(0)) if about["streams"] else (0, 1, 2)
    init.namespaces.join = [(kind, fds.pop(0)) for kind, _ in init.namespaces.join]
    init.rootfs.take(fds)
    init.run(channel)


def _prepare(config: oci.Config, seccomp: bytes | None, stock: dict[NewMount, int], kcore: bool) -> Init:
    """All that follows from the configuration."""
    linux = config.get("linux") or {}
    init = _Init()
    init.unprivileged = init.joined = init.waits = init.hold = init.console_newlines = False
    init.hold_fifo, init.preserve_fds, init.parent_death_signal = -1, 0, _SIGKILL
    init.namespaces = _plan(linux)
    init.namespaces.join = [(entry["type"], -1) for entry in linux.get("namespaces") or () if entry.get("path")]
    init.plan = process.Plan(config["process"], seccomp_bpf=seccomp)
    init.describe(config)
    init.rootfs = rootfs.Rootfs(config, -1, group=None, namespaces=init.namespaces)
    init.rootfs.kcore = kcore  # /proc is another's by now
    if _DEV in stock and (linux.get("devices") or any(map(_is_in_dev, config.get("mounts") or ()))):
        os.close(stock.pop(_DEV))  # what they are called may be what a link is called there
    init.rootfs.stock = stock
    return init


def _is_in_dev(mount: oci.Mount) -> bool:
    """Whether it is mounted in /dev, and is none of the file systems that usually are."""
    place = os.path.normpath(f"/{mount.get('destination', '')}").lstrip("/")
    return place.startswith("dev/") and f"/{place}" not in _IN_DEV


def rehearse() -> None:
    """Reads once what most containers ask for: in the zygote, which does so often enough that the code is specialised for all (`rehearsal`)."""
    words = {mounts.NOSUID: "nosuid", mounts.NODEV: "nodev", mounts.NOEXEC: "noexec", mounts.STRICTATIME: "strictatime"}
    entries: list[oci.Mount] = []
    for destination, kind, options, attributes, source in (*_STOCK[:-1], _DEV):
        data = [key if value is None else f"{key}={value}" for key, value in options]
        data += [word for bit, word in words.items() if attributes & bit]
        entries.append({"destination": destination, "type": kind, "source": source, "options": data})
    config: oci.Config = {
        "process": {"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "capabilities": {"bounding": ["CAP_KILL"]}},
        "mounts": entries,
        "linux": {"namespaces": [{"type": kind} for kind in sorted(_NEW)], "cgroupsPath": "/wherry-rehearsal"},
    }
    if _suits(config):
        _prepare(config, None, {}, kcore=False)


def _make_stock(kcore: bool) -> dict[NewMount, int]:
    """What `Rootfs.stock` is to be; without what this kernel does not have."""
    stock = {}
    for wanted in (_DEV, *_STOCK):
        _, kind, options, attributes, source = wanted
        try:
            stock[wanted] = mounts.Filesystem(kind, list(options), attributes, source).open()
        except SyscallError:
            continue
    if _DEV in stock:
        devices.furnish(stock[_DEV], kcore=kcore)
    return stock


def _leave_the_host() -> None:
    """The mount namespace becomes a small tmpfs with a /proc, a /dev/null, and the cgroup hierarchies where they were."""
    mounts.set_propagation("/", mounts.PRIVATE)
    hierarchies = [(h.mountpoint, mounts.clone_tree(h.mountpoint)) for h in cgroups.detect().v1]
    root = mounts.Filesystem("tmpfs", [("mode", "0755"), ("size", "64k")], mounts.NOEXEC).open()
    mounts.attach_at(root, "/")
    os.fchdir(root)
    os.close(root)
    syscalls.pivot_root(".", ".")
    mounts.detach(".")
    os.chdir("/")
    os.mkdir("/proc")
    os.mkdir("/dev")
    os.mknod("/dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    proc = mounts.Filesystem("proc", [], _INERT).open()
    mounts.attach_at(proc, "/proc")
    os.close(proc)
    for mountpoint, fd in hierarchies:
        os.makedirs(mountpoint, exist_ok=True)
        mounts.attach_at(fd, mountpoint)
        os.close(fd)
