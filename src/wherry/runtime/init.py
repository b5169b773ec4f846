"""The first process of a container, between the fork and its program.

`Init` is filled by the parent (`container.create`) and run by the child. Its steps (`Init.run`) are in runc's order,
because each needs what the ones before it have made, and must come before what it needs is taken away:

    close_descriptors       nothing of the host's is open but what the steps need
    join_cgroup             before the cgroup namespace, whose root it becomes; needs the host's view
    join_namespaces         those by path; needs the host's privileges
    wait_for_parent         a new user namespace: ids mean nothing before; devices that the parent moves into the network namespace
    open_sources            of an ordinary user, whose parent may not; needs the ids
    …mounts…                need the namespaces, and the host's root tree still reachable
    run_early_hooks         the runtime's and our own, when everything is mounted and nothing is final
    open_console            needs the container's devpts
    write_protect, mask     last of the mounts: they would stand in the way of the others
    set_sysctls             through procfs, while its descriptor is still what was mounted
    pivot                   from here on everything that is looked up is the container's, so nothing is imported
    set_label, drop_privileges, change_directory, …   no privilege is left when the container's files are first used
    wait_for_start          `hold`: created, not started
    load_filter, …hooks, execute    last: whatever the filter forbids, we need no more

**Invariant:** between `pivot` and `execute` no module is imported (checked).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import stat
import struct

from wherry.errors import Internal, InvalidArgument, StartError, SyscallError
from wherry.linux import cgroups, namespaces, paths, pty, syscalls
from wherry.linux import mounts as linux_mounts
from wherry.runtime import channel as messages
from wherry.runtime import hooks, process, spawn, sysctl
from wherry.runtime import namespaces as runtime_namespaces
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.rootfs import Rootfs
    from wherry.spec import oci

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_NULL = os.makedev(1, 3)


class Init:
    """All that the child needs; every field is set before the fork."""

    __slots__ = (
        "cgroup_fds", "channel", "console_newlines", "console_size", "domainname", "hold", "hold_fifo", "hooks", "hostname", "joined", "modules",
        "namespaces", "parent_death_signal", "path", "plan", "preserve_fds", "rootfs", "state", "stdio", "sysctls", "unprivileged", "waits",
    )  # fmt: skip

    channel: _socket.socket
    plan: process.Plan
    rootfs: Rootfs
    namespaces: runtime_namespaces.Plan
    joined: bool  # a helper has entered the namespaces by path
    cgroup_fds: list[int]
    hostname: bytes
    domainname: bytes
    sysctls: list[tuple[str, str]]
    hooks: dict[str, list[hooks.Hook]]
    state: dict[str, object]  # for the hooks that run in here, without status and pid
    stdio: tuple[int, int, int]  # what becomes 0, 1, 2 until a terminal does
    console_newlines: bool  # its output has no carriage returns: `pty.keep_newlines`
    console_size: tuple[int, int] | None  # width, height
    hold: bool
    hold_fifo: int  # descriptor, -1: hold on the channel
    parent_death_signal: int
    preserve_fds: int
    unprivileged: bool  # not root has made us: what power there is, we have in our user namespace
    waits: bool  # for the parent to give us something: id maps, network devices
    modules: int
    path: bytes

    def describe(self, config: oci.Config) -> None:
        """What the configuration says of the whole container. `plan` and `namespaces` are there already. InvalidArgument."""
        linux, own = config.get("linux") or {}, self.namespaces.own
        self.plan.of_container(linux)
        self.hostname, self.domainname = _name(config, "hostname", own), _name(config, "domainname", own)
        self.sysctls = [(sysctl.check(key, own=own), value) for key, value in (linux.get("sysctl") or {}).items()]
        self.hooks = hooks.parse(config.get("hooks") or {})
        self.console_size = process.console_size(config.get("process") or {})

    def run(self, channel: _socket.socket) -> None:
        """The child's body. Ends in execve, or raises StartError for `spawn.guard` to report."""
        self.channel = channel
        spawn.run_steps((
            self.close_descriptors, self.start_session, self.join_cgroup, self.join_namespaces, self.wait_for_parent, self.make_cgroup_namespace,
            self.join_keyring, self.raise_loopback, self.open_sources,
            self.rootfs.attach_root, self.rootfs.mount_all, self.rootfs.create_devices, self.rootfs.make_working_directory,
            self.run_early_hooks, self.open_console, self.reopen_null,
            self.set_names, self.set_sysctls, self.rootfs.write_protect, self.rootfs.mask, self.set_limits,
            self.prepare_label, self.pivot,
            self.set_no_new_privileges, self.drop_privileges, self.watch_parent, self.change_directory, self.find_program,
            self.wait_for_start, self.load_filter, self.run_start_hooks, self.execute,
        ))  # fmt: skip

    # ------------------------------------------------------------------------------------------------ on the host's side

    def close_descriptors(self) -> None:
        if not self.joined:
            process.install_stdio(self.stdio)
        keep = [
            *self.rootfs.descriptors(),
            *self.cgroup_fds,
            *(fd for _, fd in self.namespaces.join),
            self.channel.fileno(),
            self.hold_fifo,
            *self.plan.descriptors(),
        ]
        process.close_descriptors(keep, first=3 + self.preserve_fds)
        process.pass_on(self.preserve_fds)
        os.umask(0)

    def start_session(self) -> None:
        os.setsid()
        if not self.namespaces.new & {"user"}:
            process.set_parent_death_signal(self.parent_death_signal, self.channel)

    def join_cgroup(self) -> None:
        cgroups.join(self.cgroup_fds)
        process.run_on_all_cpus()

    def join_namespaces(self) -> None:
        if not self.joined:
            self.namespaces.enter()

    def wait_for_parent(self) -> None:
        if self.waits:
            messages.wait_for_go(self.channel)
        if "user" in self.namespaces.new:
            runtime_namespaces.become_root()
            if self.unprivileged:
                self.namespaces.enter_time_namespace()
                process.set_dumpable(0)  # not before: our user could not write our id maps
            process.set_parent_death_signal(self.parent_death_signal, self.channel)
        if self.plan.listener is not None:
            self.plan.listener.learn_pid(self.channel)

    def make_cgroup_namespace(self) -> None:
        if "cgroup" in self.namespaces.new:
            syscalls.unshare(namespaces.NEWCGROUP, "cgroup namespace")

    def join_keyring(self) -> None:
        in_user_namespace = "user" in self.namespaces.own
        process.join_session_keyring(
            self.plan, process.KEY_OTHERS_SEARCH if in_user_namespace else process.KEY_USER_SEARCH
        )

    def raise_loopback(self) -> None:
        if "network" in self.namespaces.new:
            raise_loopback()

    def open_sources(self) -> None:
        """The parent's, if it were root. A mount namespace of our own shows what the parent's does, and in it we may clone mounts."""
        if self.unprivileged:
            self.rootfs.open_sources()
        self.rootfs.ask_for_ids = self.ask_for_ids

    def ask_for_ids(self, number: int, fd: int) -> None:
        messages.send(self.channel, messages.IDS + b"%d" % number, fd)
        messages.wait_for_go(self.channel)

    # -------------------------------------------------------------------------------------------------- between the roots

    def run_early_hooks(self) -> None:
        if self.hooks["prestart"] or self.hooks["createRuntime"]:
            messages.send(self.channel, messages.HOOKS)
            messages.wait_for_go(self.channel)
        if self.hooks["createContainer"]:
            os.fchdir(self.rootfs.root)  # as runc's find it
            hooks.run(self.hooks["createContainer"], self.state_json("creating"))

    def state_json(self, status: str) -> bytes:
        """The container's state as a hook in here sees it: the pid is that of the container's pid namespace."""
        return fastjson.dumps({**self.state, "status": status, "pid": os.getpid()})

    def open_console(self) -> None:
        """The terminal, from the container's own devpts; also at /dev/console. Its master goes to the parent."""
        if not self.plan.terminal:
            return
        devpts = paths.open_in_root(self.rootfs.root, "/dev/pts", os.O_PATH | os.O_DIRECTORY, follow=False)
        try:
            master, peer = pty.open_pair(devpts)
        finally:
            os.close(devpts)
        if self.console_newlines:
            pty.keep_newlines(master)
        if self.console_size is not None:
            pty.resize(master, *self.console_size)
        target = self._console_target()
        mount = linux_mounts.clone_tree("", fd=peer, subject="/dev/console")
        linux_mounts.attach(mount, target, subject="/dev/console")
        os.close(mount)
        os.close(target)
        take_terminal(self.channel, master, peer)

    def _console_target(self) -> int:
        """/dev/console itself, made if missing: a link under that name would let the image choose what the terminal covers."""
        try:
            return paths.open_in_root(self.rootfs.root, "/dev/console", follow=False)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
        os.close(paths.make_file(self.rootfs.root, "/dev/console", 0o620))
        return paths.open_in_root(self.rootfs.root, "/dev/console", follow=False)

    def reopen_null(self) -> None:
        if not self.plan.terminal:
            reopen_null(self.rootfs.root)

    def set_names(self) -> None:
        if self.hostname:
            syscalls.sethostname(self.hostname)
        if self.domainname:
            syscalls.setdomainname(self.domainname)

    def set_sysctls(self) -> None:
        if self.sysctls:
            sysctl.apply(self.rootfs.writable_procfs(), self.sysctls)

    def set_limits(self) -> None:
        """In a user namespace the parent or the helper, who has the power to raise limits, has set them already."""
        process.own_stdio(self.plan.uid)
        process.set_personality(self.plan)
        if "user" in self.namespaces.own:
            if self.plan.scheduler is not None and not self.plan.scheduler.is_inherited and self.joined:
                self.plan.scheduler.apply()
            return
        process.set_priorities(self.plan)
        process.apply_rlimits(self.plan)
        if self.plan.oom_score_adj is not None:
            self.rootfs.writable_procfs().write("self/oom_score_adj", str(self.plan.oom_score_adj))

    def prepare_label(self) -> None:
        process.set_label(self.plan, self.rootfs.writable_procfs() if self.plan.apparmor or self.plan.selinux else None)

    def pivot(self) -> None:
        self.modules = spawn.modules_loaded()
        self.rootfs.pivot()
        keep = [self.channel.fileno(), self.hold_fifo, *self.plan.descriptors()]
        process.close_descriptors(keep, first=3 + self.preserve_fds)

    # ----------------------------------------------------------------------------------------------- inside the container

    def set_no_new_privileges(self) -> None:
        process.set_no_new_privileges(self.plan)

    def drop_privileges(self) -> None:
        process.change_directory(self.plan, as_root=True)
        process.drop_privileges(self.plan)

    def watch_parent(self) -> None:
        process.set_parent_death_signal(self.parent_death_signal, self.channel)

    def change_directory(self) -> None:
        process.change_directory(self.plan)
        process.add_home(self.plan)

    def find_program(self) -> None:
        self.path = process.find_executable(self.plan)

    def wait_for_start(self) -> None:
        if not self.hold:
            return
        process.end_at_signals()
        messages.send(self.channel, messages.READY)
        if self.hold_fifo < 0:
            messages.wait_for_go(self.channel)
        else:
            os.read(self.hold_fifo, 1)

    def load_filter(self) -> None:
        if spawn.modules_loaded() != self.modules:
            raise StartError("exec", f"{Internal.__name__}: a module was imported inside the container", 0)
        announce(self.channel)
        process.reset_signals()
        process.load_filter(self.plan)

    def run_start_hooks(self) -> None:
        """Programs of the container's: what it may do, they may."""
        for hook in self.hooks["startContainer"]:
            hook.env = hook.env or self.plan.env  # as runc: without an environment of their own they have the program's
        if self.hooks["startContainer"]:
            hooks.run(self.hooks["startContainer"], self.state_json("created"))

    def execute(self) -> None:
        process.execute(self.plan, self.path)


def _name(config: oci.Config, key: str, own: set[str]) -> bytes:
    value = os.fsencode(str(config.get(key) or ""))
    if value and "uts" not in own:
        raise InvalidArgument(f"{key}: cannot be set without a uts namespace of the container's own")
    if len(value) > 64:
        raise InvalidArgument(f"{key}: longer than the 64 bytes that the kernel takes")
    return value


def raise_loopback() -> None:
    """A new network namespace has only a loopback interface, down: up with it, as runc does."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
    except OSError as error:
        raise SyscallError("ioctl", "loopback interface", error.errno or 0) from None
    finally:
        control.close()


def reopen_null(root: int) -> None:
    """Where 0, 1, 2 are the host's /dev/null, they become the container's: a descriptor on the host's file system would lead there."""
    for number in (0, 1, 2):
        if not _is_null(number):
            continue
        flags = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        try:
            fd = paths.open_in_root(root, "/dev/null", os.O_PATH, follow=False)
            found = _is_null(fd)
            os.close(fd)
            if not found:
                continue
            # whoever exchanges it now (an exec's container can) must not stop us at a FIFO, nor choose what is opened
            fd = paths.open_in_root(root, "/dev/null", flags | os.O_NONBLOCK | os.O_NOCTTY, follow=False)
        except SyscallError:
            continue  # a container without /dev keeps the one that it was given
        if _is_null(fd):
            os.set_blocking(fd, True)
            os.dup2(fd, number, inheritable=True)
        os.close(fd)


def _is_null(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL


def announce(channel: _socket.socket) -> None:
    """Tells the parent that only execve is left. A parent that has gone (created by another process) need not know."""
    try:
        messages.send(channel, messages.EXEC)
    except OSError:
        pass


def take_terminal(channel: _socket.socket, master: int, peer: int) -> None:
    """`peer` becomes the controlling terminal and 0, 1, 2; `master` goes to the parent."""
    pty.make_controlling(peer)
    for number in (0, 1, 2):
        os.dup2(peer, number, inheritable=True)
    os.close(peer)
    messages.send(channel, messages.CONSOLE, master)
    os.close(master)
