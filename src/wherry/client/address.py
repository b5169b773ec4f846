"""Where the engine is: the forms of `-H`, DOCKER_HOST and WHERRY_HOST, taken apart and connected to.

unix:///path, tcp://host:port, http://host:port, https://host:port, and the short forms that Docker's clients accept (`:2375`, `host`). TLS as
Docker's clients do it: with `tls`, port 2376 and certificates from a directory; `verify` demands that the engine's certificate is signed by `ca`.
Absent: ssh:// and Windows' npipe://, refused by name; fd:// has a meaning for a daemon only.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, IPPROTO_TCP, SOCK_STREAM, TCP_NODELAY, getaddrinfo, socket

from wherry.errors import InvalidArgument

from .errors import ConnectionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .tls import TlsSocket

DEFAULT_SOCKET = "/run/wherry.sock"
_PORT, _TLS_PORT = 2375, 2376


class Tls:
    """Certificates for a TLS connection, as paths; `verify` checks the engine's."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str | None, cert: str | None, key: str | None, *, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


class Address:
    """A parsed engine address. `text` is its canonical form; `path` is set for unix sockets, `host` and `port` otherwise."""

    __slots__ = ("host", "path", "port", "text", "tls")

    def __init__(self, text: str, *, path: str = "", host: str = "", port: int = 0, tls: Tls | None = None) -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port
        self.tls = tls

    def connect(self) -> socket | TlsSocket:
        """A connected stream socket. ConnectionFailed says what was tried."""
        try:
            if self.path:
                sock = socket(AF_UNIX, SOCK_STREAM)
                sock.connect(self.path)
                return sock
            return self._connect_tcp()
        except OSError as error:
            raise self._failure(error) from error

    def _connect_tcp(self) -> socket | TlsSocket:
        failure: OSError | None = None
        for family, kind, protocol, _, endpoint in getaddrinfo(self.host, self.port, 0, SOCK_STREAM):
            sock = socket(family, kind, protocol)
            try:
                sock.connect(endpoint)
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failure = error
                continue
            if self.tls is None:
                return sock
            from .tls import wrap

            return wrap(sock, self.host, self.tls)
        raise failure or OSError(0, f"no address for {self.host}")

    def _failure(self, error: OSError) -> ConnectionFailed:
        number = error.errno or 0
        reason = (error.strerror or str(error)).lower()
        if number == 13:
            text = f"permission denied while trying to connect to the wherry engine socket at {self.text}"
        elif number in (2, 111):
            text = f"Cannot connect to the wherry engine at {self.text}. Is wherryd running?"
        else:
            text = f"Cannot connect to the wherry engine at {self.text}: {reason}"
        return ConnectionFailed(self.text, text, number, refused=number in (2, 111))


def parse(text: str, tls: Tls | None = None) -> Address:
    """The address that `text` means. InvalidArgument names what is wrong with it."""
    text = text.strip()
    if not text:
        return Address(f"unix://{DEFAULT_SOCKET}", path=DEFAULT_SOCKET)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "tcp", text
    if scheme == "unix":
        if not rest:
            rest = DEFAULT_SOCKET
        if not rest.startswith("/"):
            raise InvalidArgument(f"unix socket address must be an absolute path: {text}")
        return Address(f"unix://{rest}", path=rest)
    if scheme in ("ssh", "npipe", "fd"):
        raise InvalidArgument(f"{scheme}:// addresses are not supported by wherry: {text}")
    if scheme == "https":
        tls = tls or Tls(None, None, None, verify=True)
    elif scheme not in ("tcp", "http"):
        raise InvalidArgument(f"unable to parse engine address {text!r}: unknown scheme {scheme!r}")
    rest = rest.partition("/")[0]
    host, port_text = _split_port(rest, text)
    try:
        port = int(port_text) if port_text else (_TLS_PORT if tls else _PORT)
    except ValueError:
        port = -1
    if not 0 < port < 65536:
        raise InvalidArgument(f"unable to parse engine address {text!r}: invalid port {port_text!r}")
    host = host or "localhost"
    shown = f"[{host}]" if ":" in host else host
    return Address(f"tcp://{shown}:{port}", host=host, port=port, tls=tls)


def _split_port(rest: str, text: str) -> tuple[str, str]:
    if rest.startswith("["):
        host, closed, tail = rest[1:].partition("]")
        if not closed or (tail and not tail.startswith(":")):
            raise InvalidArgument(f"unable to parse engine address {text!r}: invalid IPv6 address")
        return host, tail[1:]
    host, _, port = rest.partition(":")
    if ":" in port:
        raise InvalidArgument(f"unable to parse engine address {text!r}: IPv6 addresses are written in brackets")
    return host, port


def from_environment(environment: Mapping[str, str] | None = None) -> Address:
    """WHERRY_HOST, else DOCKER_HOST, else the default socket; DOCKER_TLS, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH as Docker's clients read them."""
    env = os.environ if environment is None else environment
    host = env.get("WHERRY_HOST") or env.get("DOCKER_HOST") or ""
    return parse(host, environment_tls(env))


def environment_tls(env: Mapping[str, str]) -> Tls | None:
    """The TLS settings of the environment; None when it asks for none."""
    verify = bool(env.get("DOCKER_TLS_VERIFY"))
    if not verify and not env.get("DOCKER_TLS"):
        return None
    folder = env.get("DOCKER_CERT_PATH") or env.get("DOCKER_CONFIG") or f"{env.get('HOME', '')}/.docker"
    return tls_from_folder(folder, verify=verify)


def tls_from_folder(folder: str, *, verify: bool) -> Tls:
    """ca.pem, cert.pem and key.pem of `folder`; a client certificate is optional."""
    present = {name: f"{folder}/{name}.pem" for name in ("ca", "cert", "key") if os.path.exists(f"{folder}/{name}.pem")}
    return Tls(present.get("ca"), present.get("cert"), present.get("key"), verify=verify)


__all__ = ["DEFAULT_SOCKET", "Address", "Tls", "environment_tls", "from_environment", "parse", "tls_from_folder"]
