"""What `create` and `run` have in common: from a bundle to a container that waits or runs, and its state on disk. The way
back is `ending`.
"""

from __future__ import annotations

import os
import time

from wherry.errors import Internal, InvalidArgument, NotFound, StartError, SyscallError, WherryError
from wherry.runtime import interrupts
from wherry.runtime import state as states
from wherry.runtime.cli import shared_mounts
from wherry.runtime.cli.options import Option
from wherry.runtime.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.foreground import Foreground
    from wherry.runtime.cli.main import Globals
    from wherry.runtime.cli.notify_socket import Proxy
    from wherry.runtime.container import InitProcess
    from wherry.spec.oci import Config, Process

OPTIONS = (
    Option("bundle", "path to the root of the bundle directory, defaults to the current directory", short="b"),
    Option("console-socket", "path to an AF_UNIX socket which receives the master of the container's terminal"),
    Option("pidfd-socket", "path to an AF_UNIX socket which receives a pidfd of the container's first process"),
    Option("pid-file", "the file to write the process id to"),
    Option("no-pivot", "enter the root by chroot(2): where the host's root is a ramdisk", kind="switch"),
    Option("no-new-keyring", "do not create a new session keyring for the container", kind="switch"),
    Option(
        "preserve-fds",
        "pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)",
        kind="number",
        default=0,
    ),
)


def launch(
    settings: Globals,
    values: dict[str, Any],
    container_id: str,
    *,
    verb: str,
    hold: bool,
    foreground: Foreground | None,
) -> Launched:
    """Makes the container. With `hold` it waits for `start`; else its program runs. Whatever fails, nothing is left.

    `foreground` gets the signals from when there is a process on, whose program may run before we know. None: it is detached.
    """
    from wherry.runtime import container, oci_validate  # what `start` and `delete` need not load
    from wherry.runtime.cli import filters
    from wherry.runtime.cli.foreground import require_terminal_or_socket, send_console, send_descriptor

    states.check_id(container_id)
    bundle = os.path.abspath(values["bundle"] or ".")
    raw, config = states.read_config(f"{bundle}/config.json")
    oci_validate.check(config)
    if "process" not in config:
        raise InvalidArgument("process: a container needs a process to run")
    terminal, detached = bool(config["process"].get("terminal")), foreground is None
    require_terminal_or_socket(terminal=terminal, detached=detached, socket=values["console-socket"])
    rootfs = os.path.realpath(os.path.join(bundle, config["root"]["path"]))
    if not os.path.isdir(rootfs):
        raise NotFound(f"invalid rootfs: {rootfs} is not a directory")
    preserved = preserved_fds(config["process"], values["preserve-fds"])
    program, flags = filters.program_for(settings.root, config)
    if settings.debug and program is not None:
        settings.write("debug", f"seccomp filter flags: {filters.flags_with_listener(config, flags)}")
    state = states.make(settings.root, container_id)
    process = notify = None
    try:
        if manager := os.getenv("NOTIFY_SOCKET"):
            from wherry.runtime.cli import notify_socket

            notify_socket.prepare(state, config)
            notify = None if hold else notify_socket.Proxy(manager, state)
        if hold:
            _make_fifo(f"{state.directory}/{states.FIFO}")
        states.write_file(f"{state.directory}/config.json", raw)
        interrupts.check()
        if foreground is not None:
            interrupts.hand_over(foreground.pass_on)
        process = container.create(
            config,
            rootfs=rootfs,
            stdio=container.Stdio(0, 1, 2),
            seccomp_bpf=program,
            seccomp_flags=flags,
            hold=hold,
            container_id=container_id,
            new_keyring=not values["no-new-keyring"],
            bundle=bundle,
            parent_death_signal=0,
            hold_fifo=f"{state.directory}/{states.FIFO}" if hold else None,
            preserve_fds=preserved,
            pivot=not values["no-pivot"],
            console_newlines=not values["console-socket"],
            systemd=settings.systemd_cgroup,
            rootless=settings.rootless,
            unified=True,
        )
        state.pid, state.start = process.pid, states.start_time(process.pid) or 0
        state.bundle, state.rootfs, state.oci_version = bundle, rootfs, config["ociVersion"]
        state.created = now()
        state.owner = os.geteuid()
        state.cgroup_paths = process.cgroup.paths
        state.unit = process.cgroup.unit
        state.new_keyring = not values["no-new-keyring"]
        state.resctrl_made = process.resctrl is not None and process.resctrl.made
        state.descriptors = standard_streams(terminal=terminal)
        state.save()
        shared_mounts.remember(state, config)
        for warning in process.warnings:
            settings.write("warning", warning)
        if process.console is not None and values["console-socket"]:
            send_console(values["console-socket"], process.console)
        if values["pidfd-socket"]:
            send_descriptor(values["pidfd-socket"], b"standard", process.pidfd, "--pidfd-socket")
        interrupts.check()
        if values["pid-file"]:
            write_pid_file(values["pid-file"], process.pid)
        settings.write("debug", f"container {container_id}: process {process.pid} in {process.cgroup.paths}")
    except BaseException as error:
        if notify is not None:
            notify.close()
        if process is not None:
            _abandon(process)
            shared_mounts.remove(state)
        state.remove()
        if isinstance(error, StartError):
            if not detached and refused_by_execve(error):
                raise
            where = "error during container init: " if error.step == "mounts" else ""
            raise StartError(
                error.step, f"wherry-runc {verb} failed: unable to start container process: {where}{error}", error.errno
            ) from None
        if isinstance(error, SyscallError):
            raise Internal(f"wherry-runc {verb} failed: {error}") from None
        if isinstance(error, WherryError):
            raise type(error)(f"wherry-runc {verb} failed: {error}") from None
        raise
    return Launched(state, config, process, notify)


def refused_by_execve(error: StartError) -> bool:
    """Whether everything was there, and the kernel did not execute the program (a script without its interpreter): of that the
    program's own stderr tells, in runc and wherever create and start are two calls.
    """
    return error.step == "exec" and error.message.startswith("exec ")


def _make_fifo(path: str) -> None:
    try:
        os.mkfifo(path, 0o600)
    except OSError as error:
        raise SyscallError("mkfifo", path, error.errno or 0) from None


class Launched:
    """A container that was made: its state, its configuration, its first process, and whom it may notify."""

    __slots__ = ("config", "notify", "process", "state")

    def __init__(self, state: State, config: Config, process: InitProcess, notify: Proxy | None) -> None:
        self.state = state
        self.config = config
        self.process = process
        self.notify = notify


def _abandon(process: InitProcess) -> None:
    """Ends a container that was made, but could not be handed over."""
    process.cgroup.kill()
    try:
        os.kill(process.pid, 9)
        os.waitpid(process.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    process.close()
    process.cgroup.delete()
    if process.resctrl is not None:
        process.resctrl.delete()


def preserved_fds(process: Process, extra: int, *, activated: bool = True) -> int:
    """How many descriptors from 3 on the program gets: those of socket activation meant for us (sd_listen_fds(3)),
    announced in its environment, and `extra`.
    """
    if extra < 0:
        raise InvalidArgument(f"--preserve-fds: {extra} is negative")
    count = 0
    if activated and os.getenv("LISTEN_PID") == str(os.getpid()):
        listening = os.getenv("LISTEN_FDS", "0")
        count = int(listening) if listening.isascii() and listening.isdigit() and len(listening) < 5 else 0
    if count:
        process["env"] = [*process.get("env", []), f"LISTEN_FDS={count}", "LISTEN_PID=1"]
    for fd in range(3, 3 + count + extra):
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidArgument(f"please check that preserved-fd {fd} (of {count + extra}) exists") from None
    return count + extra


def standard_streams(*, terminal: bool) -> list[str]:
    """What 0, 1 and 2 are, for a checkpoint to name them; with a terminal they are the container's own."""
    return ["/dev/null"] * 3 if terminal else [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)]


def write_pid_file(path: str, pid: int) -> None:
    states.write_file(os.path.abspath(path), b"%d" % pid, 0o644)


def now() -> str:
    """The time as state.json and `list` show it (RFC 3339)."""
    now = time.time_ns()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now % 10**9:09d}Z"
