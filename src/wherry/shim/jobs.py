"""What workers do: start a container, run one more process in it, pause, resume, update.

Runs in a worker, a fork of the shim. `read_start` and `start` are done by one that is forked before anybody has asked, so that no fork is on
the way of a start; it takes the request from the shim's control connection, which nobody else reads until then. Everything that a start needs
and that the shim does not (the configuration, the mounts, the compiled filter) lives and dies in here.

Answers are JSON for the shim (`Supervisor`), with descriptors: the shim's ends of the standard streams (the terminal's master, or stdout, stderr
and, if open, stdin), then what each job says.
"""

from __future__ import annotations

import os
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
)
from _socket import socket as Socket
from _struct import unpack

from wherry.errors import InvalidArgument, Unavailable
from wherry.linux import memory, syscalls
from wherry.runtime.standby import make as make_standby
from wherry.shim.builtin import BuiltinRuntime, compiled_filter, set_user
from wherry.shim.entry import make_pipes
from wherry.shim.external import ExternalRuntime
from wherry.shim.jsonfile import JsonFileLog
from wherry.wire import fastjson
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from wherry.runtime.standby import Standby
    from wherry.shim.builtin import Started
    from wherry.shim.worker import Tell
    from wherry.spec import oci
    from wherry.wire.shim import LogConfig, Message, StartRequest

    class Runtime(Protocol):
        def start(
            self,
            request: StartRequest,
            stdio: tuple[int, int, int] | None,
            standby: Standby | None,
            meanwhile: Callable[[int], None],
        ) -> Started: ...


_SIGKILL = 9
_NOT_FOR_EXEC = ("resources", "seccomp", "maskedPaths", "readonlyPaths", "devices", "sysctl")
"""Parts of `linux` that a running container needs no more: the shim does not keep them."""


def _agent(linux: Any, external: object) -> dict[str, Any]:
    """The seccomp section where it says more than the filter: flags, and whom each exec, too, has to ask."""
    section = linux.get("seccomp") or {}
    return {"seccomp": section} if (section.get("listenerPath") or section.get("flags")) and not external else {}


def write_file(directory: str, name: str, value: object) -> None:
    """A file of the state directory, whole or not at all."""
    path = f"{directory}/{name}"
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, fastjson.dumps(value))
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)


def open_log(config: LogConfig | None) -> JsonFileLog | None:
    """The container's log. SyscallError naming the file."""
    if config is None or config["driver"] == "none":
        return None
    if config["driver"] != "json-file":
        raise InvalidArgument(f"the shim does not know the log driver {config['driver']!r}")
    return JsonFileLog(
        config["path"], max_size=config.get("max_size"), max_file=config.get("max_file") or 1, attrs=config.get("attrs")
    )


def make_runtime(
    config: Any, container_id: str, state_dir: str, external: wire.RuntimeConfig | None
) -> BuiltinRuntime | ExternalRuntime:
    return ExternalRuntime(config, container_id, state_dir, external) if external else BuiltinRuntime(config)


def read_start(control: Socket) -> tuple[bytes, list[int]]:
    """The first request on the control connection, still encoded, with its descriptors, and not a byte more. Unavailable when the engine has
    gone away.
    """
    header, fds = _read_header(control)
    length = int.from_bytes(header, "big")
    if length > wire.MAX_FRAME:
        raise wire.FrameError(f"a message of {length} bytes is above the limit of {wire.MAX_FRAME}")
    payload = bytearray()
    while len(payload) < length:
        data = control.recv(min(length - len(payload), 1 << 18))
        if not data:
            raise Unavailable("the engine has gone away")
        payload += data
    return bytes(payload), fds


def _read_header(control: Socket) -> tuple[bytes, list[int]]:
    header = b""
    fds: list[int] = []
    while len(header) < 4:
        data, ancillary, _, _ = control.recvmsg(4 - len(header), CMSG_SPACE(wire.MAX_FDS * 4), MSG_CMSG_CLOEXEC)
        if not data:
            raise Unavailable("the engine has gone away")
        header += data
        for level, kind, payload in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds += unpack(f"{len(payload) // 4}i", payload)
    return header, fds


def read_config(payload: bytes) -> tuple[oci.Config, bytes | None]:
    """What a standby needs of a start request: the configuration, empty where it is not for it, and the compiled seccomp filter."""
    request: Any = fastjson.loads(payload)
    if request.get("op") != "start" or request.get("runtime"):
        return {}, None
    config = request["config"]
    if request.get("netns_fd") is not None:
        for namespace in (config.get("linux") or {}).get("namespaces") or ():
            if namespace["type"] == "network":
                namespace["path"] = "sent along"
    return config, compiled_filter(request)


def start_ahead(control: Socket, tell: Tell) -> tuple[Message, list[int]]:
    """`start`, for a worker that has time until the request comes. It ends with its shim as long as it waits: the engine sees at once that this
    one is of no use any more.
    """
    syscalls.set_parent_death_signal(_SIGKILL)
    standby = make_standby(read_config)
    memory.copy_ahead()
    return start(control, tell, standby=standby)


def start(
    control: Socket, tell: Tell, runtime: Runtime | None = None, standby: Standby | None = None
) -> tuple[Message, list[int]]:
    """Waits for the request and carries it out, with `runtime` if given, else by the one that the request names. The answer has its "id" and,
    of a failure, the "error"; of a success "ok", unless `tell` was told before: the container, with the descriptors of its streams, the
    listening socket, the clients.
    """
    payload, fds = read_start(control)
    syscalls.set_parent_death_signal(0)  # what is begun is undone by who has begun it
    if standby is not None:
        standby.announce(payload)
    decoder = wire.Decoder()
    decoder.receive(wire.frame(payload), fds)
    frame = decoder.next_frame()
    assert frame is not None
    message, fds = frame
    answer: Message = {"id": message.get("id")}
    try:
        if message.get("op") != "start":
            raise InvalidArgument(f"a shim begins with start, not {message.get('op')!r}")
        spec: StartRequest = message  # type: ignore[assignment]
        answer["ok"], result = _start(spec, fds, tell, runtime, standby)
    except Exception as error:
        if standby is not None:
            standby.dismiss()
        answer["error"] = wire.error_to_message(error)
        result = []
    return answer, result


def _start(
    spec: StartRequest, fds: list[int], tell: Tell, runtime: Runtime | None, standby: Standby | None
) -> tuple[Message | None, list[int]]:
    config, state_dir, external = spec["config"], spec["state_dir"], spec.get("runtime")
    linux = config.get("linux") or {}
    namespaces = linux.get("namespaces") or []
    netns = spec.get("netns_fd")
    for namespace in namespaces:
        if namespace["type"] == "network" and netns is not None:
            namespace["path"] = f"/proc/{os.getpid()}/fd/{fds[netns]}"
    process = config["process"]
    # The shim is protected from the kernel's out-of-memory killer; the container is not, unless it was asked for.
    oom_score_adj = process.setdefault("oomScoreAdj", 0)
    log = open_log(spec.get("log"))
    if log is not None:
        log.close()  # the shim opens it again: a file that cannot be opened is to be known before anything runs
    state = {
        "cgroup": linux.get("cgroupsPath", ""),
        "shim": os.getppid(),
        "runtime": external,
        "note": spec.get("note"),
    }
    stdin, terminal = spec["stdio"]["stdin"], bool(process.get("terminal"))
    ends, streams = (None, []) if terminal else make_pipes(stdin=stdin)
    clients = spec.get("attach") or []
    made = {
        "pid": 0,
        "container": spec["container"],
        "state_dir": state_dir,
        "cgroup": linux.get("cgroupsPath", ""),
        "own_pid_namespace": any(entry["type"] == "pid" and not entry.get("path") for entry in namespaces),
        "oom_score_adj": oom_score_adj,
        "runtime": external,
        "linux": {key: value for key, value in linux.items() if key not in _NOT_FOR_EXEC} | _agent(linux, external),
        "terminal": terminal,
        "stdin": stdin,
        "stdin_once": spec["stdio"]["stdin_once"],
        "log": spec.get("log"),
        "attach": clients,
        "streams": 1 if terminal else len(streams),
    }
    listener: Socket | None = None

    def record(pid: int) -> None:
        """Writes down what an engine that comes later needs, and lets the shim get ready where it is known what it gets."""
        nonlocal listener
        write_file(state_dir, "shim.json", state)
        listener = _listen(state_dir)
        if pid and not terminal:
            made["pid"] = pid
            tell(made, [*streams, listener.fileno(), *(fds[client["fd"]] for client in clients)])

    try:
        runner = runtime or make_runtime(config, spec["container"], state_dir, external)
        started = runner.start(spec, ends, standby, record)
    except BaseException:
        if listener is not None:
            os.unlink(f"{state_dir}/shim.sock")
        raise
    assert listener is not None
    if made["pid"]:
        return None, []
    made["pid"] = started.pid
    if started.console is not None:
        streams = [started.console]
    return made, [*streams, listener.detach(), *(fds[client["fd"]] for client in clients)]


def execute(runtime: ExternalRuntime, init_pid: int, request: Message, oom_score_adj: int) -> tuple[Message, list[int]]:
    """One more process by another runtime. Descriptors: streams."""
    process = request["process"]
    prepare_exec(init_pid, request, oom_score_adj)
    stdin, terminal = request["stdio"]["stdin"], bool(process.get("terminal"))
    ends, streams = (None, []) if terminal else make_pipes(stdin=stdin)
    started = runtime.exec(process, ends)
    if started.console is not None:
        streams = [started.console]
    return {"pid": started.pid, "terminal": terminal, "stdin": stdin}, streams


def enter(
    runtime: BuiltinRuntime, init_pid: int, request: Message, oom_score_adj: int, channel: Socket, stdio: tuple[int, int, int] | None, *, born: bool
) -> None:  # fmt: skip
    """One more process by our own runtime: the part of `entry.Entry` that is done in the fork. `born`: in the container's cgroup."""
    prepare_exec(init_pid, request, oom_score_adj)
    runtime.enter_and_exec(request["process"], stdio, compiled_filter(request), channel, born=born)


def prepare_exec(init_pid: int, request: Message, oom_score_adj: int) -> None:
    """Completes the description of the process with what is known of the container."""
    process = request["process"]
    if user := request.get("user"):
        root = os.open(f"/proc/{init_pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            set_user(root, process, user)
        finally:
            os.close(root)
    process.setdefault("oomScoreAdj", oom_score_adj)


def _listen(state_dir: str) -> Socket:
    """shim.sock, bound through a descriptor of the directory, whose path may be longer than an address can be."""
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(f"/proc/self/fd/{directory}/shim.sock")
    finally:
        os.umask(before)
        os.close(directory)
    listener.listen(16)
    return listener
