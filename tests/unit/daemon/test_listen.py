"""The API's sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.daemon.config import Config
from wherry.daemon.listen import open_sockets
from wherry.errors import FailedPrecondition, InvalidArgument


def served_at(path: Path, group: str | None = None) -> Config:
    return Config(hosts=(f"unix://{path}",), group=group)


def test_a_unix_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with contextlib.ExitStack() as stack:
        open_sockets(served_at(path, str(os.getgid())), stack)
        state = path.stat()
        assert stat.S_IMODE(state.st_mode) == 0o660
        assert (state.st_uid, state.st_gid) == (os.getuid(), os.getgid())
    assert not path.exists()


def test_a_socket_that_nobody_serves_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with contextlib.ExitStack() as stack:
        assert len(open_sockets(served_at(path), stack)) == 1


def test_a_socket_that_another_serves_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        open_sockets(served_at(path), first)
        with pytest.raises(FailedPrecondition, match="another engine serves it"):
            open_sockets(served_at(path), second)
        assert path.exists()


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    path.write_text("precious")
    with contextlib.ExitStack() as stack, pytest.raises(FailedPrecondition, match="not a socket"):
        open_sockets(served_at(path), stack)
    assert path.read_text() == "precious"


def test_a_group_that_does_not_exist_is_an_error_if_it_was_asked_for(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack, pytest.raises(InvalidArgument, match="group nonesuch not found"):
        open_sockets(served_at(tmp_path / "w.sock", "nonesuch"), stack)


def test_a_tcp_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy, contextlib.ExitStack() as stack:
        host = f"tcp://127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(FailedPrecondition, match=f"cannot listen on {host}: address already in use"):
            open_sockets(Config(hosts=(host,), allow_plain_tcp=True), stack)


def test_fd_without_a_service_manager_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    with contextlib.ExitStack() as stack, pytest.raises(FailedPrecondition, match="no sockets found via socket"):
        open_sockets(Config(hosts=("fd://",)), stack)


ACTIVATED = """
import contextlib, os, socket, sys
from wherry.daemon.config import Config
from wherry.daemon.listen import open_sockets
from wherry.errors import WherryError
os.environ["LISTEN_PID"] = str(os.getpid())
with contextlib.ExitStack() as stack:
    try:
        sockets = open_sockets(Config(hosts=(sys.argv[1],)), stack)
        print([(sock.getsockname(), sock.get_inheritable()) for sock in sockets])
    except WherryError as error:
        print(error)
"""


def activated(host: str, sock: socket.socket) -> str:
    """What a process prints that was started by a service manager with `sock` as its descriptor 3."""
    saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else None
    if sock.fileno() != 3:
        os.dup2(sock.fileno(), 3)
    try:
        return subprocess.run(
            [sys.executable, "-c", ACTIVATED, host],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api", "PYTHONPATH": "src"},
            pass_fds=(3,),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        if saved is not None:
            os.dup2(saved, 3)
            os.close(saved)
        elif sock.fileno() != 3:
            os.close(3)


def test_sockets_of_the_service_manager_are_served(tmp_path: Path) -> None:
    path = tmp_path / "passed.sock"
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        passed.listen()
        for host in ("fd://", "fd://3", "fd://api"):
            assert activated(host, passed) == f"[('{path}', False)]\n"
        assert "no socket named other" in activated("fd://other", passed)


def test_a_passed_tcp_socket_needs_consent_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        assert "TCP without TLS needs --tls=false" in activated("fd://", passed)
