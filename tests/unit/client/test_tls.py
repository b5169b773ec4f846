"""TLS to an engine: certificates checked both ways, and a stream whose two directions end one after the other."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from wherry.client.address import Tls, parse
from wherry.client.errors import ConnectionFailed
from wherry.client.session import Session
from wherry.client.tls import TlsSocket
from wherry.errors import InvalidArgument

pytestmark = pytest.mark.requires("openssl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, cert.pem and key.pem for localhost; other.pem is a CA that signed nothing."""
    place = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.pem",
        )  # fmt: skip
    openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
        "-keyout", "key.pem", "-out", "request.pem",
    )  # fmt: skip
    (place / "extensions").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2",
        "-extfile", "extensions", "-out", "cert.pem",
    )  # fmt: skip
    return place


@contextmanager
def serving(folder: Path, *, demand: bool = False) -> Iterator[int]:
    """One TLS connection: a request is answered by 101, then everything that is read is sent back once reading has ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    if demand:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(folder / "ca.pem")
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            plain, _ = server.accept()
            with context.wrap_socket(plain, server_side=True) as connection:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += connection.recv(1)
                if b"Upgrade" not in head:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    return
                connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
                data = b""
                while piece := connection.recv(65536):
                    data += piece
                connection.sendall(data)
        except OSError:
            pass  # the client refused us, or we it

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


def session(port: int, tls: Tls) -> Session:
    return Session(parse(f"tcp://localhost:{port}", tls))


def test_an_engine_whose_certificate_the_ca_signed_is_believed(folder: Path) -> None:
    with serving(folder) as port, session(port, Tls(str(folder / "ca.pem"), None, None, verify=True)) as client:
        assert client.call("GET", "/version") == {}


def test_an_engine_that_another_ca_signed_is_refused(folder: Path) -> None:
    with serving(folder) as port, session(port, Tls(str(folder / "other.pem"), None, None, verify=True)) as client:
        with pytest.raises(ConnectionFailed, match="certificate"):
            client.call("GET", "/version")


def test_without_verification_any_engine_is_believed(folder: Path) -> None:
    with serving(folder) as port, session(port, Tls(None, None, None, verify=False)) as client:
        assert client.call("GET", "/version") == {}


def test_the_client_shows_its_certificate(folder: Path) -> None:
    own = Tls(str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem"), verify=True)
    with serving(folder, demand=True) as port, session(port, own) as client:
        assert client.call("GET", "/version") == {}


def test_a_certificate_file_that_is_not_there_is_named(folder: Path) -> None:
    with serving(folder) as port, session(port, Tls("/nonsense/ca.pem", None, None, verify=True)) as client:
        with pytest.raises(InvalidArgument, match="/nonsense/ca\\.pem: no such file"):
            client.call("GET", "/version")


def test_a_stream_is_still_read_after_its_writing_side_was_closed(folder: Path) -> None:
    with serving(folder) as port, session(port, Tls(str(folder / "ca.pem"), None, None, verify=True)) as client:
        stream = client.upgrade("POST", "/containers/x/attach")
        assert isinstance(stream.sock, TlsSocket)
        data = bytes(range(256)) * 4096
        stream.send(data)
        stream.close_write()
        received = b""
        while piece := stream.receive():
            received += piece
        assert received == data
        stream.close()
