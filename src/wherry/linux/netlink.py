"""Netlink: the codec of its messages and attributes, and a blocking socket for requests to the kernel.

Runs in any process; a socket belongs for ever to the network namespace in which its thread opened it. `rtnetlink` (links, addresses, routes) and
`conntrack` are built on it. Sources: netlink(7), `include/uapi/linux/netlink.h`.

**Invariants**: an attribute's or message's length that does not fit its field is an error and never wraps around (CVE-2021-43784); what is received
is checked the same way, and only answers of the kernel to our own sequence number count. One socket serves one thread at a time.

Deliberately absent: asynchronous use, generic netlink families, typed views of every attribute the kernel knows.
"""

from __future__ import annotations

import _socket
import errno
import struct

from wherry.errors import DataLoss, InvalidArgument, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_MULTI, NLM_F_DUMP_INTR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x2, 0x10, 0x100, 0x200
NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4
NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF
NLMSGERR_ATTR_MSG = 1

ROUTE, NETFILTER = 0, 12
"""Protocols (NETLINK_ROUTE, NETLINK_NETFILTER)."""
_AF_NETLINK = 16
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NOTHING_YET = (errno.EAGAIN, errno.EWOULDBLOCK)
_MESSAGE_LIMIT = 1 << 20
"""No request of ours comes near it; a longer one is a defect or an attack, not a wish."""


class NetlinkError(SyscallError):
    """The kernel refused a request. `detail` is its own explanation (extended acknowledgement), "" where it gave none."""

    def __init__(self, call: str, subject: str, errno: int, detail: str = "") -> None:
        super().__init__(call, subject, errno)
        self.detail = detail

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} ({self.detail})" if self.detail else text


def attribute(kind: int, value: bytes | int | str = b"") -> bytes:
    """One padded attribute: bytes as they are, an int as native u32, text with its final NUL. InvalidArgument when it is too long."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape") + b"\0"
    length = _ATTRIBUTE.size + len(value)
    if length > 0xFFFF:
        raise InvalidArgument(f"netlink attribute {kind & _NLA_TYPE_MASK} of {len(value)} bytes is too long")
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message with its header. InvalidArgument when it is too long."""
    length = _HEADER.size + len(body)
    if length > _MESSAGE_LIMIT:
        raise InvalidArgument(f"netlink message of {length} bytes is too long")
    return _HEADER.pack(length, kind, flags, sequence, 0) + body + b"\0" * (-length % 4)


def split_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence, body) of each message of one datagram. DataLoss when a length is impossible."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise DataLoss(f"netlink: {len(data) - offset} bytes where a message header should be")
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= len(data) - offset:
            raise DataLoss(f"netlink: a message claims {length} of {len(data) - offset} bytes")
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + (-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by type, without flags; the last of a repeated type counts. DataLoss when a length is impossible."""
    found: dict[int, bytes] = {}
    offset = 0
    while len(data) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            raise DataLoss(f"netlink: an attribute claims {length} of {len(data) - offset} bytes")
        found[kind & _NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + (-length % 4)
    return found


def text(value: bytes) -> str:
    """An attribute's text, without the final NUL."""
    return value.partition(b"\0")[0].decode("utf-8", "replace")


class NetlinkSocket:
    """A socket of the calling thread's network namespace. Use it with `with`, or close it. SyscallError when it cannot be opened."""

    def __init__(self, protocol: int = ROUTE, groups: Sequence[int] = ()) -> None:
        try:
            self._socket = _socket.socket(_AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise SyscallError("socket", f"AF_NETLINK protocol {protocol}", error.errno or 0) from None
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK):
                self._try_option(option)
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            self._socket.close()
            raise SyscallError("bind", f"AF_NETLINK protocol {protocol}", error.errno or 0) from None

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def request(self, kind: int, flags: int, body: bytes, *, subject: str) -> list[bytes]:
        """Sends one request and waits for its acknowledgement; the bodies of the answers that came before it.

        `subject` names the object in errors. NetlinkError when the kernel refuses.
        """
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        try:
            self._socket.send(message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, sequence, body))
        except OSError as error:
            raise SyscallError("send", f"netlink request for {subject}", error.errno or 0) from None
        answers: list[bytes] = []
        while True:
            for answer, answer_flags, answer_sequence, answer_body in split_messages(self._receive()):
                if answer_sequence != sequence:
                    continue  # the rest of an exchange that an exception cut short
                if answer == NLMSG_ERROR:
                    _check_error(answer_body, answer_flags, subject)
                    return answers
                if answer == NLMSG_DONE:
                    _check_done(answer_body, subject)
                    return answers
                answers.append(answer_body)

    def dump(self, kind: int, body: bytes, *, subject: str) -> list[bytes]:
        """All objects of a kind, as far as `body` does not narrow them."""
        return self.request(kind, NLM_F_DUMP, body, subject=subject)

    def receive_events(self) -> list[tuple[int, bytes]]:
        """(type, body) of one datagram of the groups joined; nothing when none has come. SyscallError (ENOBUFS) when some were lost."""
        self._socket.setblocking(False)
        try:
            data = self._receive()
        except SyscallError as error:
            if error.errno in _NOTHING_YET:
                return []
            raise
        finally:
            self._socket.setblocking(True)
        return [(kind, body) for kind, _flags, _sequence, body in split_messages(data)]

    def _receive(self) -> bytes:
        """One whole datagram from the kernel."""
        while True:
            try:
                size = self._socket.recv_into(bytearray(1), 0, _socket.MSG_PEEK | _socket.MSG_TRUNC)
                data, (port, _groups) = self._socket.recvfrom(max(size, 1))
            except OSError as error:
                raise SyscallError("recv", "netlink socket", error.errno or 0) from None
            if port == 0:  # anybody on the machine may send to a netlink socket; only the kernel is port 0
                return data

    def _try_option(self, option: int) -> None:
        try:
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except OSError:
            pass  # an older kernel: the answers are terser, and no less right


def _check_error(body: bytes, flags: int, subject: str) -> None:
    if len(body) < 4 + _HEADER.size:
        raise DataLoss("netlink: an acknowledgement is too short")
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return
    detail = ""
    if flags & NLM_F_ACK_TLVS:
        echoed = _HEADER.size
        if not flags & NLM_F_CAPPED:
            (echoed,) = struct.unpack_from("=I", body, 4)
        if echoed <= len(body) - 4:
            detail = text(attributes(body[4 + echoed + (-echoed % 4) :]).get(NLMSGERR_ATTR_MSG, b""))
    raise NetlinkError("netlink", subject, -code, detail)


def _check_done(body: bytes, subject: str) -> None:
    """A dump may end with an error instead of an acknowledgement."""
    if len(body) >= 4:
        (code,) = struct.unpack_from("=i", body)
        if code < 0:
            detail = text(attributes(body[4:]).get(NLMSGERR_ATTR_MSG, b""))
            raise NetlinkError("netlink", subject, -code, detail)
