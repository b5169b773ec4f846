"""A process's streams, without a process: pipes and socket pairs on both sides."""

from __future__ import annotations

import gc
import os
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest

from wherry.shim import stdio
from wherry.shim.jsonfile import JsonFileLog
from wherry.shim.loop import Loop
from wherry.shim.stdio import Streams
from wherry.wire import stdcopy


class UntilIdle:
    """In the place of a loop's epoll: ends the loop when nothing is ready or due, however long that takes."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._epoll = loop, loop._epoll

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        if not (ready := self._epoll.poll(0)) and timeout != 0:
            self._loop.stop()
        return ready


class Rig:
    """Streams with the process's ends and clients in the test's hands."""

    def __init__(self, *, log: JsonFileLog | None = None, ends_with_client: bool = False, raw: bool = False) -> None:
        self.loop = Loop()
        self.faults: list[Exception] = []
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.stdin, keyboard = os.pipe()
        outputs = [(1, out)] if raw else [(1, out), (2, err)]
        if raw:
            os.close(err)
        self.streams = Streams(
            self.loop, outputs=outputs, stdin_fd=keyboard, raw=raw, log=log, ends_with_client=ends_with_client
        )

    def client(self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self.streams.attach(theirs.detach(), stdin=stdin, stdout=stdout, stderr=stderr)
        return ours

    def turn(self) -> None:
        """Lets everything happen that can."""
        real = self.loop._epoll
        self.loop._epoll = UntilIdle(self.loop)  # type: ignore[assignment]
        self.loop.run(self.faults.append)
        self.loop._epoll = real
        assert self.faults == []

    def read_stdin(self) -> bytes:
        os.set_blocking(self.stdin, False)
        try:
            return os.read(self.stdin, 1 << 20)
        except BlockingIOError:
            return b"(nothing)"

    def close(self) -> None:
        self.streams.finish()
        for fd in (self.stdout, self.stderr, self.stdin):
            os.close(fd)


def everything(client: socket.socket) -> list[tuple[int, bytes]]:
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    return stdcopy.Decoder().feed(data)


def test_output_goes_to_log_and_clients_by_their_wish(tmp_path: Path) -> None:
    log = JsonFileLog(str(tmp_path / "log"))
    rig = Rig(log=log)
    both, errors = rig.client(), rig.client(stdout=False)
    os.write(rig.stdout, b"out\n")
    rig.turn()
    os.write(rig.stderr, b"err\n")
    rig.turn()
    rig.streams.drain()
    rig.close()
    assert everything(both) == [(1, b"out\n"), (2, b"err\n")]
    assert everything(errors) == [(2, b"err\n")]
    assert (tmp_path / "log").read_text().count("\n") == 2


@pytest.mark.parametrize("raw", [False, True])
def test_what_has_finished_is_freed_though_nobody_collects_garbage(raw: bool) -> None:
    """A shim does not, and a container may have execs for years."""
    rig = Rig(raw=raw)
    client = rig.client(stdin=True)
    os.write(rig.stdout, b"x")
    rig.turn()
    there = weakref.ref(rig.streams)
    gc.disable()
    try:
        rig.close()
        del rig
        assert there() is None
    finally:
        gc.enable()
    client.close()


def test_what_is_in_the_pipe_at_the_end_is_drained() -> None:
    rig = Rig()
    client = rig.client()
    os.write(rig.stdout, b"x" * 60_000)
    rig.streams.drain()
    rig.close()
    assert b"".join(data for _, data in everything(client)) == b"x" * 60_000


def test_input_waits_for_room_and_keeps_its_order() -> None:
    rig = Rig()
    client = rig.client(stdin=True)
    sent = os.urandom(300_000)
    client.setblocking(False)
    offset = 0
    received = b""
    while len(received) < len(sent):
        try:
            offset += client.send(sent[offset : offset + 50_000])
        except BlockingIOError:
            pass
        rig.turn()
        piece = rig.read_stdin()
        received += piece if piece != b"(nothing)" else b""
    assert received == sent
    rig.close()


@pytest.mark.parametrize("ends", [True, False])
def test_the_end_of_a_clients_input_ends_stdin_only_where_asked_for(ends: bool) -> None:
    rig = Rig(ends_with_client=ends)
    client = rig.client(stdin=True)
    client.send(b"last")
    client.shutdown(socket.SHUT_WR)
    rig.turn()
    assert rig.read_stdin() == b"last"
    rig.turn()
    assert rig.read_stdin() == (b"" if ends else b"(nothing)")
    os.write(rig.stdout, b"still heard")
    rig.turn()
    assert stdcopy.Decoder().feed(client.recv(100)) == [(1, b"still heard")]
    rig.close()


def test_a_terminal_is_raw_and_its_input_never_ends() -> None:
    rig = Rig(raw=True, ends_with_client=True)
    client = rig.client(stdin=True)
    client.shutdown(socket.SHUT_WR)
    rig.turn()
    assert rig.read_stdin() == b"(nothing)"
    os.write(rig.stdout, b"raw")
    rig.turn()
    assert client.recv(100) == b"raw"
    rig.close()


def test_input_for_a_closed_stdin_is_not_taken_and_hurts_nobody() -> None:
    rig = Rig()
    client = rig.client(stdin=True)
    os.close(rig.stdin)
    client.send(b"x")
    rig.turn()
    client.send(b"y")
    os.write(rig.stdout, b"alive")
    rig.turn()
    assert stdcopy.Decoder().feed(client.recv(100)) == [(1, b"alive")]
    client.close()
    rig.turn()
    assert not rig.streams.has_clients
    rig.stdin = os.open("/dev/null", os.O_RDONLY)
    rig.close()


def test_a_client_that_has_left_is_forgotten_once_its_input_is_read() -> None:
    rig = Rig()
    client = rig.client(stdin=True)
    client.send(b"z" * 150_000)  # more than stdin takes at once
    client.close()
    received = b""
    while len(received) < 150_000:
        rig.turn()
        piece = rig.read_stdin()
        received += piece if piece != b"(nothing)" else b""
    rig.turn()
    assert not rig.streams.has_clients
    rig.close()


def test_nothing_runs_while_a_client_that_left_waits_for_room() -> None:
    """Its hang-up would be reported for ever."""
    rig = Rig()
    client = rig.client(stdin=True)
    client.send(b"z" * 150_000)
    rig.turn()
    client.close()
    rig.turn()
    rounds = 0
    forget = rig.loop._epoll

    class Counting:
        def poll(self, timeout: float) -> object:
            nonlocal rounds
            rounds += 1
            return forget.poll(timeout)

    rig.loop._epoll = Counting()  # type: ignore[assignment]
    rig.loop.call_later(0.1, rig.loop.stop)
    rig.loop.run(rig.faults.append)
    rig.loop._epoll = forget
    assert rounds < 10
    rig.close()


def test_a_lagging_client_stops_the_reading_until_it_catches_up() -> None:
    rig = Rig()
    slow = rig.client()
    os.set_blocking(rig.stdout, False)
    written = 0
    for _ in range(200):
        try:
            written += os.write(rig.stdout, b"n" * 65536)
        except BlockingIOError:
            pass
        rig.turn()
    assert stdio.MAX_LAG < written < stdio.MAX_LAG + 20 * stdio.CHUNK, "bounded"
    received = 0
    slow.setblocking(False)
    decoder = stdcopy.Decoder()
    while received < written:
        try:
            received += sum(len(data) for _, data in decoder.feed(slow.recv(1 << 18)))
        except BlockingIOError:
            pass
        rig.turn()
    os.write(rig.stdout, b"goes on")
    rig.turn()
    assert decoder.feed(slow.recv(100)) == [(1, b"goes on")]
    rig.close()


def test_a_client_that_takes_nothing_is_cut_off_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "STALL_SECONDS", 0.1)
    rig = Rig()
    stuck, reader = rig.client(), rig.client()
    os.set_blocking(rig.stdout, False)
    reader.setblocking(False)
    total = 0
    while total < 4 * stdio.MAX_LAG:
        try:
            os.write(rig.stdout, b"n" * 65536)
        except BlockingIOError:
            pass
        rig.turn()
        try:
            total += len(reader.recv(1 << 20))
        except BlockingIOError:
            pass
    pieces: list[tuple[int, bytes]] = []
    decoder = stdcopy.Decoder()
    stuck.setblocking(False)
    while True:
        try:
            data = stuck.recv(1 << 18)
        except BlockingIOError:
            rig.turn()
            continue
        if not data:
            break
        pieces += decoder.feed(data)
    assert decoder.at_boundary
    assert pieces[-1][0] == stdcopy.SYSTEM_ERROR
    rig.close()


def test_the_end_tells_who_waits_for_it() -> None:
    rig = Rig()
    told: list[str] = []
    rig.streams.when_at_end = lambda: told.append("end")
    rig.streams.when_detached = lambda: told.append("detached")
    rig.client().close()
    os.close(rig.stdout)
    rig.turn()
    assert told == ["detached"]
    os.close(rig.stderr)
    rig.turn()
    assert told == ["detached", "end"]
    assert rig.streams.at_end
    rig.stdout, rig.stderr = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    rig.close()


def test_a_client_that_comes_after_the_end_is_sent_away() -> None:
    rig = Rig()
    rig.streams.finish()
    assert rig.client(stdin=True).recv(10) == b""
    assert not rig.streams.has_clients
    rig.close()
