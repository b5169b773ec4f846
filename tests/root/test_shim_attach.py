"""Attached clients: several at once, slow ones, ones that go away; terminals; the end of stdin."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.root.shim_lab import Client, lab, run, within

from wherry.errors import Conflict, NotFound
from wherry.shim import stdio
from wherry.wire import stdcopy

pytestmark = pytest.mark.requires("root", "overlay", "busybox")


@run
async def test_two_clients_get_the_same_output(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = Client()
        task = await it.shell("read go; seq 1 10000; echo err >&2", clients=(first,), stdin=True)
        second = await it.attach(task, stdin=True)
        only_errors = await it.attach(task, stdout=False)
        await second.send(b"go\n")
        outputs = await asyncio.gather(first.read(), second.read(), only_errors.read())
        expected = b"".join(b"%d\n" % number for number in range(1, 10001))
        assert outputs == [{1: expected, 2: b"err\n"}] * 2 + [{2: b"err\n"}]


@run
async def test_a_late_client_gets_what_is_output_from_then_on(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("echo before; read go; echo after", stdin=True)
        await it.wait_for_log("before")
        client = await it.attach(task, stdin=True)
        await client.send(b"go\n")
        assert await client.read() == {1: b"after\n"}


@run
async def test_a_client_that_goes_away_takes_nothing_with_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        gone = Client(stdin=True)
        task = await it.shell("read line; echo got $line; read more; echo end", clients=(gone,), stdin=True)
        await gone.send(b"one\n")
        gone.close()
        await it.wait_for_log("got one")
        client = await it.attach(task, stdin=True)
        await client.send(b"two\n")
        assert await client.read() == {1: b"end\n"}
        assert (await it.exited()).status == 0


@run
async def test_input_sent_before_going_away_still_arrives(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client(stdin=True, stdout=False, stderr=False)
        await it.shell("sleep 0.2; wc -c", clients=(client,), stdin=True, stdin_once=True)
        await client.send(b"x" * 150_000)
        client.close()
        await it.exited()
        assert json.loads(it.log_path().read_text())["log"] == "150000\n"


@run
async def test_the_end_of_a_clients_input_is_the_end_of_stdin_where_asked_for(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        once = Client(stdin=True)
        await it.start(["cat"], clients=(once,), stdin=True, stdin_once=True)
        await once.send(b"all")
        once.end_input()
        assert await once.read() == {1: b"all"}
        assert (await it.exited()).status == 0

        kept = Client(stdin=True)
        task = await it.start(["cat"], "kept", clients=(kept,), stdin=True)
        await kept.send(b"first")
        await kept.read_until(b"first")
        kept.end_input()
        other = await it.attach(task, stdin=True)
        await other.send(b" second")
        assert await kept.read_until(b"second") == b" second"
        await task.close_stdin()
        assert (await it.exited("kept")).status == 0


@run
async def test_input_for_a_process_that_does_not_read_waits_and_does_not_grow(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client(stdin=True)
        task = await it.shell("sleep 1000; cat", clients=(client,), stdin=True, stdin_once=True)
        await it.exec(task, ["true"])
        data = b"y" * 3_000_000
        sending = asyncio.ensure_future(client.send(data))
        with pytest.raises(TimeoutError):
            await within(0.3, asyncio.shield(sending))
        sending.cancel()
        await task.signal(9)
        await it.exited()


@run
async def test_a_slow_client_holds_the_output_up_and_still_gets_all_of_it(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client()
        await it.shell("seq 1 400000; echo done >&2", clients=(client,))
        await asyncio.sleep(0.5)
        assert it.events == [], "the container waits for its reader"
        output = await client.read()
        assert output[1] == b"".join(b"%d\n" % number for number in range(1, 400_001))
        assert (await it.exited()).status == 0


@run
async def test_a_client_that_never_reads_is_cut_off_with_an_error_and_the_log_is_whole(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        stuck = Client()
        await it.shell("seq 1 400000", clients=(stuck,))
        await it.exited()
        with open(it.log_path()) as log:
            assert sum(1 for _ in log) == 400_000
        received = await stuck.read()
        assert stdcopy.SYSTEM_ERROR in received
        assert b"cut off" in received[stdcopy.SYSTEM_ERROR]
        assert received[1].startswith(b"1\n2\n3\n")
        assert len(received[1]) <= stdio.MAX_LAG + 4 * stdio.CHUNK + 500_000


@run
async def test_a_terminal_is_one_raw_stream_with_a_size_that_follows(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client(stdin=True)
        task = await it.shell(
            "tty; stty size; trap 'stty size' WINCH; echo ready >&2; "
            'while :; do read line; [ "$line" = quit ] && exit 0; echo "<$line>"; done',
            clients=(client,), terminal=True, stdin=True, process={"consoleSize": {"height": 33, "width": 99}},
        )  # fmt: skip
        shown = await client.read_until(b"ready", raw=True)
        assert shown.replace(b"\r\n", b"\n").startswith(b"/dev/console\n33 99\n") or b"\r\n33 99\r\n" in shown
        await task.resize(132, 50)
        await client.send(b"\n")
        await client.read_until(b"50 132", raw=True)
        await client.send(b"hello\n")
        await client.read_until(b"<hello>", raw=True)
        client.end_input()  # of no consequence for a terminal
        await it.exec(task, ["true"])
        second = await it.attach(task, stdin=True)
        await second.send(b"again\n")
        await second.read_until(b"<again>", raw=True)
        await second.send(b"quit\n")
        rest = await client.read_raw()
        assert rest.count(b"<again>") == 1
        assert (await it.exited()).status == 0
        logs = [json.loads(line) for line in it.log_path().read_text().splitlines()]
        assert {record["stream"] for record in logs} == {"stdout"}


@run
async def test_ctrl_c_on_a_terminal_interrupts_the_foreground(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client(stdin=True)
        await it.shell(
            "trap 'exit 7' INT; echo ready; while :; do sleep 0.1; done", clients=(client,), terminal=True, stdin=True
        )
        await client.read_until(b"ready", raw=True)
        await client.send(b"\x03")
        assert (await it.exited()).status == 7


@run
async def test_the_last_output_of_a_terminal_is_not_lost(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        for number in range(5):
            name = f"c{number}"
            client = Client()
            await it.shell("seq 1 2000; printf end", name, clients=(client,), terminal=True)
            output = await client.read_raw()
            assert output.endswith(b"2000\r\nend"), output[-20:]


@run
async def test_resize_is_for_terminals_and_requests_for_what_is_not_there_are_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        with pytest.raises(Conflict):
            await task.resize(10, 10)
        with pytest.raises(NotFound):
            await it.attach(task, exec_id="absent")
        with pytest.raises(NotFound):
            await task.signal(9, exec_id="absent")


@run
async def test_clients_of_a_container_that_writes_no_more_end_without_a_reset(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client(stdin=True)
        task = await it.shell("echo out; exec sleep 1000", clients=(client,), stdin=True)
        await it.wait_for_log("out")
        await client.send(b"input that nobody reads" * 1000)
        await task.signal(9)
        assert await client.read() == {1: b"out\n"}
