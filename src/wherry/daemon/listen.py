"""The API's sockets: made here, bound and ready to serve, or handed over by systemd.

**Invariants**: a unix socket is never reachable with wider permissions than its final ones (0660, root and the API's group). A path on which another
engine answers is not taken away from it; a socket that nobody serves is replaced. TCP is served only with consent (`config.check_host`), also when
the socket comes from systemd.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import socket
import stat

from wherry.daemon.config import DEFAULT_GROUP, Config, tcp_address
from wherry.errors import FailedPrecondition, InvalidArgument

log = logging.getLogger("wherry.daemon")

FIRST_PASSED_FD = 3
"""sd_listen_fds(3)"""
BACKLOG = 4096


def open_sockets(config: Config, stack: contextlib.ExitStack) -> list[socket.socket]:
    """One socket or more for each host; closed, and their paths removed, at the end of the stack."""
    sockets: list[socket.socket] = []
    for host in config.hosts:
        scheme, _, rest = host.partition("://")
        match scheme:
            case "unix":
                sockets.append(_unix(rest, _group_id(config.group), stack))
            case "tcp":
                log.warning("serving %s without TLS: whoever connects is root on this machine", host)
                sockets.append(_tcp(host, stack))
            case _:
                sockets += _passed(rest, allow_tcp=config.allow_plain_tcp, stack=stack)
    return sockets


def _group_id(name: str | None) -> int:
    """The group's number; 0 when Docker's group does not exist and no other was asked for."""
    if name is None:
        try:
            return grp.getgrnam(DEFAULT_GROUP).gr_gid
        except KeyError:
            return 0
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid if name else 0
    except KeyError:
        raise InvalidArgument(f"group {name} not found") from None


def _unix(path: str, group: int, stack: contextlib.ExitStack) -> socket.socket:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _clear_way(path)
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    previous = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as error:
        raise FailedPrecondition(f"cannot listen on unix://{path}: {_words(error)}") from None
    finally:
        os.umask(previous)
    made = os.stat(path)
    stack.callback(_unlink_if_same, path, made)
    os.chown(path, 0 if os.geteuid() == 0 else -1, group if os.geteuid() == 0 else -1)
    os.chmod(path, 0o660)
    sock.listen(BACKLOG)
    return sock


def _clear_way(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FailedPrecondition(f"cannot listen on unix://{path}: something that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        if probe.connect_ex(path) in (errno.ECONNREFUSED, errno.ENOENT):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
    raise FailedPrecondition(f"cannot listen on unix://{path}: another engine serves it")


def _unlink_if_same(path: str, made: os.stat_result) -> None:
    with contextlib.suppress(OSError):
        if os.path.samestat(os.lstat(path), made):
            os.unlink(path)


def _tcp(host: str, stack: contextlib.ExitStack) -> socket.socket:
    address, port = tcp_address(host)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        sock = stack.enter_context(socket.socket(family, kind, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        raise FailedPrecondition(f"cannot listen on {host}: {_words(error)}") from None
    return sock


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _passed(which: str, *, allow_tcp: bool, stack: contextlib.ExitStack) -> list[socket.socket]:
    """The sockets of systemd's activation: `fd://` all of them, `fd://3` or `fd://name` one."""
    count = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        raise FailedPrecondition("no sockets found via socket activation: make sure the service was started by systemd")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    sockets = []
    for index in range(int(count)):
        fd = FIRST_PASSED_FD + index
        name = names[index] if index < len(names) else ""
        if which not in ("", "*", str(fd), name):
            continue
        os.set_inheritable(fd, False)
        sock = stack.enter_context(socket.socket(fileno=fd))
        if sock.type != socket.SOCK_STREAM:
            raise FailedPrecondition(f"file descriptor {fd} is not a stream socket")
        if sock.family != socket.AF_UNIX and not allow_tcp:
            raise FailedPrecondition(
                f"refusing to serve file descriptor {fd}: it is a TCP socket, and TCP without TLS needs --tls=false"
            )
        sockets.append(sock)
    if not sockets:
        raise FailedPrecondition(f"no socket named {which} was passed by systemd")
    return sockets
