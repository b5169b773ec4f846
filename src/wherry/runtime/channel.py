"""The socket between a runtime and the child that becomes a container: one message per datagram, no framing.

    child → parent   READY        everything is set up; I wait for GO before I execute the program   (only when held)
                     HOOKS        namespaces and mounts are there; run your hooks, then GO
                     IDS          number of a mount, and its source as a detached mount: give it its id mappings, then GO
                     CONSOLE      the terminal's master, attached
                     EXEC         the next thing is execve
                     FAILED       step, errno, text: nothing runs
                     (closed)     after EXEC: the program runs. Without: the child died
    parent → child   GO
                     PID          your pid as I see it   (only to a child that hands out a seccomp listener)

Both ends are CLOEXEC, so a successful execve closes the child's. A pure framing of bytes plus two socket calls; no
state is kept here.
"""

from __future__ import annotations

import _socket
import os
import struct

from wherry.errors import StartError

READY, HOOKS, IDS, CONSOLE, EXEC, FAILED, GO, PID = b"R", b"H", b"I", b"C", b"X", b"F", b"G", b"P"
LIMIT = 1 << 16
"""Bytes of one message."""
MAX_FDS = 253


def pair() -> tuple[_socket.socket, _socket.socket]:
    """(parent's end, child's end)."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def send(channel: _socket.socket, message: bytes, fd: int | None = None) -> None:
    """Sends one message, with a descriptor if given. A parent that is gone is BrokenPipeError, never SIGPIPE."""
    send_all(channel, message, [] if fd is None else [fd])


def receive(channel: _socket.socket) -> tuple[bytes, int | None]:
    """The next (message, descriptor); (b"", None) when the other side has closed."""
    try:
        data, ancillary, _, _ = channel.recvmsg(LIMIT, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # it has closed before it had read everything; what it has said is there all the same
        data, ancillary, _, _ = channel.recvmsg(LIMIT, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(payload) >= 4:
            return data, int(struct.unpack_from("i", payload)[0])
    return data, None


def send_all(channel: _socket.socket, message: bytes, fds: list[int]) -> None:
    """As `send`, with many descriptors; the kernel takes 253 (SCM_MAX_FD)."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    channel.sendmsg([message], rights, _socket.MSG_NOSIGNAL)


def receive_all(channel: _socket.socket) -> tuple[bytes, list[int]]:
    """The next (message, descriptors); (b"", []) when the other side has closed."""
    data, ancillary, _, _ = channel.recvmsg(LIMIT, _socket.CMSG_SPACE(MAX_FDS * 4), _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(payload) // 4}i", payload)
    return data, fds


def ask_for_senders(channel: _socket.socket) -> None:
    """From now on `receive_from` learns from the kernel which process has sent a message."""
    channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)


def receive_from(channel: _socket.socket) -> tuple[bytes, int | None, int]:
    """The next (message, descriptor, sender's pid as we see it); (b"", None, 0) when the other side has closed."""
    room = _socket.CMSG_SPACE(4) + _socket.CMSG_SPACE(12)
    data, ancillary, _, _ = channel.recvmsg(LIMIT, room, _socket.MSG_CMSG_CLOEXEC)
    fd, pid = None, 0
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(payload) >= 4:
            fd = int(struct.unpack_from("i", payload)[0])
        elif level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS:
            pid = int(struct.unpack_from("i", payload)[0])
    return data, fd, pid


def wait_for_go(channel: _socket.socket) -> None:
    """Blocks the child until the parent says GO. A parent that died instead ends the child: there is nobody to run for."""
    message, _ = receive(channel)
    if message != GO:
        os._exit(1)


def failure(error: StartError) -> bytes:
    """FAILED as bytes, cut to what a datagram takes."""
    step = error.step.encode()
    return (
        FAILED
        + struct.pack("iB", error.errno, len(step))
        + step
        + error.message.encode("utf-8", "surrogateescape")[: LIMIT - 512]
    )


def read_failure(message: bytes) -> StartError:
    """The error that `failure` has encoded."""
    number, length = struct.unpack_from("iB", message, 1)
    step = message[6 : 6 + length].decode()
    return StartError(step, message[6 + length :].decode("utf-8", "surrogateescape"), number)
