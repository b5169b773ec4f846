"""sd_notify(3) for a service manager that has started us: what the container reports goes on to it.

The container gets a socket of its own, /run/notify/notify.sock, from a directory beside its state. Its READY=1 becomes
ours, together with MAINPID= and a barrier, so that the manager has seen all of it before we end. In the background (run
--detach, start) that is waited for; in the foreground a process of its own passes it on, and what comes after it, as
long as the container runs. Loaded only where NOTIFY_SOCKET is set. Source: sd_notify(3), sd_notify_barrier(3), runc's
behaviour.
"""

from __future__ import annotations

import _socket
import os
import select
import struct

from wherry.errors import InvalidArgument, SyscallError
from wherry.linux import namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.state import State
    from wherry.spec.oci import Config

DIRECTORY = "notify"
_INSIDE = "/run/notify"
_NAME = "notify.sock"
_LIMIT = 4096
_BARRIER_SECONDS = 30
_PASSED_ON = (
    b"STATUS=",
    b"STOPPING=",
    b"RELOADING=",
    b"MONOTONIC_USEC=",
    b"WATCHDOG=1",
    b"EXTEND_TIMEOUT_USEC=",
    b"ERRNO=",
)
"""What a container may say about the service once it is ready. Not its process's number, nor descriptors to keep."""


def prepare(state: State, config: Config) -> None:
    """Makes the directory for the socket, and has `config` show it to the container."""
    directory = f"{state.directory}/{DIRECTORY}"
    os.mkdir(directory, 0o755)
    mount: Any = {
        "destination": _INSIDE, "type": "bind", "source": directory, "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
    }  # fmt: skip
    config["mounts"] = [*config.get("mounts", ()), mount]
    config["process"]["env"] = [*config["process"].get("env", ()), f"NOTIFY_SOCKET={_INSIDE}/{_NAME}"]


class Proxy:
    """The container's socket, and the manager's. Made before the program runs, so that nothing it says is lost."""

    def __init__(self, manager: str, state: State) -> None:
        self._manager = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        place = os.open(f"{state.directory}/{DIRECTORY}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._manager.connect("\0" + manager[1:] if manager.startswith("@") else manager)
            path = f"/proc/self/fd/{place}/{_NAME}"  # shorter than a socket's path may be, whatever --root is
            self._socket.bind(path)
            os.chmod(path, 0o777)
        except OSError as error:
            self.close()
            raise InvalidArgument(f"NOTIFY_SOCKET {manager}: {(error.strerror or str(error)).lower()}") from None
        finally:
            os.close(place)

    def close(self) -> None:
        self._socket.close()
        self._manager.close()

    def wait_until_ready(self, pid: int, pidfd: int) -> None:
        """Returns when the container has said READY=1 and the manager knows, or the process has ended."""
        while True:
            lines = self._receive(pidfd)
            if lines is None:
                return
            ready = [line for line in lines if line.startswith(b"READY=")]
            if ready:
                self._tell(ready[0], pid)
                return

    def follow(self, pid: int, pidfd: int) -> None:
        """Passes on in a process of its own, our child, until the container's has ended. `pid` is told as the service's."""
        child, child_pidfd = namespaces.clone()
        if child:
            os.close(child_pidfd)
            return
        try:
            self.wait_until_ready(pid, pidfd)
            while (lines := self._receive(pidfd)) is not None:
                said = [line for line in lines if line.startswith(_PASSED_ON)]
                if said:
                    self._manager.send(b"\n".join(said))
        finally:
            os._exit(0)

    def _receive(self, pidfd: int) -> list[bytes] | None:
        """The lines of one message; None when the process has ended."""
        poller = select.poll()
        poller.register(self._socket.fileno(), select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        ready = dict(poller.poll())
        if self._socket.fileno() in ready:
            return self._socket.recv(_LIMIT).split(b"\n")
        return None

    def _tell(self, ready: bytes, pid: int) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            self._manager.send(ready + b"\n")
            self._manager.send(b"MAINPID=%d\n" % pid)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", writing))]
            self._manager.sendmsg([b"BARRIER=1"], rights)
            os.close(writing)
            writing = -1
            poller = select.poll()
            poller.register(reading, select.POLLIN)
            poller.poll(_BARRIER_SECONDS * 1000)  # a manager that knows no barriers: it has had its time
        except OSError as error:
            raise SyscallError("send", "NOTIFY_SOCKET", error.errno or 0) from None
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
