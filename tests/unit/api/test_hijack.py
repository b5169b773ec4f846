"""Attach and exec: the connection as a stream, both ways, to each of its ends."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios

import pytest
from tests.unit.api.fake_backends import EXEC
from tests.unit.api.harness import Client, Served, run, settled

from wherry import errors
from wherry.wire import stdcopy

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
ATTACH = "/v1.50/containers/web/attach?stream=1&stdin=1&stdout=1&stderr=1"


async def attached(served: Served, target: str = ATTACH) -> tuple[Client, socket.socket]:
    client = await served.connect()
    await client.send("POST", target, **UPGRADE)
    status, headers = await client.head()
    assert (status, headers["upgrade"], headers["connection"]) == (101, "tcp", "Upgrade")
    process = served.fakes.containers.process
    assert process is not None
    return client, process


async def receive(process: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := await asyncio.get_running_loop().sock_recv(process, 65536)):
        data += piece
    return data


def test_output_goes_to_the_client_and_ends_with_the_process() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        process.send(stdcopy.frame(stdcopy.STDOUT, b"hello"))
        process.send(stdcopy.frame(stdcopy.STDERR, b"there"))
        process.close()
        assert await client.reader.read() == stdcopy.frame(1, b"hello") + stdcopy.frame(2, b"there")

    run(scenario)


@pytest.mark.parametrize("target", [ATTACH, f"/v1.50/exec/{EXEC}/start"])
def test_a_client_that_reads_late_has_the_head_by_itself(target: str) -> None:
    """It may read the head through a buffer, and the stream past it."""

    async def scenario(served: Served) -> None:
        fakes = served.fakes.containers if target == ATTACH else served.fakes.execs
        with socket.socket(socket.AF_UNIX) as client:
            ask(served, client, target)
            client.setblocking(False)
            await settled(lambda: fakes.process is not None)
            assert fakes.process is not None
            fakes.process.send(b"output")
            fakes.process.close()
            await settled(lambda: unread(client) > 0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert client.recv(65536).endswith(b"\r\n\r\n")
            assert await receive(client, 100) == b"output"

    run(scenario)


@pytest.mark.parametrize("target", [ATTACH, f"/v1.50/exec/{EXEC}/start"])
def test_a_client_that_goes_before_it_has_read_the_head_leaves_nothing(target: str) -> None:
    async def scenario(served: Served) -> None:
        fakes = served.fakes.containers if target == ATTACH else served.fakes.execs
        with socket.socket(socket.AF_UNIX) as client:
            ask(served, client, target)
            await settled(lambda: unread(client) > 0 and fakes.process is not None)
        assert fakes.process is not None
        assert await receive(fakes.process, 1) == b""

    run(scenario)


def ask(served: Served, client: socket.socket, target: str) -> None:
    """Connects and sends the request, and reads nothing."""
    client.connect(served.path)
    body = b"" if target == ATTACH else b"{}"
    lines = (
        f"POST {target} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    client.send(lines.encode() + body)


def unread(client: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(client.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


def test_input_goes_to_the_process_and_its_end_is_a_half_close() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        client.writer.write(b"input")
        client.writer.write_eof()
        assert await receive(process, 100) == b"input"
        process.send(b"late output")
        process.close()
        assert await client.reader.read() == b"late output"

    run(scenario)


def test_input_that_came_with_the_request_is_not_lost() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        client.writer.write(
            b"POST " + ATTACH.encode() + b" HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly"
        )
        await client.head()
        process = served.fakes.containers.process
        assert process is not None
        client.writer.write(b" and late")
        assert await receive(process, 14) == b"early and late"

    run(scenario)


@pytest.mark.parametrize(
    ("version", "tty", "content_type"),
    [
        ("1.50", False, "application/vnd.docker.multiplexed-stream"),
        ("1.41", False, "application/vnd.docker.raw-stream"),
        ("1.50", True, "application/vnd.docker.raw-stream"),
    ],
)
def test_the_content_type_tells_multiplexed_from_raw(version: str, tty: bool, content_type: str) -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.tty = tty
        client = await served.connect()
        await client.send("POST", f"/v{version}/containers/web/attach?stream=1&stdout=1", **UPGRADE)
        _, headers = await client.head()
        assert headers["content-type"] == content_type

    run(scenario)


def test_a_client_that_asked_for_no_upgrade_gets_200_and_the_stream() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        await client.send("POST", ATTACH)
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "application/vnd.docker.raw-stream")
        process = served.fakes.containers.process
        assert process is not None
        client.writer.write(b"in")
        assert await receive(process, 2) == b"in"
        process.send(b"out")
        process.close()
        assert await client.reader.read() == b"out"

    run(scenario)


def test_megabytes_pass_both_ways_unharmed() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        loop = asyncio.get_running_loop()
        payload = bytes(range(256)) * 40_000

        async def echo() -> None:
            while piece := await loop.sock_recv(process, 65536):
                await loop.sock_sendall(process, piece)
            process.close()

        async def type_in() -> None:
            for start in range(0, len(payload), 100_000):
                client.writer.write(payload[start : start + 100_000])
                await client.writer.drain()
            client.writer.write_eof()

        async with asyncio.TaskGroup() as group:
            group.create_task(echo())
            group.create_task(type_in())
            output = group.create_task(client.reader.read())
        assert output.result() == payload

    run(scenario)


def test_a_process_that_reads_nothing_stops_the_client_from_sending() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        raw = client.writer.get_extra_info("socket")
        client.writer.transport.pause_reading()
        other = socket.socket(fileno=socket.dup(raw.fileno()))
        other.setblocking(False)
        sent = 0
        with other:
            for _ in range(200):
                await asyncio.sleep(0)
                try:
                    sent += other.send(b"x" * 65536)
                except BlockingIOError:
                    await asyncio.sleep(0)
        assert sent < 4 << 20
        process.close()

    run(scenario)


def test_a_client_that_reads_nothing_stops_the_process_from_writing() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        client.writer.transport.pause_reading()
        sent = 0
        for _ in range(400):
            await asyncio.sleep(0)
            try:
                sent += process.send(b"x" * 65536)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert sent < 4 << 20
        process.close()
        client.writer.transport.resume_reading()
        assert len(await client.reader.read()) == sent

    run(scenario)


def test_output_survives_a_process_that_ends_while_input_is_under_way() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        process.send(b"o" * 50_000)
        client.writer.write(b"i" * 10_000)
        process.close()
        client.writer.write(b"more input")
        assert await client.reader.read() == b"o" * 50_000

    run(scenario)


def has_input(process: socket.socket) -> bool:
    try:
        return bool(process.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def test_a_process_that_is_killed_with_input_unread_ends_the_stream() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        process.send(b"output")
        assert await client.reader.readexactly(6) == b"output"
        client.writer.write(b"never read")
        await client.writer.drain()
        await settled(lambda: has_input(process))
        process.send(b"last words")
        process.close()  # resets the connection: there is unread input
        assert await asyncio.wait_for(client.reader.read(), 20) == b"last words"

    run(scenario)


def test_the_process_sees_a_client_that_is_gone() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        client.close()
        assert await receive(process, 1) == b""

    run(scenario)


def test_a_client_that_leaves_after_its_end_of_input_is_noticed() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        client.writer.write_eof()
        assert await receive(process, 1) == b""
        client.close()

        def cut_off() -> bool:
            try:
                process.send(b"x", socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        await settled(cut_off)

    run(scenario)


def test_without_stdin_the_clients_bytes_are_dropped() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served, "/v1.50/containers/web/attach?stream=1&stdout=1")
        client.writer.write(b"nobody asked")
        client.writer.write_eof()
        process.send(b"out")
        with pytest.raises(BlockingIOError):
            process.recv(1)
        assert await client.reader.readexactly(3) == b"out"
        with pytest.raises(BlockingIOError):
            process.recv(1)

    run(scenario)


def test_the_detach_keys_leave_a_terminal_and_are_not_typed() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.tty = True
        client, process = await attached(served)
        client.writer.write(b"ls\x10")
        assert await receive(process, 2) == b"ls"
        client.writer.write(b"\x11never")
        assert await client.reader.read() == b""
        assert await receive(process, 1) == b""
        assert served.fakes.containers.detached

    run(scenario)


def test_other_detach_keys_can_be_asked_for() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.tty = True
        client, process = await attached(served, ATTACH + "&detachKeys=a,ctrl-b")
        client.writer.write(b"\x10\x11a\x02")
        assert await client.reader.read() == b""
        assert await receive(process, 10) == b"\x10\x11"

    run(scenario)


def test_without_a_terminal_every_byte_is_input() -> None:
    async def scenario(served: Served) -> None:
        client, process = await attached(served)
        client.writer.write(b"\x10\x11")
        assert await receive(process, 2) == b"\x10\x11"
        assert not served.fakes.containers.detached

    run(scenario)


def test_invalid_detach_keys_are_refused_before_anything_is_attached() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("POST", ATTACH + "&detachKeys=ctrl-ctrl", **UPGRADE)
        assert (answer.status, answer.message) == (400, "Invalid detach keys (ctrl-ctrl) provided")
        assert served.fakes.containers.process is None

    run(scenario)


def test_an_attach_that_fails_is_an_ordinary_error() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("POST", "/containers/none/attach?stream=1", **UPGRADE)
        assert (answer.status, answer.message) == (404, "No such container: none")

    run(scenario)


def test_what_was_logged_comes_before_what_is_live() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.replay = [b"past ", b"tense "]
        client, process = await attached(served, ATTACH + "&logs=1")
        process.send(b"present")
        process.close()
        assert await client.reader.read() == b"past tense present"

    run(scenario)


def test_a_detached_exec_is_answered_at_once() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("POST", f"/exec/{EXEC}/start", b'{"Detach": true}')
        assert (answer.status, answer.body) == (200, b"")

    run(scenario)


def test_an_attached_exec_is_a_stream() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        await client.send("POST", f"/v1.50/exec/{EXEC}/start", b'{"Detach": false, "Tty": false}', **UPGRADE)
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (101, "application/vnd.docker.multiplexed-stream")
        assert headers["api-version"] == "1.56"
        process = served.fakes.execs.process
        assert process is not None
        client.writer.write(b"in")
        client.writer.write_eof()
        assert await receive(process, 10) == b"in"
        process.send(stdcopy.frame(1, b"out"))
        process.close()
        assert await client.reader.read() == stdcopy.frame(1, b"out")

    run(scenario)


def test_the_head_of_an_exec_is_sent_before_the_process_starts() -> None:
    """docker-py loses what arrives together with the head."""

    async def scenario(served: Served) -> None:
        hold = served.fakes.execs.hold = asyncio.Event()
        client = await served.connect()
        await client.send("POST", f"/v1.50/exec/{EXEC}/start", b"{}", **UPGRADE)
        assert (await client.head())[0] == 101
        assert served.fakes.execs.process is None
        client.writer.write(b"typed ahead")
        hold.set()
        await settled(lambda: served.fakes.execs.process is not None)
        assert await receive(served.fakes.execs.process, 11) == b"typed ahead"  # type: ignore[arg-type]

    run(scenario)


def test_an_exec_that_cannot_start_says_so_in_its_stream() -> None:
    async def scenario(served: Served) -> None:
        failure = errors.StartError("exec", 'exec: "nope": executable file not found in $PATH', 2)
        served.fakes.execs.failure = failure
        for tty in (b"false", b"true"):
            client = await served.connect()
            await client.send("POST", f"/v1.50/exec/{EXEC}/start", b'{"Tty": %s}' % tty, **UPGRADE)
            assert (await client.head())[0] == 101
            text = f"{failure}\r\n".encode()
            expected = text if tty == b"true" else stdcopy.frame(stdcopy.STDOUT, text)
            assert await client.reader.read() == expected
        answer = await served.request("POST", f"/exec/{EXEC}/start", b'{"Detach": true}')
        assert (answer.status, answer.message) == (400, str(failure))

    run(scenario)


def test_an_unknown_exec_is_not_found() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("POST", "/exec/none/start", b"{}", **UPGRADE)
        assert (answer.status, answer.message) == (404, "No such exec instance: none")

    run(scenario)


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"])
def test_a_whole_session_sent_at_once_is_understood(upgrade: bytes) -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        body = b'{"Tty": false}'
        client.writer.write(
            f"POST /exec/{EXEC}/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n".encode()
            + upgrade
            + f"content-length: {len(body)}\r\n\r\n".encode()
            + body
            + b"typed ahead"
        )
        client.writer.write_eof()
        await client.head()
        process = served.fakes.execs.process
        assert process is not None
        assert await receive(process, 100) == b"typed ahead"
        process.send(b"done")
        process.close()
        assert await client.reader.read() == b"done"

    run(scenario)


def test_a_request_in_small_pieces_is_the_same_request() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        raw = b"POST " + ATTACH.encode() + b" HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly"
        client.writer.write(raw[:40])
        for position in range(40, len(raw)):
            await asyncio.sleep(0)
            client.writer.write(raw[position : position + 1])
        await client.head()
        process = served.fakes.containers.process
        assert process is not None
        assert await receive(process, 5) == b"early"

    run(scenario)


def test_requests_behind_one_that_was_not_hijacked_are_answered() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        await client.send("POST", "/containers/none/attach", **UPGRADE)
        await client.send("POST", f"/exec/{EXEC}/start", b'{"Detach": true}')
        await client.send("GET", "/containers/web/json")
        assert [(await client.answer()).status for _ in range(3)] == [404, 200, 200]

    run(scenario)
