"""A container's process, from its OCI description to `execve`: what init and an exec have in common.

`Plan` is made by the parent before the fork, so every mistake in the description is found while nothing exists yet,
and the child encodes, looks up and imports nothing. The functions below it run in the child, in the order that `init`
and `exec` list them. Sources: OCI config.md "process", execve(2), capabilities(7), credentials(7); the user-visible
words of a failed exec are those that Docker's clients turn into exit codes 126 and 127.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os
import select

from wherry import errors
from wherry.errors import FailedPrecondition, InvalidArgument, StartError, SyscallError
from wherry.linux import capabilities, syscalls
from wherry.linux.procfs import Procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence

    from wherry.runtime import scheduling
    from wherry.runtime.seccomp_notify import Listener
    from wherry.spec import oci

_RLIMITS = (
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
)  # fmt: skip
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 3, 4, 8, 38
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_MAX_ID = 0xFFFFFFFE
_PASSWD_LIMIT = 1 << 20
_DEFAULT_UMASK = 0o022
_KEYCTL_JOIN_SESSION_KEYRING, _KEYCTL_SETPERM, _KEYCTL_DESCRIBE = 1, 5, 6
KEY_OTHERS_SEARCH, KEY_USER_SEARCH = 0x8, 0x80000
_ALL_CPUS = b"\xff" * 8192


class Plan:
    """Everything that the child needs to become the process. `warnings` are for the caller to pass on."""

    __slots__ = (
        "additional_groups", "apparmor", "argv", "caps", "cwd", "env", "gid", "has_directory", "io_priority", "keyring", "listener", "memory_policy",
        "no_new_privileges", "oom_score_adj", "personality", "rlimits", "scheduler", "seccomp", "seccomp_flags", "selinux", "terminal",
        "uid", "umask", "warnings",
    )  # fmt: skip

    def __init__(
        self,
        process: oci.Process,
        *,
        seccomp_bpf: bytes | None,
        seccomp_flags: int = 0,
        own_user_namespace: bool = False,
        keyring: str | None = "",
    ) -> None:
        """`keyring`: the container whose session keyring is joined, "" for one without a name, None to keep the caller's."""
        self.argv = [_bytes(word, "process.args") for word in process.get("args") or ()]
        if not self.argv:
            raise InvalidArgument("process.args: there is no program to run")
        self.env = _environment(process.get("env") or ())
        self.cwd = _bytes(process.get("cwd") or "/", "process.cwd")
        if not self.cwd.startswith(b"/"):
            raise InvalidArgument(f"process.cwd: {os.fsdecode(self.cwd)!r} is not an absolute path")
        self.set_user(process.get("user") or {})
        self.caps, self.warnings = capabilities.parse(
            process.get("capabilities") or {}, own_user_namespace=own_user_namespace
        )
        self.no_new_privileges = bool(process.get("noNewPrivileges"))
        self.rlimits = [_rlimit(limit) for limit in process.get("rlimits") or ()]
        self.oom_score_adj = process.get("oomScoreAdj")
        self.apparmor = _apparmor(process.get("apparmorProfile") or "")
        self.selinux = _selinux(process.get("selinuxLabel") or "")
        self.seccomp = seccomp_bpf
        self.seccomp_flags = seccomp_flags
        self.terminal = bool(process.get("terminal"))
        self.has_directory = False
        self.io_priority = _io_priority(process)
        self.personality: int | None = None
        self.keyring = keyring if keyring is None else f"_ses.{keyring}".encode() if keyring else b""
        self.listener: Listener | None = None
        self.memory_policy: scheduling.MemoryPolicy | None = None
        self.scheduler: scheduling.Scheduler | None = None
        if process.get("scheduler"):
            from wherry.runtime import scheduling

            self.scheduler = scheduling.Scheduler(process["scheduler"])

    def set_user(self, user: oci.User) -> None:
        """`process.user` of the configuration."""
        self.uid = _id(user.get("uid", 0), "process.user.uid")
        self.gid = _id(user.get("gid", 0), "process.user.gid")
        self.additional_groups = [_id(gid, "process.user.additionalGids") for gid in user.get("additionalGids") or ()]
        self.umask = user.get("umask", _DEFAULT_UMASK)

    def of_container(self, linux: oci.Linux) -> None:
        """What the container gives to each of its processes."""
        self.personality = parse_personality(linux.get("personality"))
        if linux.get("memoryPolicy"):
            from wherry.runtime import scheduling

            self.memory_policy = scheduling.MemoryPolicy(linux["memoryPolicy"])

    def listen(self, section: oci.Seccomp | None, state: dict[str, object]) -> bool:
        """Loads the filter with the flags that its section asks for, and connects to the seccomp agent, where it has one; whether it does.

        `close_listener` is the caller's.
        """
        if self.seccomp is None or not section:
            return False
        if section.get("flags"):
            from wherry.linux import seccomp

            self.seccomp_flags |= seccomp.flags_of(section)
        if all(rule.get("action") != "SCMP_ACT_NOTIFY" for rule in section.get("syscalls") or ()):
            return False
        from wherry.runtime import seccomp_notify

        seccomp_notify.check(section)
        self.listener = seccomp_notify.Listener(section, state)
        self.seccomp_flags |= seccomp_notify.NEW_LISTENER
        return True

    def descriptors(self) -> list[int]:
        """What the child is to keep until it executes its program."""
        return [] if self.listener is None else [self.listener.fileno()]

    def close_listener(self) -> None:
        if self.listener is not None:
            self.listener.close()

    @property
    def keeps_admin_for_seccomp(self) -> bool:
        """Without no_new_privs a filter may be loaded only with CAP_SYS_ADMIN, so that one is kept until it is."""
        return self.seccomp is not None and not self.no_new_privileges


def _environment(words: Sequence[str]) -> list[bytes]:
    """Each variable once, where and as it is given last; an empty HOME is none, so that `add_home` finds one."""
    last: dict[bytes, bytes] = {}
    for word in words:
        encoded = _bytes(word, "process.env")
        name, _, value = encoded.partition(b"=")
        last.pop(name, None)
        if name != b"HOME" or value:
            last[name] = encoded
    return list(last.values())


def _bytes(text: str, field: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if b"\0" in raw:
        raise InvalidArgument(f"{field}: {text!r} holds a NUL byte")
    return raw


def _id(value: int, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_ID:
        raise InvalidArgument(f"{field}: {value!r} is not a user or group id")
    return value


def _rlimit(limit: oci.Rlimit) -> tuple[str, int, int, int]:
    name, soft, hard = limit["type"], limit["soft"], limit["hard"]
    bare = name[7:] if name.startswith("RLIMIT_") else name
    if bare not in _RLIMITS:
        raise InvalidArgument(f"process.rlimits: unknown limit {name!r}")
    if not 0 <= soft <= hard <= 0xFFFFFFFFFFFFFFFF:
        raise InvalidArgument(f"process.rlimits: {name}: soft limit {soft} and hard limit {hard} do not go together")
    return f"RLIMIT_{bare}", _RLIMITS.index(bare), soft, hard


def _apparmor(profile: str) -> str:
    if not profile:
        return ""
    if not os.path.exists("/sys/module/apparmor/parameters/enabled"):
        if profile == "unconfined":
            return ""
        raise FailedPrecondition(
            f"process.apparmorProfile: unable to apply apparmor profile {profile!r}: apparmor: config provided but apparmor not supported"
        )
    return profile


def _selinux(label: str) -> str:
    if label and not os.path.exists("/sys/fs/selinux/enforce"):
        raise FailedPrecondition(
            f"process.selinuxLabel: selinux label {label!r} is specified in config, but selinux is disabled or not supported"
        )
    return label


def _io_priority(process: oci.Process) -> int | None:
    wanted = process.get("ioPriority")
    if not wanted:
        return None
    kind, priority = wanted.get("class", ""), wanted.get("priority", 0)
    if kind not in _IO_CLASSES:
        raise InvalidArgument(f"process.ioPriority.class: {kind!r} is not one of {', '.join(_IO_CLASSES)}")
    if not 0 <= priority <= 7:
        raise InvalidArgument(f"process.ioPriority.priority: {priority} is not between 0 and 7")
    return _IO_CLASSES[kind] << 13 | priority


def parse_personality(wanted: oci.Personality | None) -> int | None:
    """The number for personality(2) of `linux.personality`. NotImplemented for flags, InvalidArgument for an unknown domain."""
    if not wanted:
        return None
    if wanted.get("flags"):
        raise errors.NotImplemented("linux.personality.flags: wherry does not set them")
    if wanted.get("domain") not in _PERSONALITIES:
        raise InvalidArgument(f"linux.personality.domain: {wanted.get('domain')!r} is not LINUX or LINUX32")
    return _PERSONALITIES[wanted["domain"]]


def console_size(process: oci.Process) -> tuple[int, int] | None:
    """(width, height) of `process.consoleSize`."""
    size = process.get("consoleSize")
    return (size["width"], size["height"]) if size else None


# ------------------------------------------------------------------------------------------------- below: in the child


def close_descriptors(keep: list[int], *, first: int = 3) -> None:
    """Closes every descriptor from `first` on but those in `keep`."""
    for fd in sorted(set(keep)):
        if fd < first:
            continue
        syscalls.close_range(first, fd - 1)
        first = fd + 1
    syscalls.close_range(first, 0xFFFFFFFF)


def pass_on(count: int) -> None:
    """Lets `count` descriptors from 3 on stay open across execve. StartError when one of them is not open."""
    for fd in range(3, 3 + count):
        try:
            os.set_inheritable(fd, True)
        except OSError as error:
            raise StartError(
                "stdio", f"descriptor {fd} is to be preserved, but it is not open", error.errno or 0
            ) from None


def install_stdio(fds: tuple[int, int, int]) -> None:
    """Puts `fds` at 0, 1 and 2, whatever numbers they have now."""
    if fds == (0, 1, 2):
        for fd in fds:
            os.set_inheritable(fd, True)
        return
    safe = [
        fd if fd > 2 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds
    ]  # none is overwritten before it was copied
    for number, fd in enumerate(safe):
        os.dup2(fd, number, inheritable=True)


def own_stdio(uid: int) -> None:
    """Gives pipes, sockets and terminals at 0, 1 and 2 to the user, who may then open /dev/stdout again. /dev/null and what refuses are left."""
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
            if status.st_uid != uid and status.st_rdev != os.makedev(1, 3):
                os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF):
                raise SyscallError("fchown", f"descriptor {fd}", error.errno or 0) from None


def set_dumpable(dumpable: int) -> int:
    """0: no process with the same user id may trace this one or look into its /proc/PID (CVE-2016-9962); children inherit it. Returns what it was."""
    before = syscalls.prctl(_PR_GET_DUMPABLE, subject="dumpable")
    syscalls.prctl(_PR_SET_DUMPABLE, dumpable, subject="dumpable")
    return before


def apply_rlimits(plan: Plan, pid: int = 0) -> None:
    for name, resource, soft, hard in plan.rlimits:
        try:
            syscalls.prlimit(pid, resource, soft, hard, name)
        except SyscallError as error:
            raise StartError(
                "rlimits", f"error setting rlimits for {name}: {os.strerror(error.errno).lower()}", error.errno
            ) from None


def set_on_host(plan: Plan, *, limits: bool) -> None:
    """In a helper that is still the host's, for its child to inherit: the OOM score and, where the child's user namespace
    takes away the power to raise them (`limits`), resource limits and priorities.
    """
    if plan.oom_score_adj is not None:
        procfs = Procfs.of_this_machine()
        own = os.geteuid() != 0  # to its user alone, and only while it is dumpable, does the file of a process belong
        before = set_dumpable(1) if own else 0
        try:
            procfs.write("self/oom_score_adj", str(plan.oom_score_adj))
        finally:
            procfs.close()
            if own:
                set_dumpable(before)
    if limits:
        apply_rlimits(plan)
        if plan.scheduler is None or plan.scheduler.is_inherited:
            set_priorities(plan)


def join_session_keyring(plan: Plan, search: int = 0) -> None:
    """A session keyring of its own, so that keys of the host's session are out of reach. A kernel without keys has nothing to protect.

    `search`: permissions that the keyring gets, so that the container's other processes find it by its name (keyctl_setperm(3)).
    """
    if plan.keyring is None:
        return
    try:
        ring = syscalls.keyctl(_KEYCTL_JOIN_SESSION_KEYRING, plan.keyring or None, subject="session keyring")
    except SyscallError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return
    if plan.keyring and search:
        text = syscalls.buffer(256)
        syscalls.keyctl(_KEYCTL_DESCRIBE, ring, text, 256, subject="session keyring")
        permissions = int(text.raw.split(b";")[3], 16)
        syscalls.keyctl(_KEYCTL_SETPERM, ring, permissions | search, subject="session keyring")


def set_no_new_privileges(plan: Plan) -> None:
    if plan.no_new_privileges:
        forbid_new_privileges()


def forbid_new_privileges() -> None:
    """For this process and all that it will fork: no execve gives more privileges (prctl(2))."""
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1, subject="no_new_privs")


def set_label(plan: Plan, procfs: Procfs | None) -> None:
    """The LSM label that counts from execve on, through a verified procfs."""
    if not plan.apparmor and not plan.selinux:
        return
    if procfs is None:
        raise FailedPrecondition("a security label is asked for, but there is no proc file system to set it through")
    if plan.selinux:
        procfs.write("thread-self/attr/exec", plan.selinux)
    if plan.apparmor:
        try:
            procfs.write("thread-self/attr/apparmor/exec", f"exec {plan.apparmor}")
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            procfs.write("thread-self/attr/exec", f"exec {plan.apparmor}")


def set_priorities(plan: Plan, pid: int = 0) -> None:
    """How the process is scheduled; of another process (`pid`) where that one has no power over it: in a user namespace."""
    if plan.scheduler is not None:
        plan.scheduler.apply(pid)
    if plan.io_priority is not None:
        syscalls.ioprio_set(1, pid, plan.io_priority)


def set_personality(plan: Plan) -> None:
    if plan.personality is not None:
        syscalls.personality(plan.personality)
    if plan.memory_policy is not None:
        plan.memory_policy.apply()


def run_on_all_cpus(pid: int = 0) -> None:
    """All CPUs that the cgroup has: those to which somebody has pinned the runtime are not the container's business."""
    try:
        syscalls.sched_setaffinity(pid, _ALL_CPUS)
    except SyscallError:
        pass  # a container runs wherever its runtime does


def drop_privileges(plan: Plan) -> None:
    """Bounding set, groups, ids, then the other sets. CAP_SYS_ADMIN stays until `load_filter` where the filter needs it."""
    capabilities.drop_bounding(plan.caps.bounding)
    syscalls.prctl(_PR_SET_KEEPCAPS, 1, subject="keepcaps")
    syscalls.set_identity(plan.uid, plan.gid, plan.additional_groups)
    syscalls.prctl(_PR_SET_KEEPCAPS, 0, subject="keepcaps")
    os.umask(plan.umask)
    capabilities.apply(plan.caps, extra=capabilities.SYS_ADMIN if plan.keeps_admin_for_seccomp else 0)
    if not plan.keeps_admin_for_seccomp:
        capabilities.apply_ambient(plan.caps.ambient)


def change_directory(plan: Plan, *, as_root: bool = False) -> None:
    """Into the working directory, which must be inside the container's root: a leaked descriptor must not become one (CVE-2024-21626).

    First `as_root`, which may be the only one to reach it; what root cannot reach (a directory on NFS), the user perhaps can.
    """
    if plan.has_directory:
        return
    try:
        os.chdir(plan.cwd)
    except OSError as error:
        if as_root and error.errno in (errno.EACCES, errno.EPERM):
            return
        reason = (error.strerror or "").lower()
        raise StartError(
            "chdir", f'chdir to cwd ("{os.fsdecode(plan.cwd)}") set in config.json failed: {reason}', error.errno or 0
        ) from None
    try:
        inside = os.getcwdb().startswith(b"/")
    except OSError:
        inside = False
    if not inside:
        text = "current working directory is outside of container mount namespace root -- possible container breakout detected"
        raise StartError("chdir", text, errno.EPERM)
    plan.has_directory = True


def set_parent_death_signal(signal: int, channel: _socket.socket) -> None:
    """The signal for when the parent ends; a change of credentials has cleared any earlier one. A parent that is gone already ends us here."""
    if not signal:
        return
    syscalls.set_parent_death_signal(signal)
    poll = select.poll()
    poll.register(channel.fileno(), 0)
    if poll.poll(0):
        os._exit(1)


def add_home(plan: Plan) -> None:
    """HOME from the container's /etc/passwd when the environment has none, "/" for a user that is not listed there."""
    if any(entry.startswith(b"HOME=") for entry in plan.env):
        return
    plan.env.append(b"HOME=" + (_home_of(plan.uid) or b"/"))


def _home_of(uid: int) -> bytes | None:
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if (os.fstat(fd).st_mode & 0o170000) != 0o100000:
            return None
        data = os.read(fd, _PASSWD_LIMIT)
    except OSError:
        return None
    finally:
        os.close(fd)
    wanted = b"%d" % uid
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) >= 6 and fields[2] == wanted:
            return fields[5]
    return None


def find_executable(plan: Plan) -> bytes:
    """The path to execute, found as a shell would in the PATH of the container's environment. StartError "exec" in the words that clients know."""
    name = plan.argv[0]
    if b"/" in name:
        reason = _why_not_executable(name)
        if reason:
            raise _exec_error(name, reason)
        return name
    search = b""
    for entry in plan.env:
        if entry.startswith(b"PATH="):
            search = entry[5:]
    denied = False
    for directory in search.split(b":") if name else ():
        if not directory.startswith(b"/"):
            continue  # a relative directory in PATH would make the working directory a place to run things from
        candidate = directory.rstrip(b"/") + b"/" + name
        reason = _why_not_executable(candidate)
        if not reason:
            return candidate
        denied = denied or reason == errno.EACCES
    shown = os.fsdecode(name)
    if denied:
        raise StartError("exec", f'exec: "{shown}": permission denied', errno.EACCES)
    raise StartError("exec", f'exec: "{shown}": executable file not found in $PATH', errno.ENOENT)


def _why_not_executable(path: bytes) -> int:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.EIO
    if (mode & 0o170000) == 0o040000 or not os.access(path, os.X_OK, effective_ids=True):
        return errno.EACCES
    return 0


def _exec_error(name: bytes, reason: int) -> StartError:
    shown, text = os.fsdecode(name), os.strerror(reason).lower()
    if reason == errno.EACCES:
        return StartError("exec", f'exec: "{shown}": {text}', reason)
    return StartError("exec", f'exec: "{shown}": stat {shown}: {text}', reason)


def load_filter(plan: Plan) -> None:
    """The seccomp filter, as late as can be: after it only capset, prctl and execve are left to do."""
    if plan.seccomp is None:
        return
    fd = syscalls.load_seccomp(plan.seccomp, plan.seccomp_flags)
    if plan.listener is not None:
        plan.listener.hand_over(fd)
    if plan.keeps_admin_for_seccomp:
        capabilities.apply(plan.caps)
        capabilities.apply_ambient(plan.caps.ambient)


_SIGNALS_OF_LIBC = (32, 33)


def reset_signals() -> None:
    """All signals at their default and unblocked: ignored ones (Python ignores SIGPIPE) would stay so across execve."""
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    for number in _SIGNALS_OF_LIBC:  # ignored in what glibc's posix_spawn has started, make's children for one
        syscalls.reset_signal(number)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def end_at_signals() -> None:
    """Until execve the signals that ask a program to end are obeyed, as by runc's init: the kernel spares the first process of a
    pid namespace whatever it has no handler for.
    """
    asking = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
    for number in asking:
        _signal.signal(number, lambda number, _frame: os._exit(128 + number))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, asking)


def execute(plan: Plan, path: bytes) -> None:
    """execve(2). Returns only by raising StartError "exec"."""
    try:
        syscalls.execve(path, plan.argv, plan.env)
    except SyscallError as error:
        raise StartError("exec", f"exec {os.fsdecode(path)}: {os.strerror(error.errno).lower()}", error.errno) from None
