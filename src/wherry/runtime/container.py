"""A container's life as the OCI runtime sees it: create, start, exec, signal, pause, update, delete.

The library that the shim calls in-process and `wherry-runc` wraps in a command line. Everything here runs in the
parent; `init` and `exec` are the children.
**Invariants:** when `create` or `exec_process` raises, nothing of it is left: no process, cgroup, mount or
descriptor. The caller's own namespaces, credentials and working directory are never changed. Absent: state files
(`wherry-runc` keeps its own), supervision and stdio (the shim).
"""

from __future__ import annotations

import errno
import os

from wherry.errors import FailedPrecondition, InvalidArgument, StartError, SyscallError, WherryError
from wherry.linux import cgroups, namespaces
from wherry.linux.procfs import Procfs
from wherry.runtime import channel as messages
from wherry.runtime import devices, hooks, interrupts, process, spawn
from wherry.runtime import namespaces as runtime_namespaces
from wherry.runtime.exec import Exec
from wherry.runtime.init import Init
from wherry.runtime.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.rdt import Group as Resctrl
    from wherry.spec import oci

_SIGKILL = 9


class Stdio:
    """Descriptors for the process's standard streams; None is /dev/null. They stay the caller's. With a terminal they are not used."""

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr


class Process:
    """A process of a container's: host `pid`, `pidfd` (the caller's to close), and the terminal's master if it has one."""

    __slots__ = ("console", "pid", "pidfd", "warnings")

    def __init__(self, pid: int, pidfd: int, console: int | None, warnings: list[str]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console
        self.warnings = warnings
        """What was asked for and cannot be given, where the specification says to go on (capabilities)."""

    def close(self) -> None:
        """Closes the descriptors. The process goes on."""
        for fd in (self.pidfd, self.console):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd, self.console = -1, None


class ExecProcess(Process):
    __slots__ = ()


class InitProcess(Process):
    """The container's first process. With `hold` it waits for `start`."""

    __slots__ = ("_channel", "cgroup", "resctrl")

    def __init__(
        self,
        pid: int,
        pidfd: int,
        console: int | None,
        warnings: list[str],
        cgroup: Cgroup,
        channel: _socket.socket | None,
    ) -> None:
        super().__init__(pid, pidfd, console, warnings)
        self.cgroup = cgroup
        self.resctrl: Resctrl | None = None
        """The resctrl group, where linux.intelRdt asks for one; the caller's to delete after the container."""
        self._channel = channel

    def start(self) -> None:
        """Lets the program run; returns when it does. StartError when execve fails: the process is gone then."""
        channel, self._channel = self._channel, None
        if channel is None:
            raise InvalidArgument("the container was started already")
        try:
            messages.send(channel, messages.GO)
            await_exec(channel)
        except BrokenPipeError:
            raise StartError("exec", "the container's process ended before it was started", 0) from None
        finally:
            channel.close()

    def close(self) -> None:
        super().close()
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def create(
    config: oci.Config,
    *,
    rootfs: str | int,
    stdio: Stdio,
    seccomp_bpf: bytes | None = None,
    seccomp_flags: int = 0,
    hold: bool,
    prepare_rootfs: Callable[[int], None] | None = None,
    console_size: tuple[int, int] | None = None,
    console_newlines: bool = False,
    container_id: str = "",
    bundle: str = "",
    parent_death_signal: int = _SIGKILL,
    hold_fifo: str | None = None,
    preserve_fds: int = 0,
    mount_sources: dict[str, int] | None = None,
    sibling: bool = False,
    new_keyring: bool = True,
    pivot: bool = True,
    systemd: bool = False,
    rootless: bool | None = False,
    unified: bool = False,
) -> InitProcess:
    """Makes the container that `config` describes on the directory `rootfs` and starts its program, or with `hold` leaves it before that.

    rootfs           a path, or the descriptor of a detached mount, which stays the caller's to close and serves one container
    prepare_rootfs   called with a descriptor of the (detached, writable) root tree before anything is mounted in it
    console_size     (width, height); else process.consoleSize
    console_newlines  the terminal's output has no carriage return before each newline
    parent_death_signal   what the process gets when the calling thread ends; 0 for a runtime that exits while its containers go on
    hold_fifo        with `hold`: a FIFO whose first byte starts the program, for a `start` that comes from another process
    mount_sources    detached mounts for the bind mounts at these destinations, which no path of the caller's leads to
    preserve_fds     so many descriptors from 3 on stay open for the program
    new_keyring      False: the process keeps the caller's session keyring
    pivot            False: the root is entered by chroot(2), where pivot_root(2) cannot be: the host's root is a ramdisk
    systemd          the cgroup is a unit of systemd's; linux.cgroupsPath is "slice:prefix:name" then
    rootless         whether the container may go without a cgroup where we may not make one; None: where we are not the machine's root
    unified          on a hybrid machine the container is in the cgroup v2 hierarchy, too
    sibling          the process becomes the child of the caller's parent (`spawn.spawn`), and the caller may end
    Returns when execve has succeeded, or with `hold` when the process waits. StartError naming the step, with everything undone.
    """
    linux = config.get("linux") or {}
    spec = config.get("process") or {}
    undo: list[Callable[[], object]] = []
    try:
        init = Init()
        init.unprivileged = os.geteuid() != 0
        if init.unprivileged:
            from wherry.runtime import rootless as user

            user.check(config)
        init.namespaces = runtime_namespaces.Plan(linux, unprivileged=init.unprivileged)
        undo.append(init.namespaces.close)
        own = init.namespaces.own
        init.plan = process.Plan(
            spec,
            seccomp_bpf=seccomp_bpf,
            seccomp_flags=seccomp_flags,
            own_user_namespace="user" in own,
            keyring=container_id if new_keyring else None,
        )
        init.describe(config)
        status = "created" if hold else "creating"
        if init.plan.listen(linux.get("seccomp"), hooks.state_document(config, container_id, status, 0, bundle)):
            undo.append(init.plan.close_listener)
        init.waits = "user" in init.namespaces.new
        net_devices: list[tuple[str, str]] = []
        if linux.get("netDevices"):
            from wherry.runtime import netdevices

            net_devices = netdevices.check(linux["netDevices"], own=own)
            init.waits = True
        init.console_newlines = console_newlines
        if console_size is not None:
            init.console_size = console_size
        init.hold, init.preserve_fds, init.parent_death_signal = hold, preserve_fds, parent_death_signal
        group = make_group(config, container_id, undo, systemd=systemd, rootless=rootless, unified=unified)
        if group.mode == "none" and "pid" not in init.namespaces.own:
            init.plan.warnings.append(
                "a rootless container with no cgroup and no private pid namespace: not all of its processes can be found to be ended"
            )
        owner = 0 if init.unprivileged else _cgroup_owner(config, init.namespaces)
        if owner:
            group.give_to(owner)
        init.rootfs = Rootfs(
            config, rootfs, group=group, namespaces=init.namespaces, bundle=bundle, sources=mount_sources, pivot=pivot
        )
        undo.append(init.rootfs.close)
        if not init.unprivileged:
            init.rootfs.open_sources()
        undo.append(OnFailure(init.rootfs.withdraw))
        if prepare_rootfs is not None:
            prepare_rootfs(init.rootfs.root)
        cgroup_fd = group.clone_fd()
        if cgroup_fd is not None:
            undo.append(lambda: os.close(cgroup_fd))
        init.cgroup_fds = group.prepare_join(born=cgroup_fd is not None)
        undo.append(lambda: close_all(init.cgroup_fds))
        resctrl = None
        if linux.get("intelRdt") is not None:
            from wherry.runtime import rdt

            resctrl = rdt.Group(linux["intelRdt"], container_id)
            resctrl.create()
            undo.append(OnFailure(resctrl.delete))
            init.cgroup_fds += resctrl.open_tasks()
        init.hold_fifo = -1
        if hold_fifo is not None:
            init.hold_fifo = os.open(hold_fifo, os.O_RDWR | os.O_CLOEXEC)
            undo.append(lambda: os.close(init.hold_fifo))
        result = _launch(
            init,
            group,
            config,
            stdio,
            container_id,
            bundle,
            undo,
            cgroup_fd=cgroup_fd,
            net_devices=net_devices,
            sibling=sibling,
        )
        result.resctrl = resctrl
    except BaseException as error:
        unwind(undo, failed=True)
        if isinstance(error, WherryError | OSError):
            raise spawn.as_start_error("create", error) from None
        raise
    unwind(undo, failed=False)
    return result


class OnFailure:
    """Marks a step of an undo list that a success does not need."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __call__(self) -> None:
        self.call()


def unwind(steps: list[Callable[[], object]], *, failed: bool) -> None:
    """The steps of an undo list, latest first. What fails on the way back must not hide why we go back."""
    for step in reversed(steps):
        if failed or not isinstance(step, OnFailure):
            try:
                step()
            except (WherryError, OSError):
                pass


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()


def _cgroup_owner(config: oci.Config, plan: runtime_namespaces.Plan) -> int:
    """The host's number of the user who may divide the container's cgroup: its process's, where it has a cgroup namespace
    and a cgroup file system that can be written (OCI config-linux.md "Cgroup ownership"). 0: nobody but root.
    """
    if "cgroup" not in plan.new:
        return 0
    for mount in config.get("mounts") or ():
        if mount.get("type") == "cgroup" and mount.get("destination", "").rstrip("/") == "/sys/fs/cgroup":
            break
    else:
        return 0
    if "ro" in (mount.get("options") or ()) or (plan.joined("user") is not None):
        return 0
    uid = ((config.get("process") or {}).get("user") or {}).get("uid", 0)
    if "user" not in plan.new:
        return uid
    for entry in (config.get("linux") or {}).get("uidMappings") or ():
        if entry["containerID"] <= uid < entry["containerID"] + entry["size"]:
            return entry["hostID"] + uid - entry["containerID"]
    return 0


def make_group(
    config: oci.Config,
    container_id: str,
    undo: list[Callable[[], object]],
    *,
    systemd: bool,
    rootless: bool | None = False,
    unified: bool = False,
) -> Cgroup:
    """The cgroup with its limits, before there is a process to limit. `rootless`, `unified`: as of `create`."""
    linux = config.get("linux") or {}
    resources: Any = dict(linux.get("resources") or {})
    if systemd:
        from wherry.linux.cgroups import systemd as driver

        path = linux.get("cgroupsPath") or ""
        group: Cgroup = driver.open_unit(path, container_id, config.get("annotations") or {}, resources)
    else:
        path = linux.get("cgroupsPath") or (f"/{container_id}" if container_id else "")
        if not path:
            raise InvalidArgument("linux.cgroupsPath: a container needs a cgroup")
        try:
            group = cgroups.open_group(path, unified=unified)
        except FailedPrecondition as error:  # no cgroup file system at all
            group = _group_of_user(linux, container_id, resources, error, rootless)
    try:
        try:
            group.create()
        except SyscallError as error:
            if systemd:
                raise
            group = _group_of_user(linux, container_id, resources, error, rootless)
        undo.append(OnFailure(group.delete))
        undo.append(group.release)
        if resources.get("devices"):
            resources["devices"] = [*resources["devices"], *devices.DEFAULT_RULES]
        try:
            group.apply(resources)
        except WherryError as error:
            # device rules are the machine's root's alone to set
            if not resources.pop("devices", None) or rootless is False or not _is_denied(error, None):
                raise
            group.apply(resources)
    except WherryError as error:
        raise StartError("cgroup", str(error), getattr(error, "errno", 0)) from None
    return group


def _group_of_user(
    linux: oci.Linux, container_id: str, resources: Any, error: WherryError, rootless: bool | None
) -> Cgroup:
    """In place of a group that could not be made: what there may be of one, where the configuration names none. Else `error`."""
    if rootless is False or linux.get("cgroupsPath") or not _is_denied(error, rootless):
        raise error
    from wherry.runtime import rootless as user

    return user.make_group(container_id, resources, str(error))


def _is_denied(error: WherryError, rootless: bool | None) -> bool:
    from wherry.runtime import rootless as user

    return user.is_denied(error, rootless)


def _launch(
    init: Init,
    group: Cgroup,
    config: oci.Config,
    stdio: Stdio,
    container_id: str,
    bundle: str,
    undo: list[Callable[[], object]],
    *,
    cgroup_fd: int | None,
    net_devices: list[tuple[str, str]],
    sibling: bool,
) -> InitProcess:
    """Forks, and accompanies the child until it runs or waits."""
    plan = init.namespaces
    init.joined = plan.needs_helper
    init.state = hooks.state_document(config, container_id, "creating", 0, bundle)
    procfs = Procfs.of_this_machine() if plan.new & {"user", "time"} else None
    if procfs is not None:
        undo.append(procfs.close)
    ours, theirs = messages.pair()
    undo.append(OnFailure(ours.close))
    init.stdio = _stdio_fds(stdio, undo)

    def enter_first() -> None:
        if init.unprivileged:  # whatever power there is, the user namespace gives it
            process.set_on_host(init.plan, limits=True)
            plan.enter_user()
            plan.enter()
            return
        plan.enter()
        if procfs is not None:
            plan.make_time_namespace(procfs)
        if plan.network_is_foreign:
            init.rootfs.open_network_filesystems()
        if "user" in plan.own - plan.new:
            process.set_on_host(init.plan, limits=True)
        plan.enter_user()

    helper = None
    if plan.needs_helper:
        keep = [
            *init.rootfs.descriptors(),
            *init.cgroup_fds,
            *(fd for _, fd in plan.join),
            init.hold_fifo,
            *init.plan.descriptors(),
            *([procfs.fd] if procfs else ()),
        ]
        helper = spawn.Helper(enter_first, [*keep, *range(3, 3 + init.preserve_fds)], init.stdio)
    # an ordinary user's child hides when it has its id maps, which he could not write else (`Init.wait_for_parent`)
    dumpable = process.set_dumpable(1 if init.unprivileged and "user" in plan.new else 0)
    try:
        pid, pidfd = spawn.spawn(
            init.run, theirs, flags=plan.clone_flags, cgroup_fd=cgroup_fd, helper=helper, sibling=sibling
        )
    finally:
        process.set_dumpable(dumpable)
        theirs.close()
    undo.append(OnFailure(lambda: kill_and_reap(pid, pidfd, group)))
    if "user" in plan.new:
        assert procfs is not None
        if init.unprivileged:
            from wherry.runtime import rootless as user

            user.write_id_maps(plan, procfs, pid)
        else:
            plan.write_id_maps(procfs, pid)
        process.apply_rlimits(init.plan, pid)
        if init.plan.scheduler is not None:
            process.run_on_all_cpus(pid)  # it may not have got as far itself, and a deadline needs all
        process.set_priorities(init.plan, pid)
        if init.plan.oom_score_adj is not None:
            procfs.write(f"{pid}/oom_score_adj", str(init.plan.oom_score_adj))
    if net_devices:
        from wherry.runtime import netdevices

        target = plan.joined("network")
        if target is None:
            target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            undo.append(lambda: os.close(target))
        netdevices.move(net_devices, target)
    if init.waits:
        messages.send(ours, messages.GO)
    if init.plan.listener is not None:
        messages.send(ours, messages.PID + b"%d" % pid)

    def run_hooks() -> None:
        state = hooks.state(config, container_id, "creating", pid, bundle)
        hooks.run(init.hooks["prestart"] + init.hooks["createRuntime"], state, bundle)

    console, waits = await_exec(ours, run_hooks, init.rootfs.map_ids)
    if not waits or init.hold_fifo >= 0:
        ours.close()
    return InitProcess(pid, pidfd, console, init.plan.warnings, group, ours if waits and init.hold_fifo < 0 else None)


def _stdio_fds(stdio: Stdio, undo: list[Callable[[], object]]) -> tuple[int, int, int]:
    wanted = (stdio.stdin, stdio.stdout, stdio.stderr)
    null = -1
    if None in wanted:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        undo.append(lambda: os.close(null))
    stdin, stdout, stderr = (null if fd is None else fd for fd in wanted)
    return stdin, stdout, stderr


def await_exec(
    channel: _socket.socket,
    run_hooks: Callable[[], None] | None = None,
    map_ids: Callable[[int, int], None] | None = None,
) -> tuple[int | None, bool]:
    """Follows the child's messages to the end: (terminal's master, whether it waits to be started). StartError when it fails."""
    console: int | None = None
    executing = False
    try:
        while True:
            with interrupts.waiting:
                message, fd = messages.receive(channel)
            kind = message[:1]
            if kind == messages.CONSOLE:
                console = fd
            elif kind == messages.HOOKS and run_hooks is not None:
                run_hooks()
                messages.send(channel, messages.GO)
            elif kind == messages.IDS and map_ids is not None and fd is not None:
                try:
                    map_ids(int(message[1:]), fd)
                finally:
                    os.close(fd)
                messages.send(channel, messages.GO)
            elif kind == messages.READY:
                return console, True
            elif kind == messages.EXEC:
                executing = True
            elif kind == messages.FAILED:
                raise messages.read_failure(message)
            elif not message and executing:
                return console, False
            else:
                raise StartError(
                    "init", "the container's process died before its program ran (out of memory, or killed)", 0
                )
    except BaseException:
        if console is not None:
            os.close(console)
        raise


def kill_and_reap(pid: int, pidfd: int, group: Cgroup) -> None:
    namespaces.send_signal(pidfd, _SIGKILL)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    os.close(pidfd)
    group.kill()


def exec_process(
    init_pid: int,
    init_pidfd: int,
    config: oci.Config,
    spec: oci.Process,
    *,
    cgroup: Cgroup,
    stdio: Stdio,
    seccomp_bpf: bytes | None,
    seccomp_flags: int = 0,
    console_size: tuple[int, int] | None = None,
    console_newlines: bool = False,
    container_id: str = "",
    parent_death_signal: int = _SIGKILL,
    preserve_fds: int = 0,
    new_keyring: bool = True,
    bundle: str = "",
) -> ExecProcess:
    """Starts one more process, as `spec` describes it, in the container of `config` whose first process is given.

    Returns when execve has succeeded; StartError else, with everything undone.
    """
    undo: list[Callable[[], object]] = []
    try:
        job = _plan_exec(
            init_pid, init_pidfd, config, spec, seccomp_bpf=seccomp_bpf, seccomp_flags=seccomp_flags,
            keyring=container_id if new_keyring else None, container_id=container_id, bundle=bundle,
        )  # fmt: skip
        undo.append(job.plan.close_listener)
        if job.root >= 0:
            undo.append(lambda: os.close(job.root))
        job.console_newlines = console_newlines
        job.console_size = console_size or process.console_size(spec)
        job.parent_death_signal, job.preserve_fds = parent_death_signal, preserve_fds
        # with CPUs to run on before it is in the cgroup, the helper has to enter by itself
        by_birth = job.affinity is None or not job.affinity.initial
        try:
            cgroup_fd = cgroup.clone_fd(beside=init_pid) if by_birth else None
            if cgroup_fd is not None:
                undo.append(lambda: os.close(cgroup_fd))
            job.cgroup_fds = cgroup.prepare_join(born=cgroup_fd is not None)
        except SyscallError as error:
            raise StartError("cgroup", f"error adding pid of the process to cgroups: {error}", error.errno) from None
        wanted = (config.get("linux") or {}).get("intelRdt")
        if wanted is not None:
            from wherry.runtime import rdt

            job.cgroup_fds += rdt.Group(wanted, container_id).open_tasks()
        undo.append(lambda: close_all(job.cgroup_fds))
        ours, theirs = messages.pair()
        undo.append(ours.close)
        dumpable = process.set_dumpable(0)
        try:
            keep = [*job.descriptors(), *job.cgroup_fds, *job.plan.descriptors(), *range(3, 3 + preserve_fds)]
            helper = spawn.Helper(job.enter, keep, _stdio_fds(stdio, undo))
            pid, pidfd = spawn.spawn(job.run, theirs, flags=0, cgroup_fd=cgroup_fd, helper=helper)
        finally:
            process.set_dumpable(dumpable)
            theirs.close()
        undo.append(OnFailure(lambda: _reap(pid, pidfd)))
        if job.plan.listener is not None:
            messages.send(ours, messages.PID + b"%d" % pid)
        console, _ = await_exec(ours)
    except BaseException as error:
        unwind(undo, failed=True)
        if isinstance(error, WherryError | OSError):
            raise spawn.as_start_error("exec", error) from None
        raise
    unwind(undo, failed=False)
    return ExecProcess(pid, pidfd, console, job.plan.warnings)


def enter_and_exec(
    init_pid: int,
    init_pidfd: int,
    config: oci.Config,
    spec: oci.Process,
    *,
    cgroup: Cgroup | None,
    stdio: Stdio,
    seccomp_bpf: bytes | None,
    channel: _socket.socket,
    parent_death_signal: int = _SIGKILL,
) -> None:
    """As `exec_process`, for a caller that was forked for this alone and is the helper itself: the process becomes the child of the
    caller's parent, which follows it on the other end of `channel`.

    The caller has no descriptor but those it gives here, and ends when this returns. `cgroup` None: it was born in the container's
    group. StartError before there is a process; whatever happens later is told on the channel.
    """
    job = _plan_exec(
        init_pid,
        init_pidfd,
        config,
        spec,
        seccomp_bpf=seccomp_bpf,
        seccomp_flags=0,
        keyring="",
        container_id="",
        bundle="",
    )
    job.console_newlines = False
    job.console_size = process.console_size(spec)
    job.parent_death_signal, job.preserve_fds = parent_death_signal, 0
    job.cgroup_fds = [] if cgroup is None else cgroup.prepare_join()
    process.set_dumpable(0)
    process.install_stdio(_stdio_fds(stdio, []))
    # Who is at the other end of `channel` does not know the pid
    tell, listen = messages.pair() if job.plan.listener is not None else (None, None)
    job.pid_source = listen
    keep = [*job.descriptors(), *job.cgroup_fds, *job.plan.descriptors(), channel.fileno()]
    process.close_descriptors([*keep, *(end.fileno() for end in (tell, listen) if end is not None)])
    try:
        job.enter()
        pid, _ = namespaces.clone(namespaces.CLONE_PARENT)
    except WherryError as error:
        raise spawn.as_start_error("namespaces", error) from None
    if pid == 0:
        spawn.guard(job.run, channel)
    if tell is not None:
        messages.send(tell, messages.PID + b"%d" % pid)


def _plan_exec(
    init_pid: int,
    init_pidfd: int,
    config: oci.Config,
    spec: oci.Process,
    *,
    seccomp_bpf: bytes | None,
    seccomp_flags: int,
    keyring: str | None,
    container_id: str,
    bundle: str,
) -> Exec:
    """What is known before the fork."""
    if os.geteuid() != 0:
        from wherry.runtime import rootless as user

        user.check_process(spec)
    linux = config.get("linux") or {}
    job = Exec()
    job.joins = _namespaces_of(init_pid, linux)
    job.plan = process.Plan(
        spec,
        seccomp_bpf=seccomp_bpf,
        seccomp_flags=seccomp_flags,
        own_user_namespace=bool(job.joins & namespaces.NEWUSER),
        keyring=keyring,
    )
    job.plan.of_container(linux)
    job.affinity = job.pid_source = None
    affinity = spec.get("execCPUAffinity") or (config.get("process") or {}).get("execCPUAffinity")
    if affinity:
        from wherry.runtime import scheduling

        job.affinity = scheduling.Affinity(affinity)
    job.init_pidfd = init_pidfd
    job.root = -1
    if not any(entry["type"] == "mount" for entry in linux.get("namespaces") or ()):
        job.root = _open_root(init_pid, init_pidfd)
    job.plan.listen(linux.get("seccomp"), hooks.state_document(config, container_id, "running", init_pid, bundle))
    return job


def _reap(pid: int, pidfd: int) -> None:
    namespaces.send_signal(pidfd, _SIGKILL)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    os.close(pidfd)


def _open_root(pid: int, pidfd: int) -> int:
    """The root directory of the process, as a descriptor: where a container is that shares its mounts with others. StartError when it has ended."""
    procfs = Procfs.of_this_machine()
    try:
        directory = procfs.open(str(pid), os.O_PATH | os.O_DIRECTORY)
        try:
            fd = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
        if namespaces.send_signal(pidfd, 0):  # checked after it was opened, so it is not another process's
            return fd
        os.close(fd)
    except (SyscallError, OSError) as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise
    finally:
        procfs.close()
    raise StartError("exec", "the container's first process has ended", errno.ESRCH)


def _namespaces_of(pid: int, linux: oci.Linux) -> int:
    """The flags of the configuration's namespaces, and the mount namespace, in which the container's first process really differs from us."""
    flags = 0
    for kind in ("mount", *(entry["type"] for entry in linux.get("namespaces") or ())):
        name = namespaces.FILE[kind]
        try:
            theirs, mine = os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise StartError("exec", "the container's first process has ended", errno.ESRCH) from None
            raise SyscallError("stat", f"/proc/{pid}/ns/{name}", error.errno or 0) from None
        if (theirs.st_dev, theirs.st_ino) != (mine.st_dev, mine.st_ino):
            flags |= namespaces.FLAG[kind]
    return flags


# ---------------------------------------------------------------------------------------------------- the group as a whole


def kill_all(cgroup: Cgroup, signal: int = _SIGKILL) -> None:
    """Sends `signal` to every process of the container."""
    cgroup.kill(signal)


def pause(cgroup: Cgroup) -> None:
    """Returns when every process has stopped."""
    cgroup.freeze()


def resume(cgroup: Cgroup) -> None:
    cgroup.thaw()


def update(cgroup: Cgroup, resources: oci.Resources) -> None:
    """Changes the limits that `resources` names; others stay."""
    cgroup.apply(resources, update=True)


def pids(cgroup: Cgroup) -> list[int]:
    """Host pids of all processes of the container."""
    return cgroup.pids()


def oom_killed(cgroup: Cgroup) -> bool:
    """Whether the kernel has killed a process of the container for want of memory."""
    return cgroup.oom_kills() > 0


def delete_cgroup(cgroup: Cgroup) -> None:
    """Removes the group once all of its processes have ended. Already gone is no error."""
    cgroup.delete()
