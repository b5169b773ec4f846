"""D-Bus, as much of it as talking to systemd takes: the wire format, and a blocking connection over a unix socket.

Runs in `wherry-runc`, loaded only with --systemd-cgroup. `pack` and `unpack` are pure. A connection authenticates as the
process's own user (EXTERNAL); to a bus it then says Hello, to a peer such as systemd's private socket it does not.
**Invariants:** what is received is bounded (a message by `LIMIT`, its arrays by what the specification allows) and a
length that does not fit is DataLoss; every wait has an end. Absent: serving objects, descriptors in messages, other
transports and authentications. Source: the D-Bus specification, "Type System", "Message Protocol", "Authentication".
"""

from __future__ import annotations

import _socket
import os
import struct
import time

from wherry.errors import DataLoss, DeadlineExceeded, InvalidArgument, Unavailable, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LIMIT = 16 << 20
HEAD = 16
"""So many bytes say how long a message is."""
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
_ALIGN = {
    "y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1,
}  # fmt: skip
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, _SIGNATURE = range(1, 9)
_FIELD_TYPES = {PATH: "o", REPLY_SERIAL: "u", _SIGNATURE: "g"}  # all others are strings
_HEADER = struct.Struct("<cBBBII")
_DEPTH = 32


class DbusError(WherryError):
    """The other side answered with an error. `name` is D-Bus's ("org.freedesktop.systemd1.UnitExists")."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{message} ({name})" if message else name)
        self.name = name


class Variant:
    """A value that brings its type along."""

    __slots__ = ("signature", "value")

    def __init__(self, signature: str, value: Any) -> None:
        self.signature = signature
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Variant) and (self.signature, self.value) == (other.signature, other.value)

    def __hash__(self) -> int:
        return hash(self.signature)

    def __repr__(self) -> str:
        return f"Variant({self.signature!r}, {self.value!r})"


# ------------------------------------------------------------------------------------------------------------- the codec


def split(signature: str) -> list[str]:
    """The complete types that a signature strings together. InvalidArgument for one that is malformed."""
    found = []
    at = 0
    while at < len(signature):
        end = _complete(signature, at, 0)
        found.append(signature[at:end])
        at = end
    return found


def _complete(signature: str, at: int, depth: int) -> int:
    """Where the complete type at `at` ends."""
    if depth > _DEPTH or at >= len(signature) or signature[at] not in _ALIGN:
        raise InvalidArgument(f"D-Bus: {signature!r} is not a signature")
    kind = signature[at]
    if kind == "a":
        return _complete(signature, at + 1, depth + 1)
    if kind not in "({":
        return at + 1
    at += 1
    close = ")" if kind == "(" else "}"
    while signature[at : at + 1] != close:
        at = _complete(signature, at, depth + 1)
    return at + 1


def pack(signature: str, values: tuple[Any, ...]) -> bytes:
    """The values, one for each complete type of the signature, little-endian."""
    out = bytearray()
    kinds = split(signature)
    if len(kinds) != len(values):
        raise InvalidArgument(f"D-Bus: {len(values)} values for the signature {signature!r}")
    for kind, value in zip(kinds, values, strict=True):
        _put(out, kind, value)
    return bytes(out)


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _put(out: bytearray, kind: str, value: Any) -> None:
    first = kind[0]
    _pad(out, _ALIGN[first])
    if first in _FIXED:
        try:
            out += struct.pack(f"<{_FIXED[first]}", value)
        except struct.error:
            raise InvalidArgument(f"D-Bus: {value!r} is no value of type {first}") from None
    elif first in "so":
        raw = value.encode("utf-8", "surrogateescape")
        out += struct.pack("<I", len(raw)) + raw + b"\0"
    elif first == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif first == "v":
        _put(out, "g", value.signature)
        _put(out, value.signature, value.value)
    elif first == "a":
        place = len(out)
        out += bytes(4)
        _pad(out, _ALIGN[kind[1]])
        start = len(out)
        if kind[1] == "y":
            out += bytes(value)
        else:
            for item in value.items() if kind[1] == "{" else value:
                _put(out, kind[1:], item)
        out[place : place + 4] = struct.pack("<I", len(out) - start)
    else:
        for inner, item in zip(split(kind[1:-1]), value, strict=True):
            _put(out, inner, item)


class _Reader:
    """A cursor over one message's body. DataLoss where its lengths lead out of it."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise DataLoss("D-Bus: a message ends too early")
        self.at += count
        return part

    def get(self, kind: str, depth: int = 0) -> Any:
        if depth > 2 * _DEPTH:
            raise DataLoss("D-Bus: a message is nested too deeply")
        first = kind[0]
        self.take(-self.at % _ALIGN[first])
        if first in _FIXED:
            (value,) = struct.unpack(f"{self.order}{_FIXED[first]}", self.take(struct.calcsize(f"<{_FIXED[first]}")))
            return bool(value) if first == "b" else value
        if first in "sog":
            length = self.get("y") if first == "g" else self.get("u")
            return self.take(length + 1)[:-1].decode("utf-8", "surrogateescape")
        if first == "v":
            signature = self.get("g")
            return Variant(signature, self.get(_one(signature), depth + 1))
        if first == "a":
            return self._array(kind[1:], depth)
        return tuple(self.get(inner, depth + 1) for inner in split(kind[1:-1]))

    def _array(self, kind: str, depth: int) -> Any:
        length = self.get("u")
        self.take(-self.at % _ALIGN[kind[0]])
        end = self.at + length
        if end > len(self.data):
            raise DataLoss("D-Bus: an array is longer than its message")
        if kind == "y":
            return self.take(length)
        items = []
        while self.at < end:
            items.append(self.get(kind, depth + 1))
        return dict(items) if kind[0] == "{" else items


def _one(signature: str) -> str:
    try:
        (kind,) = split(signature)
    except (InvalidArgument, ValueError):
        raise DataLoss(f"D-Bus: {signature!r} is not one type") from None
    return kind


def unpack(signature: str, data: bytes, order: str = "<") -> list[Any]:
    """The values in `data`. Arrays are lists (of bytes: bytes), structures tuples, variants Variant, dictionaries dict."""
    reader = _Reader(data, order)
    try:
        return [reader.get(kind) for kind in split(signature)]
    except InvalidArgument:
        raise DataLoss(f"D-Bus: {signature!r} is not a signature") from None


class Message:
    """A message as it came: its type, serial number, header fields by number, and body."""

    __slots__ = ("body", "fields", "kind", "serial")

    def __init__(self, kind: int, serial: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.serial = serial
        self.fields = fields
        self.body = body

    def is_signal(self, interface: str, member: str) -> bool:
        return self.kind == SIGNAL and (self.fields.get(INTERFACE), self.fields.get(MEMBER)) == (interface, member)


def encode(kind: int, serial: int, fields: dict[int, Any], signature: str = "", values: tuple[Any, ...] = ()) -> bytes:
    """A whole message. `fields` by their numbers; the signature's is added."""
    body = pack(signature, values)
    if signature:
        fields = {**fields, _SIGNATURE: signature}
    listed = [(number, Variant(_FIELD_TYPES.get(number, "s"), value)) for number, value in fields.items()]
    out = bytearray(_HEADER.pack(b"l", kind, 0, 1, len(body), serial))
    _put(out, "a(yv)", listed)
    _pad(out, 8)
    return bytes(out) + body


def _lengths(head: bytes) -> tuple[str, int, int]:
    """(byte order, length of the header with its padding, length of the body)."""
    order = "<" if head[:1] == b"l" else ">"
    body, _serial, fields = struct.unpack(f"{order}III", head[4:HEAD])
    if head[:1] not in (b"l", b"B") or head[3] != 1 or max(body, fields) > LIMIT:
        raise DataLoss("D-Bus: not a message")
    return order, HEAD + fields + -fields % 8, body


def size(head: bytes) -> int:
    """How long the message is that begins with these `HEAD` bytes. DataLoss when it is none, or above the limit."""
    _, header, body = _lengths(head)
    return header + body


def decode(data: bytes) -> Message:
    """A whole message. DataLoss when it is malformed."""
    order, header, body = _lengths(data)
    reader = _Reader(data[:header], order)
    reader.at = 12
    fields = {number: variant.value for number, variant in reader.get("a(yv)")}
    signature = fields.get(_SIGNATURE, "")
    if not isinstance(signature, str):
        raise DataLoss("D-Bus: not a message")
    serial = struct.unpack(f"{order}I", data[8:12])[0]
    return Message(data[1], serial, fields, unpack(signature, data[header : header + body], order))


# ------------------------------------------------------------------------------------------------------- the connection


class Connection:
    """Use it with `with`, or close it. Unavailable when nobody listens or the other side hangs up; one thread at a time."""

    def __init__(self, path: str, *, bus: bool, uid: int | None = None, seconds: float = 30.0) -> None:
        """`path` of the socket, "@name" for an abstract one; `bus`: there is a bus daemon, which wants a Hello."""
        self._where = path
        self._seconds = seconds
        self._serial = 0
        self._received = bytearray()
        self._kept: list[Message] = []
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(seconds)
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
            self._authenticate(os.geteuid() if uid is None else uid)
            if bus:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except OSError as error:
            self._socket.close()
            raise self._gone(error) from None
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _gone(self, error: OSError) -> WherryError:
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"D-Bus at {self._where}: no answer within {self._seconds:g} s")
        return Unavailable(f"D-Bus at {self._where}: {(error.strerror or str(error)).lower()}")

    def _authenticate(self, uid: int) -> None:
        # BEGIN comes along, as from systemd's own clients: behind it systemd reads a first message only in a packet of its own
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\nBEGIN\r\n")
        line = b""
        while not line.endswith(b"\r\n"):
            byte = self._socket.recv(1)
            if not byte or len(line) > 1024:
                raise Unavailable(f"D-Bus at {self._where}: the other side hung up during authentication")
            line += byte
        if not line.startswith(b"OK "):
            raise Unavailable(f"D-Bus at {self._where}: authentication as {uid} is refused")

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: tuple[Any, ...] = (),
    ) -> list[Any]:
        """Calls a method and waits for its answer: the values of the reply. DbusError for an error; signals meanwhile are kept."""
        self._serial += 1
        serial = self._serial
        fields = {PATH: path, INTERFACE: interface, MEMBER: member}
        if destination:
            fields[DESTINATION] = destination
        data = encode(CALL, serial, fields, signature, values)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._gone(error) from None
        deadline = time.monotonic() + self._seconds
        while True:
            message = self._receive(deadline)
            if message.kind in (RETURN, ERROR) and message.fields.get(REPLY_SERIAL) == serial:
                break
            if message.kind == SIGNAL and len(self._kept) < 1024:
                self._kept.append(message)
        if message.kind == ERROR:
            text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
            raise DbusError(str(message.fields.get(ERROR_NAME, "")), text)
        return message.body

    def wait_for(self, is_it: Callable[[Message], bool]) -> Message:
        """The next signal, of those kept and those to come, for which `is_it` holds. DeadlineExceeded when it does not come."""
        deadline = time.monotonic() + self._seconds
        kept, self._kept = self._kept, []
        for message in kept:
            if is_it(message):
                return message
        while True:
            message = self._receive(deadline)
            if message.kind == SIGNAL and is_it(message):
                return message

    def _receive(self, deadline: float) -> Message:
        head = self._read(HEAD, deadline)
        return decode(head + self._read(size(head) - HEAD, deadline))

    def _read(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                part = self._socket.recv(65536)
            except OSError as error:
                raise self._gone(error) from None
            if not part:
                raise Unavailable(f"D-Bus at {self._where}: the other side hung up")
            self._received += part
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken


def socket_path(address: str) -> str:
    """The path in an address such as "unix:path=/run/dbus/system_bus_socket,guid=…", "@name" for an abstract one.

    The first of several that is a unix socket. InvalidArgument when there is none.
    """
    for part in address.split(";"):
        transport, _, pairs = part.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs.split(",") if "=" in pair)
        if transport == "unix" and "path" in values:
            return _unescape(values["path"])
        if transport == "unix" and "abstract" in values:
            return "@" + _unescape(values["abstract"])
    raise InvalidArgument(f"D-Bus: {address!r} names no unix socket")


def _unescape(text: str) -> str:
    head, *rest = text.split("%")
    raw = head.encode()
    for part in rest:
        try:
            raw += bytes.fromhex(part[:2]) + part[2:].encode()
        except ValueError:
            raise InvalidArgument(f"D-Bus: {text!r} is not an escaped path") from None
    return os.fsdecode(raw)
