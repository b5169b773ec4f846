"""TLS over a connected socket, with half-close: what a stream to a container needs and `ssl.SSLSocket` does not give.

Loaded only for https and for tcp with certificates. `TlsSocket` has the few methods of `_socket.socket` that the client uses. One thread may
send while another receives: the TLS state is guarded by a lock, the waiting is not.
"""

from __future__ import annotations

import ssl
from _thread import allocate_lock

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from .address import Tls

_RECORD = 1 << 16


class TlsSocket:
    """A TLS client connection. `shutdown(SHUT_WR)` sends close_notify and leaves reading open."""

    def __init__(self, sock: socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._lock = allocate_lock()
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()

    def _flush(self) -> None:
        if self._out.pending:
            self._sock.sendall(self._out.read())

    def _fill(self) -> None:
        data = self._sock.recv(_RECORD)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def recv(self, size: int) -> bytes:
        while True:
            with self._lock:
                try:
                    return self._tls.read(size)
                except ssl.SSLWantReadError:
                    self._flush()
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
            data = self._sock.recv(_RECORD)
            with self._lock:
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()

    def sendall(self, data: bytes) -> None:
        with self._lock:
            self._tls.write(data)
            self._flush()

    def shutdown(self, how: int) -> None:
        from _socket import SHUT_WR

        if how != SHUT_WR:
            self._sock.shutdown(how)
            return
        with self._lock:
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # the peer's own close_notify comes later, or never
                pass
            self._flush()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


def wrap(sock: socket, host: str, tls: Tls) -> TlsSocket:
    """The TLS connection over `sock`. ssl.SSLError when a certificate is refused; InvalidArgument when ours cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif tls.ca:
            context.load_verify_locations(tls.ca)
        else:
            context.load_default_certs()
        if tls.cert and tls.key:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        files = ", ".join(path for path in (tls.ca, tls.cert, tls.key) if path)
        raise InvalidArgument(
            f"cannot use the certificates {files}: {(error.strerror or str(error)).lower()}"
        ) from None
    return TlsSocket(sock, context, host)
