"""HTTP/1.1, the client's side, as much as the Engine API uses: a request, a response with its body in pieces, an upgraded connection.

Own code, because `http.client` costs three to four times the interpreter's own start. Bodies: Content-Length, chunked, or until the connection ends;
request bodies are bytes or a chunked stream. A connection serves one exchange at a time and goes back to the session when a response has been read
to its end.
Absent: redirects, compression, proxies, pipelining.
"""

from __future__ import annotations

from _socket import SHUT_WR
from select import POLLIN, poll

from wherry.errors import DataLoss

from .errors import ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Iterable, Iterator

    from .address import Address
    from .tls import TlsSocket

_HEAD_LIMIT = 1 << 18
_PIECE = 1 << 16


class Connection:
    """One connection to the engine. ConnectionFailed whenever it breaks."""

    __slots__ = ("_buffer", "address", "sock", "used")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.sock: socket | TlsSocket = address.connect()
        self.used = False
        self._buffer = b""

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes | Iterable[bytes] | None) -> None:
        """The whole request. An engine that answers before it has read all of a streamed body is heard: the rest is not sent."""
        host = self.address.host or "wherry"
        head = [f"{method} {path} HTTP/1.1", f"Host: {host}", "User-Agent: wherry"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            head.append(f"Content-Length: {len(body)}")
        elif body is not None:
            head.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            head.append("Content-Length: 0")
        data = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"
        try:
            if body is None or isinstance(body, bytes):
                self.sock.sendall(data + (body or b""))
                return
            self.sock.sendall(data)
            ready = poll()
            ready.register(self.sock.fileno(), POLLIN)
            for piece in body:
                if ready.poll(0):
                    return  # an early answer
                if piece:
                    self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            if body is None or isinstance(body, bytes):
                raise self._broken("the engine closed the connection") from None
            # the answer that explains it may be waiting
        except OSError as error:
            raise self._broken(str(error)) from error

    def receive(self, method: str) -> Response:
        """The response's head; its body is read through it."""
        head = self._until(b"\r\n\r\n", _HEAD_LIMIT)
        lines = head.decode("latin-1").split("\r\n")
        try:
            version, status_text, *_ = lines[0].split(" ", 2)
            status = int(status_text)
        except ValueError:
            raise self._broken(f"not an HTTP response: {lines[0][:60]!r}") from None
        if not version.startswith("HTTP/1."):
            raise self._broken(f"not an HTTP response: {lines[0][:60]!r}")
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.used = True
        return Response(self, method, status, headers)

    def read_some(self, limit: int = _PIECE) -> bytes:
        """What is there, at least one byte unless the connection has ended."""
        if self._buffer:
            data, self._buffer = self._buffer[:limit], self._buffer[limit:]
            return data
        try:
            return self.sock.recv(limit)
        except OSError as error:
            raise self._broken(str(error)) from error

    def read_line(self) -> bytes:
        """Up to and without CRLF."""
        return self._until(b"\r\n", _HEAD_LIMIT)

    def _until(self, mark: bytes, limit: int) -> bytes:
        buffer = self._buffer
        while True:
            end = buffer.find(mark)
            if end >= 0:
                self._buffer = buffer[end + len(mark) :]
                return buffer[:end]
            if len(buffer) > limit:
                raise self._broken("the engine's answer has no end of header")
            try:
                data = self.sock.recv(_PIECE)
            except OSError as error:
                raise self._broken(str(error)) from error
            if not data:
                raise self._broken(
                    "the engine closed the connection" if not buffer else "the engine's answer is cut short"
                )
            buffer += data

    def take_rest(self) -> bytes:
        """What was received beyond the head: the first bytes of an upgraded stream."""
        data, self._buffer = self._buffer, b""
        return data

    def is_alive(self) -> bool:
        """False when the engine has closed an idle connection (or sent what nobody asked for)."""
        ready = poll()
        ready.register(self.sock.fileno(), POLLIN)
        return not self._buffer and not ready.poll(0)

    def close(self) -> None:
        self.sock.close()

    def _broken(self, message: str) -> ConnectionFailed:
        self.close()
        return ConnectionFailed(self.address.text, f"error during connect to {self.address.text}: {message}")


class Response:
    """A response whose body has not been read yet. `release` is called once with the connection when the body has ended and it may serve again."""

    __slots__ = ("_connection", "_done", "_left", "_mode", "headers", "release", "status")

    def __init__(self, connection: Connection, method: str, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers
        self.release: Callable[[Connection], None] | None = None
        self._connection = connection
        self._done = False
        self._left = 0
        if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
            self._mode = "none"
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            self._mode = "chunked"
        elif "content-length" in headers:
            self._mode = "length"
            length = headers["content-length"]
            if not (length.isascii() and length.isdecimal()):
                connection.close()
                raise DataLoss(f"the engine's answer is damaged: its length is {length[:20]!r}")
            self._left = int(length)
        else:
            self._mode = "close"
        if self._mode == "none" or (self._mode == "length" and self._left == 0):
            self._mode = "none"

    def finish_if_empty(self) -> None:
        if self._mode == "none":
            self._end()

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives."""
        connection = self._connection
        while not self._done:
            if self._mode == "none":
                break
            if self._mode == "chunked" and self._left == 0:
                line = connection.read_line().partition(b";")[0].strip()
                try:
                    self._left = int(line, 16)
                    if self._left < 0:
                        raise ValueError
                except ValueError:
                    self.close()
                    raise DataLoss(
                        f"the engine's answer is damaged: {line[:20]!r} is not the size of a chunk"
                    ) from None
                if self._left == 0:
                    while connection.read_line():
                        pass  # trailers
                    break
            data = connection.read_some(min(self._left, _PIECE) if self._mode != "close" else _PIECE)
            if not data:
                if self._mode == "close":
                    break
                self.close()
                raise ConnectionFailed(connection.address.text, "the engine's answer is cut short (unexpected EOF)")
            if self._mode != "close":
                self._left -= len(data)
                if self._left == 0 and self._mode == "chunked":
                    connection.read_line()
            yield data
            if self._mode == "length" and self._left == 0:
                break
        self._end()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def lines(self) -> Iterator[bytes]:
        """The body cut at newlines, without them; blank lines are skipped."""
        pending = b""
        for piece in self.pieces():
            pending += piece
            if b"\n" not in piece:
                continue
            *complete, pending = pending.split(b"\n")
            for line in complete:
                if line.strip():
                    yield line
        if pending.strip():
            yield pending

    def close(self) -> None:
        """Gives up the rest of the body, and the connection with it."""
        if not self._done:
            self._done = True
            self._connection.close()

    def _end(self) -> None:
        if self._done:
            return
        self._done = True
        keep = self._mode != "close" and self.headers.get("connection", "").lower() != "close"
        if keep and self.release is not None:
            self.release(self._connection)
        else:
            self._connection.close()

    def upgrade(self) -> Stream:
        """The connection as a stream of raw bytes, after a 101 (or a 200 of an old engine) to a request to upgrade."""
        self._done = True
        return Stream(self._connection.sock, self._connection.take_rest(), self.headers.get("content-type", ""))


class Stream:
    """An upgraded connection: bytes both ways, each direction closed by itself."""

    __slots__ = ("_first", "content_type", "sock")

    def __init__(self, sock: socket | TlsSocket, first: bytes, content_type: str) -> None:
        self.sock = sock
        self.content_type = content_type
        self._first = first

    def receive(self, limit: int = _PIECE) -> bytes:
        """b"" at the end. A reset connection is an end, too: the process is gone."""
        if self._first:
            data, self._first = self._first, b""
            return data
        try:
            return self.sock.recv(limit)
        except ConnectionResetError:
            return b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close_write(self) -> None:
        """End of input for the process; its output still comes."""
        try:
            self.sock.shutdown(SHUT_WR)
        except OSError:
            pass  # the other side is gone

    def close(self) -> None:
        self.sock.close()
