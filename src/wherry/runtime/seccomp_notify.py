"""The seccomp notify listener: who is asked about system calls with the action SCMP_ACT_NOTIFY.

The parent connects to the agent's socket before there is a container; the child that becomes the program loads the
filter, gets the listener's descriptor from the kernel, and hands it to the agent itself, so that nobody else need be
alive then (create and start are different processes). The message is the OCI container process state (config-linux.md
"The Container Process State"), the descriptor goes with it. Loaded only where a filter notifies.

**Invariant:** sendmsg(2) is the one system call between the filter and the agent's having the descriptor; a filter that
notifies about it could never be answered, and is refused.
"""

from __future__ import annotations

import _socket
import os
import struct

from wherry.errors import InvalidArgument, StartError
from wherry.runtime import channel as messages
from wherry.runtime import interrupts
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.spec import oci

NEW_LISTENER = 8
"""SECCOMP_FILTER_FLAG_NEW_LISTENER, seccomp(2)."""
_NOTIFY = "SCMP_ACT_NOTIFY"


def check(section: oci.Seccomp) -> None:
    """InvalidArgument for a section with SCMP_ACT_NOTIFY that nobody could answer."""
    if section.get("defaultAction") == _NOTIFY:
        raise InvalidArgument("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")
    rules = [rule for rule in section.get("syscalls") or () if rule.get("action") == _NOTIFY]
    if any("sendmsg" in (rule.get("names") or ()) for rule in rules):
        raise InvalidArgument("linux.seccomp.syscalls: SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall")
    if not section.get("listenerPath"):
        raise InvalidArgument("linux.seccomp.listenerPath: it is not set, and SCMP_ACT_NOTIFY is used")


class Listener:
    """The connection to an agent, for one process. `state`: the container's, as hooks get it, without pid."""

    __slots__ = ("_metadata", "_pid", "_socket", "_state")

    def __init__(self, section: oci.Seccomp, state: dict[str, object]) -> None:
        path = section["listenerPath"]
        self._metadata = section.get("listenerMetadata") or ""
        self._state = state
        self._pid = 0
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            with interrupts.waiting:
                self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            reason = (error.strerror or str(error)).lower()
            raise StartError(
                "seccomp", f"failed to connect with seccomp agent specified in the seccomp profile: {path}: {reason}", error.errno or 0
            ) from None  # fmt: skip

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def learn_pid(self, source: _socket.socket) -> None:
        """In the child: its pid as the host sees it, told by whoever has made it."""
        message, _ = messages.receive(source)
        if message[:1] != messages.PID:
            os._exit(1)  # the parent is gone
        self._pid = int(message[1:])

    def hand_over(self, fd: int) -> None:
        """In the child, under the filter: sends the listener `fd` with the process's state."""
        state = dict(self._state)
        state.setdefault("pid", self._pid)
        document = {"ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": self._pid, "state": state}
        if self._metadata:
            document["metadata"] = self._metadata
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))]
        try:
            self._socket.sendmsg([fastjson.dumps(document)], rights, _socket.MSG_NOSIGNAL)
        except OSError as error:
            raise StartError("seccomp", f"the seccomp agent does not take the listener: {error.strerror}", 0) from None
