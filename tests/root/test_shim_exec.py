"""Further processes in a running container."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.root.shim_lab import Client, lab, run

from wherry.errors import Conflict, NotFound, StartError

pytestmark = pytest.mark.requires("root", "overlay", "busybox")


@run
async def test_an_exec_is_inside_the_container_and_its_exit_is_told(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("echo up; sleep 1000")
        client = Client()
        pid = await it.exec(
            task, ["sh", "-c", "hostname; ps | grep -c 'sleep 1000$'; echo err >&2; exit 9"], clients=(client,)
        )
        assert await client.read() == {1: b"lab\n1\n", 2: b"err\n"}
        event = await it.exited(exec_id="e")
        assert (event.status, event.pid, event.container_id) == (9, pid, "c")
        assert (await task.status())["execs"] == {}
        assert "err" not in it.log_path().read_text()


@run
async def test_an_execs_stdin_ends_with_its_client(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        client = Client(stdin=True)
        await it.exec(task, ["cat"], clients=(client,), stdin=True)
        await client.send(b"through")
        client.end_input()
        assert await client.read() == {1: b"through"}
        assert (await it.exited(exec_id="e")).status == 0


@run
async def test_an_exec_with_a_terminal(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        client = Client(stdin=True)
        await it.exec(
            task, ["sh", "-c", "stty size; read line; stty size; echo $line"], clients=(client,), stdin=True, terminal=True,
            consoleSize={"height": 20, "width": 70},
        )  # fmt: skip
        await client.read_until(b"20 70", raw=True)
        await task.resize(80, 25, exec_id="e")
        await client.send(b"typed\n")
        rest = await client.read_raw()
        assert b"25 80" in rest
        assert rest.endswith(b"typed\r\n")
        assert (await it.exited(exec_id="e")).status == 0


@run
async def test_a_second_client_attaches_to_an_exec(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        await it.exec(task, ["sh", "-c", "read line; echo $line"], stdin=True)
        client = await it.attach(task, exec_id="e", stdin=True)
        await client.send(b"late\n")
        assert await client.read() == {1: b"late\n"}


@run
async def test_a_signal_goes_to_the_exec_it_names(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        await it.exec(task, ["sleep", "1000"])
        with pytest.raises(Conflict):
            await it.exec(task, ["true"])
        await task.signal(15, exec_id="e")
        assert (await it.exited(exec_id="e")).status == 143
        with pytest.raises(NotFound):
            await task.signal(15, exec_id="e")
        assert task.exit is None


@run
async def test_what_cannot_be_run_is_a_start_error_and_the_container_goes_on(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        client = Client()
        with pytest.raises(StartError) as caught:
            await it.exec(task, ["nope"], clients=(client,))
        assert (caught.value.step, caught.value.errno) == ("exec", 2)
        client.connected()
        assert await client.read_raw() == b""
        await it.exec(task, ["true"])
        assert (await it.exited(exec_id="e")).status == 0


@run
async def test_background_output_of_an_exec_reaches_its_client_for_two_seconds(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        client = Client()
        after = "while kill -0 $$; do :; done 2>/dev/null; echo late; sleep 1000; echo never"
        await it.exec(task, ["sh", "-c", f"({after}) & echo now"], clients=(client,))
        await it.exited(exec_id="e")
        assert await client.read() == {1: b"now\nlate\n"}
        pids = await task.pids()
        assert len(pids) > 1, "it is not killed, only no longer listened to"


@run
async def test_execs_end_before_the_container_does(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        clients = [Client() for _ in range(3)]
        for number, client in enumerate(clients):
            await it.exec(task, ["sleep", "1000"], f"e{number}", clients=(client,))
        await task.signal(9)
        await it.exited()
        assert [event.exec_id for event in it.events[:3]] != [None] * 3
        assert [event.status for event in it.events] == [137] * 4
        assert it.events[-1].exec_id is None
        for client in clients:
            assert await client.read() == {}


@run
async def test_what_an_exec_has_said_is_read_to_its_end_after_the_containers(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        client = Client()
        await it.exec(task, ["seq", "1", "60000"], clients=(client,))
        await it.exited(exec_id="e")
        await task.signal(9)
        await it.exited()
        await task.wait_released()
        assert await client.read() == {1: b"".join(b"%d\n" % number for number in range(1, 60_001))}


@run
async def test_many_execs_leave_the_shim_as_small_as_it_was(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        await it.until_spare()
        shim = it.shim_pid()

        async def some(start: int) -> None:
            for number in range(start, start + 40):
                client = Client()
                await it.exec(task, ["echo", "x"], f"e{number}", clients=(client,))
                assert await client.read() == {1: b"x\n"}
                await it.exited(exec_id=f"e{number}")
                client.close()
            await task.status()  # by now the last one's end has been dealt with
            while len(children(shim)) > 1:  # who has made it shares the shim's pages as long as it lives
                await asyncio.sleep(0.01)

        await some(0)
        before = memory_of(shim), len(os.listdir(f"/proc/{shim}/fd"))
        for round_ in range(1, 5):
            await some(40 * round_)
        after = memory_of(shim), len(os.listdir(f"/proc/{shim}/fd"))
        assert after[1] == before[1]
        assert after[0] - before[0] < 256, (
            "KiB: what is free lies here and there; 160 execs that each left something would show"
        )


@run
async def test_execs_run_beside_each_other(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        clients = [Client() for _ in range(10)]
        await asyncio.gather(
            *(
                it.exec(task, ["sh", "-c", f"sleep 0.2; echo {number}"], f"e{number}", clients=(client,))
                for number, client in enumerate(clients)
            )
        )
        assert [await client.read() for client in clients] == [{1: b"%d\n" % number} for number in range(10)]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def memory_of(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
