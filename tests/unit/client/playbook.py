"""A server that follows a script: for each request it receives, in order, the bytes that it answers (None: close the connection)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from wherry.client.session import Session


class Played:
    """What the client sent: heads and bodies, and how many connections it made."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0


@contextmanager
def playing(path: str, script: Sequence[bytes | None]) -> Iterator[Played]:
    """Plays `script` on the unix socket `path`; a connection that the client closes early is followed by the next."""
    played = Played()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    pending = list(script)

    def serve() -> None:
        while pending:
            try:
                connection, _ = server.accept()
            except OSError:  # nobody will come any more
                return
            played.connections += 1
            with (
                suppress(ConnectionError),
                connection,
                connection.makefile("rb") as file,
            ):  # a client may go at any time
                while pending and (request := _read_request(file)):
                    played.requests.append(request)
                    answer = pending.pop(0)
                    if answer is None:
                        break
                    connection.sendall(answer)
                    if b"connection: close" in answer.lower():
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield played
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


def _read_request(file: object) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()  # type: ignore[attr-defined]
        if not line:
            return b""
        head += line
    lowered = head.lower()
    if b"content-length: " in lowered:
        length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + file.read(length)  # type: ignore[attr-defined,no-any-return]
    if b"transfer-encoding: chunked" in lowered:
        body = b""
        while size := int(file.readline(), 16):  # type: ignore[attr-defined]
            body += file.read(size)  # type: ignore[attr-defined]
            file.readline()  # type: ignore[attr-defined]
        file.readline()  # type: ignore[attr-defined]
        return head + body
    return head


def session(path: str) -> Session:
    from wherry.client.address import parse

    return Session(parse(f"unix://{path}"))


def answer(body: bytes = b"", *, status: str = "200 OK", headers: str = "", length: bool = True) -> bytes:
    """A response with a Content-Length unless said otherwise."""
    size = f"Content-Length: {len(body)}\r\n" if length else ""
    return f"HTTP/1.1 {status}\r\n{size}{headers}\r\n".encode() + body


def chunked(*pieces: bytes) -> bytes:
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + encoded + b"0\r\n\r\n"
