"""One more process in a running container.

The parent forks a helper; it enters all of the container's namespaces through the init's pidfd, and only then makes
the process that will be the program. So whoever watches from inside sees it for the first time when it has the
container's root, no descriptor of the host's, and is not dumpable (CVE-2016-9962, CVE-2024-21626). Runs in the
children of the shim and of `wherry-runc`.
Where the container shares its mounts, its root is the one that its first process has, taken from a verified procfs and entered by
chroot(2); under runc the program would be the host's, in the host's root.
"""

from __future__ import annotations

import os

from wherry.errors import Internal, StartError
from wherry.linux import cgroups, mounts, namespaces, procfs, pty, syscalls
from wherry.runtime import process, spawn
from wherry.runtime.init import announce, reopen_null, take_terminal
from wherry.runtime.namespaces import become_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from wherry.runtime import scheduling


class Exec:
    """All that helper and child need; set before the fork."""

    __slots__ = (
        "affinity", "cgroup_fds", "channel", "console_newlines", "console_size", "init_pidfd", "joins", "modules", "parent_death_signal", "path",
        "pid_source", "plan", "preserve_fds", "root",
    )  # fmt: skip

    channel: _socket.socket
    pid_source: _socket.socket | None  # whence a child with a seccomp listener learns its pid; None: the channel
    plan: process.Plan
    affinity: scheduling.Affinity | None
    init_pidfd: int
    joins: int  # CLONE_NEW* flags of what the init has of its own
    cgroup_fds: list[int]
    console_newlines: bool  # its output has no carriage returns: `pty.keep_newlines`
    console_size: tuple[int, int] | None
    parent_death_signal: int
    preserve_fds: int
    root: int  # descriptor of the container's root directory where no mount namespace of its own leads there; -1
    modules: int
    path: bytes

    def descriptors(self) -> list[int]:
        """By which the helper enters the container."""
        return [fd for fd in (self.init_pidfd, self.root) if fd >= 0]

    def enter(self) -> None:
        """In the helper: the container's cgroup (on v2 it was born there), then all of its namespaces at once (setns(2) with a pidfd, Linux 5.8).

        The child inherits both, what only the host's power can set, and of descriptors its standard streams and the channel only.
        """
        if self.affinity is not None and self.affinity.initial:
            syscalls.sched_setaffinity(0, self.affinity.initial)
        cgroups.join(self.cgroup_fds)
        if self.affinity is not None and self.affinity.final:
            syscalls.sched_setaffinity(0, self.affinity.final)
        elif self.affinity is None:
            process.run_on_all_cpus()
        process.set_on_host(self.plan, limits=bool(self.joins & namespaces.NEWUSER))
        if self.joins:
            syscalls.setns(self.init_pidfd, self.joins, f"namespaces of the container ({namespaces.names(self.joins)})")
        os.close(self.init_pidfd)
        if self.joins & namespaces.NEWUSER:
            become_root()
        if self.root >= 0:
            os.fchdir(self.root)
            os.chroot(".")
            os.close(self.root)

    def run(self, channel: _socket.socket) -> None:
        """The child's body. Ends in execve, or raises StartError for `spawn.guard` to report."""
        self.channel = channel
        spawn.run_steps((
            self.close_descriptors, self.start_session, self.join_keyring, self.open_console, self.set_limits, self.set_label,
            self.set_no_new_privileges, self.drop_privileges, self.watch_parent, self.change_directory, self.find_program,
            self.load_filter, self.execute,
        ))  # fmt: skip

    def close_descriptors(self) -> None:
        self.modules = spawn.modules_loaded()
        if self.plan.listener is not None:
            self.plan.listener.learn_pid(self.pid_source or self.channel)
        keep = [self.channel.fileno(), *self.plan.descriptors()]
        process.close_descriptors(keep, first=3 + self.preserve_fds)
        process.pass_on(self.preserve_fds)

    def start_session(self) -> None:
        os.setsid()

    def join_keyring(self) -> None:
        process.join_session_keyring(self.plan)

    def open_console(self) -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self.plan.terminal:
                reopen_null(root)
                return
            master, peer = pty.open_pair(root, "/dev/pts/ptmx")
        finally:
            os.close(root)
        if self.console_newlines:
            pty.keep_newlines(master)
        if self.console_size is not None:
            pty.resize(master, *self.console_size)
        take_terminal(self.channel, master, peer)

    def set_limits(self) -> None:
        process.own_stdio(self.plan.uid)
        process.set_personality(self.plan)
        if not self.joins & namespaces.NEWUSER:
            process.set_priorities(self.plan)
            process.apply_rlimits(self.plan)
        elif self.plan.scheduler is not None and not self.plan.scheduler.is_inherited:
            self.plan.scheduler.apply()

    def set_label(self) -> None:
        """Through a proc file system of our own that is attached nowhere: what the container has at /proc is not to be trusted with it."""
        if self.plan.apparmor or self.plan.selinux:
            process.set_label(self.plan, procfs.Procfs(mounts.Filesystem("proc", []).open()))

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

    def load_filter(self) -> None:
        if spawn.modules_loaded() != self.modules:
            raise StartError("exec", f"{Internal.__name__}: a module was imported inside the container", 0)
        announce(self.channel)
        process.reset_signals()
        process.load_filter(self.plan)

    def execute(self) -> None:
        process.execute(self.plan, self.path)
