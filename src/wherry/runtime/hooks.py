"""OCI hooks: programs of the host's that are told about a container at six moments.

    prestart, createRuntime   the runtime, once namespaces and mounts are there, before pivot_root (runtime's own namespaces)
    createContainer           the container's init, same moment (container's namespaces, host's root)
    startContainer            the container's init, before the program (container's root)
    poststart                 the runtime, after the program has started
    poststop                  the runtime, after the container is deleted

Each gets the container's state as JSON on its standard input and its own environment only. Source: OCI config.md
"POSIX-platform Hooks". A hook that fails ends the start; after a poststart hook that fails the caller ends the
container, and the failure of a poststop hook it reports and goes on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
import time

from wherry.errors import InvalidArgument, StartError, SyscallError
from wherry.linux import namespaces, syscalls
from wherry.runtime import interrupts, process
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec import oci

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_OUTPUT_LIMIT = 4096


class Hook:
    """One program, encoded before the fork."""

    __slots__ = ("argv", "env", "kind", "path", "timeout")

    def __init__(self, kind: str, hook: oci.Hook) -> None:
        path = hook.get("path", "")
        if not path.startswith("/"):
            raise InvalidArgument(f"hooks.{kind}: path {path!r} is not absolute")
        self.kind = kind
        self.path = syscalls.path_bytes(path)
        self.argv = [syscalls.path_bytes(word) for word in hook.get("args") or [path]]
        self.env = [syscalls.path_bytes(word) for word in hook.get("env") or ()]
        self.timeout = hook.get("timeout")
        if self.timeout is not None and self.timeout <= 0:
            raise InvalidArgument(f"hooks.{kind}: timeout {self.timeout} is not positive")


def parse(hooks: oci.Hooks) -> dict[str, list[Hook]]:
    """All hooks by kind. InvalidArgument for an unknown kind or a relative path."""
    for kind in hooks:
        if kind not in KINDS:
            raise InvalidArgument(f"hooks.{kind}: unknown")
    return {kind: [Hook(kind, hook) for hook in hooks.get(kind) or ()] for kind in KINDS}  # type: ignore[attr-defined]


def state(config: oci.Config, container_id: str, status: str, pid: int, bundle: str) -> bytes:
    """The container's state as hooks get it: OCI runtime.md "State"."""
    return fastjson.dumps(state_document(config, container_id, status, pid, bundle))


def state_document(config: oci.Config, container_id: str, status: str, pid: int, bundle: str) -> dict[str, object]:
    """The state, not yet as JSON. Without `pid` (0) the field is left out."""
    document: dict[str, object] = {
        "ociVersion": config.get("ociVersion", "1.0.2"),
        "id": container_id,
        "status": status,
        "bundle": bundle,
    }
    if pid:
        document["pid"] = pid
    if annotations := config.get("annotations"):
        document["annotations"] = annotations
    return document


def run(hooks: list[Hook], state_json: bytes, directory: str = "") -> None:
    """Runs the hooks one after the other, in `directory` if there is one: the bundle, as runc. StartError "hooks" naming the first that fails,
    with the end of what it has written to stderr.
    """
    for number, hook in enumerate(hooks):
        _run(hook, number, state_json, directory)


def _run(hook: Hook, number: int, state_json: bytes, directory: str) -> None:
    what = f"error running {hook.kind} hook #{number}"
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
    try:
        pid, pidfd = namespaces.clone()
        if pid == 0:
            _become(hook, directory, stdin_read, stderr_write)
        os.close(stdin_read)
        os.close(stderr_write)
        stdin_read = stderr_write = -1
        try:
            feeding, stdin_write = stdin_write, -1
            output = _feed(state_json, feeding, stderr_read, pidfd, hook.timeout)
            if output is None:
                namespaces.send_signal(pidfd, 9)
            _, status = os.waitpid(pid, 0)
        except KeyboardInterrupt:
            namespaces.send_signal(pidfd, 9)
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(pidfd)
    finally:
        for fd in (stdin_read, stdin_write, stderr_read, stderr_write):
            if fd >= 0:
                os.close(fd)
    if output is None:
        raise StartError("hooks", f"{what}: {os.fsdecode(hook.path)}: no end after {hook.timeout} s, killed", 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        text = f", stderr: {output.decode('utf-8', 'replace').strip()}" if output else ""
        how = f"exit status {code}" if code > 0 else f"signal: {(_signal.strsignal(-code) or str(-code)).lower()}"
        raise StartError("hooks", f"{what}: {how}{text}", 0)


def _become(hook: Hook, directory: str, stdin: int, stderr: int) -> None:
    try:
        if directory:
            try:
                os.chdir(directory)
            except OSError:
                pass  # deleted since the container was made
        null = os.open("/dev/null", os.O_WRONLY)
        process.install_stdio((stdin, null, stderr))
        process.close_descriptors([])
        process.reset_signals()
        syscalls.execve(hook.path, hook.argv, hook.env)
    except SyscallError as error:
        os.write(2, str(error).encode("utf-8", "replace"))
    finally:
        os._exit(127)


def _feed(data: bytes, stdin: int, stderr: int, pidfd: int, timeout: int | None) -> bytes | None:
    """Writes the state, collects the end of stderr until the hook has ended; None when the time is over first. Closes `stdin`."""
    os.set_blocking(stdin, False)
    os.set_blocking(stderr, False)
    poll = select.poll()
    poll.register(stdin, select.POLLOUT)
    poll.register(stderr, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    output, ended = b"", False
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        while not ended:
            left = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
            with interrupts.waiting:
                ready = poll.poll(left)
            if not ready:
                return None
            for fd, _ in ready:
                if fd == stdin and stdin >= 0:
                    try:
                        data = data[os.write(stdin, data) :]
                    except BrokenPipeError:
                        data = b""
                    if not data:
                        poll.unregister(stdin)
                        os.close(stdin)
                        stdin = -1
                elif fd == stderr:
                    chunk = _read(stderr)
                    if not chunk:
                        poll.unregister(stderr)
                    output = (output + chunk)[-_OUTPUT_LIMIT:]
                elif fd == pidfd:
                    ended = True
        while chunk := _read(stderr):
            output = (output + chunk)[-_OUTPUT_LIMIT:]
        return output
    finally:
        if stdin >= 0:
            os.close(stdin)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""
