from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import DataLoss, InvalidArgument, Unavailable
from wherry.linux import dbus
from wherry.linux.dbus import Variant

KINDS: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255), "b": st.booleans(), "n": st.integers(-(2**15), 2**15 - 1), "q": st.integers(0, 2**16 - 1),
    "i": st.integers(-(2**31), 2**31 - 1), "u": st.integers(0, 2**32 - 1), "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1), "d": st.floats(allow_nan=False), "s": st.text(), "o": st.just("/a/b"), "g": st.just("a{sv}"),
}  # fmt: skip
SIMPLE = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind]))


def wider(inner: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    structure = st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: (f"({''.join(kind for kind, _ in parts)})", tuple(value for _, value in parts))
    )
    return st.one_of(
        structure,
        inner.map(lambda pair: ("v", Variant(*pair))),
        inner.map(lambda pair: (f"a{pair[0]}", bytes([pair[1]] * 2) if pair[0] == "y" else [pair[1]] * 2)),
        inner.map(lambda pair: (f"a{{s{pair[0]}}}", {"one": pair[1], "two": pair[1]})),
    )


VALUES = st.recursive(SIMPLE, wider, max_leaves=6)


@given(st.lists(VALUES, max_size=4))
def test_values_survive_the_way_to_bytes_and_back(pairs: list[tuple[str, Any]]) -> None:
    signature = "".join(kind for kind, _ in pairs)
    values = [value for _, value in pairs]
    assert dbus.unpack(signature, dbus.pack(signature, tuple(values))) == values


@given(st.sampled_from(["a(yv)", "as", "v", "a{sv}", "(sa(sv))", "ay"]), st.binary(max_size=200))
def test_no_bytes_from_outside_do_more_than_be_refused(signature: str, data: bytes) -> None:
    try:
        dbus.unpack(signature, data)
    except DataLoss:
        pass


@pytest.mark.parametrize("signature", ["a", "(", "(s", "z", "{s", "a" * 40 + "s", ")"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(InvalidArgument):
        dbus.split(signature)


@pytest.mark.parametrize(
    ("signature", "values"), [("y", (256,)), ("u", (-1,)), ("s", ()), ("t", (1 << 64,)), ("i", ("x",))]
)
def test_what_does_not_fit_its_type_is_refused(signature: str, values: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgument):
        dbus.pack(signature, values)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("unix:path=/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket"),
        ("tcp:host=a;unix:path=/a%20b,guid=77", "/a b"),
        ("unix:abstract=/tmp/x", "@/tmp/x"),
    ],
)
def test_addresses(address: str, path: str) -> None:
    assert dbus.socket_path(address) == path


@pytest.mark.parametrize("address", ["", "tcp:host=a", "unix:dir=/tmp", "unix:path=%zz"])
def test_an_address_without_a_socket_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument):
        dbus.socket_path(address)


@pytest.mark.requires("dbus-daemon")
class TestRealBus:
    @pytest.fixture
    def bus(self, tmp_path: Path) -> Iterator[str]:
        program = shutil.which("dbus-daemon")
        assert program is not None
        command = [program, "--session", "--nofork", "--print-address", f"--address=unix:path={tmp_path}/bus"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
            assert daemon.stdout is not None
            yield dbus.socket_path(daemon.stdout.readline().strip())
            daemon.terminate()

    def test_calls_are_answered_and_errors_have_names(self, bus: str) -> None:
        place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        with dbus.Connection(bus, bus=True) as connection:
            assert "org.freedesktop.DBus" in connection.call(*place, "ListNames")[0]
            assert connection.call(*place, "RequestName", "su", ("org.wherry.Test", 0)) == [1]
            assert connection.call(*place, "NameHasOwner", "s", ("org.wherry.Test",)) == [True]
            credentials = connection.call(*place, "GetConnectionCredentials", "s", ("org.wherry.Test",))[0]
            assert isinstance(credentials["UnixUserID"], Variant)
            with pytest.raises(dbus.DbusError, match="nonesuch") as caught:
                connection.call(*place, "GetNameOwner", "s", ("org.wherry.nonesuch",))
            assert caught.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"

    def test_a_signal_that_comes_during_a_call_is_kept(self, bus: str) -> None:
        place = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        with dbus.Connection(bus, bus=True) as connection:
            connection.call(*place, "RequestName", "su", ("org.wherry.Kept", 0))
            wanted = ["org.wherry.Kept"]
            signal = connection.wait_for(
                lambda message: message.is_signal("org.freedesktop.DBus", "NameAcquired") and message.body == wanted
            )
            assert signal.body == ["org.wherry.Kept"]


def answering(path: Path, talk: Callable[[socket.socket], None]) -> threading.Thread:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        with server, connection:
            talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def authenticated(reply: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        received = b""
        for end in (b"BEGIN\r\n", b"Hello"):
            while end not in received:
                received += connection.recv(4096)
            if end == b"BEGIN\r\n":
                connection.sendall(b"OK 1234\r\n")
        connection.sendall(reply)

    return talk


@pytest.mark.parametrize(
    ("talk", "kind"),
    [
        (lambda connection: connection.close(), Unavailable),
        (lambda connection: connection.sendall(b"REJECTED EXTERNAL\r\n"), Unavailable),
        (lambda connection: connection.sendall(b"x" * 5000), Unavailable),
        (authenticated(b""), Unavailable),
        (authenticated(b"garbage that is no message at all"), DataLoss),
        (authenticated(b"l\2\0\1" + b"\xff" * 12), DataLoss),
    ],
)
def test_a_peer_that_misbehaves_is_an_error(
    tmp_path: Path, talk: Callable[[socket.socket], None], kind: type[Exception]
) -> None:
    thread = answering(tmp_path / "bus", talk)
    with pytest.raises(kind):
        dbus.Connection(str(tmp_path / "bus"), bus=True)
    thread.join()


def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such file"):
        dbus.Connection(str(tmp_path / "none"), bus=True)
