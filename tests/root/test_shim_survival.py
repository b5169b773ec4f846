"""What survives what: the engine killed, the shim killed, both, a container that ends alone; two engines on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import leaks
from tests.root.shim_lab import Client, Lab, busybox_rootfs, lab, run, until_dead, within

from wherry.core.tasks import Tasks
from wherry.errors import NotFound, Unavailable
from wherry.shim import launch

pytestmark = pytest.mark.requires("root", "overlay", "busybox")


@contextlib.contextmanager
def zygotes_that_die(number: int) -> Iterator[Callable[[], int]]:
    """The next `number` zygotes are killed as soon as they are there. → how many are still to be."""
    start_zygote, left = launch.start_zygote, number

    def start_doomed() -> tuple[subprocess.Popen[bytes], socket.socket]:
        nonlocal left
        zygote, control = start_zygote()
        if left:
            left -= 1
            zygote.kill()
        return zygote, control

    launch.start_zygote = start_doomed
    try:
        yield lambda: left
    finally:
        launch.start_zygote = start_zygote


async def engine_dies(it: Lab) -> None:
    """As kill -9 of wherryd: every socket closes, nothing is said; the zygote ends with it."""
    await it.tasks.close()


async def engine_returns(it: Lab) -> tuple[list[str], list[tuple[str, int]]]:
    it.tasks = it.new_tasks()
    await it.tasks.open()
    running, ended = await it.tasks.reconnect()
    it.events += ended
    return [task.container_id for task in running], [(event.container_id, event.status) for event in ended]


@run
async def test_containers_and_their_logs_go_on_without_an_engine(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await it.shell("i=0; while read n; do i=$((i+1)); echo $i; done < /tmp/in; echo end", mounts=[fifo(it)])
        writer = os.open(it.directory / "in", os.O_RDWR)
        os.write(writer, b"x\n" * 10)
        await it.wait_for_log('"10\\n')
        await engine_dies(it)
        os.write(writer, b"x\n" * 10)
        await it.wait_for_log('"20\\n')
        assert await engine_returns(it) == (["c"], [])
        os.write(writer, b"x\n" * 10)
        await it.wait_for_log('"30\\n')
        task = it.tasks.get("c")
        assert task is not None
        client = await it.attach(task)
        await it.exec(task, ["sh", "-c", "echo still here"], clients=(other := Client(),))
        assert await other.read() == {1: b"still here\n"}
        await task.signal(15)
        await task.signal(9)
        assert (await it.exited()).status == 137
        await client.read()
        os.close(writer)
        logged = [json.loads(line)["log"] for line in it.log_path().read_text().splitlines()]
        assert logged == [f"{number}\n" for number in range(1, 31)]


def fifo(it: Lab) -> dict[str, object]:
    os.mkfifo(it.directory / "in")
    (it.rootfs / "tmp/in").touch()
    return {"destination": "/tmp/in", "type": "bind", "source": str(it.directory / "in"), "options": ["bind"]}


@run
async def test_exits_that_no_engine_saw_are_told_to_the_next(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        for number in range(3):
            await it.shell(f"read go; exit {number + 3}", f"c{number}", stdin=True, clients=(Client(stdin=True),))
        await it.shell("sleep 1000", "stays")
        clients = it._clients
        await engine_dies(it)
        for client in clients:
            await client.send(b"go\n")
        for number in range(3):
            record = tmp_path / f"exec/tasks/c{number}/exit.json"
            while not record.exists():
                await asyncio.sleep(0.01)
        running, ended = await engine_returns(it)
        assert running == ["stays"]
        assert ended == [("c0", 3), ("c1", 4), ("c2", 5)]
        assert all(event.at_ns > 1_700_000_000 * 10**9 and event.pid > 0 and not event.lost for event in it.events)


@run
async def test_execs_go_on_without_an_engine_and_their_exit_is_told_to_the_next(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        await it.exec(
            task,
            ["sh", "-c", "read line; echo $line > /tmp/got; exit 6"],
            "ends",
            stdin=True,
            clients=(client := Client(stdin=True),),
        )
        await it.exec(task, ["sleep", "1000"], "stays")
        pid = task.pid
        await engine_dies(it)
        await client.send(b"input\n")
        await client.read()
        await engine_returns(it)
        event = await it.exited(exec_id="ends")
        assert event.status == 6
        task = it.tasks.get("c")
        assert task is not None
        assert task.pid == pid
        assert (await task.status())["execs"]["stays"]["running"]
        await task.signal(9, exec_id="stays")
        assert (await it.exited(exec_id="stays")).status == 137


@run
async def test_an_exit_is_told_once_to_an_engine_that_was_there(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await it.shell("exit 3")
        await it.exited()
        await engine_dies(it)
        assert await engine_returns(it) == ([], [("c", 3)])  # not forgotten: the record is still there
        await it.tasks.forget("c")
        await engine_dies(it)
        assert await engine_returns(it) == ([], [])


@run
async def test_a_start_waits_for_all_that_is_left_of_the_run_before(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        for _ in range(5):
            await it.shell("exit 3")
            await it.exited()
            it.events.clear()
            clearing = asyncio.create_task(it.tasks.forget("c"))  # as the engine does it when it has recorded the end
            await asyncio.sleep(0)
            task = await it.shell("sleep 1000")
            await clearing
            await task.signal(9)
            await it.exited()
            it.events.clear()
            await it.tasks.forget("c")


@pytest.mark.parametrize("namespaces", [("pid",), ()], ids=["own pid namespace", "pid namespace of the host"])
def test_a_killed_shim_takes_the_container_with_it(tmp_path: Path, namespaces: tuple[str, ...]) -> None:
    @run
    async def test(tmp_path: Path) -> None:
        async with lab(tmp_path) as it:
            all_namespaces = (*namespaces, "mount", "ipc", "uts", "network", "cgroup")
            client = Client()
            task = await it.shell(
                "setsid sleep 1000 & setsid sleep 1000 & echo up; wait", namespaces=all_namespaces, clients=(client,)
            )
            await client.read_until(b"up\n")
            pids = await task.pids()
            assert len(pids) == 3
            os.kill(it.shim_pid(), signal.SIGKILL)
            event = await it.exited()
            assert (event.status, event.lost) == (137, True)
            assert groups_of(it.cgroup("c")) == []
            for pid in pids:
                await until_dead(pid)
            assert "shim was killed" in it.warnings[0]
            await it.shell("echo again")  # and the name is free

    test(tmp_path)


def groups_of(path: str) -> list[str]:
    return [point for point in leaks.cgroup_hierarchies() if os.path.isdir(point + path)]


@run
async def test_a_shim_killed_while_no_engine_runs_is_found_out_by_the_next(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell(
            "trap '' TERM HUP INT; sleep 1000 & sleep 1000", namespaces=("mount", "ipc", "uts", "network", "cgroup")
        )
        pids = await task.pids()
        shim = it.shim_pid()
        await engine_dies(it)
        os.kill(shim, signal.SIGKILL)
        await until_dead(shim)
        assert await engine_returns(it) == ([], [("c", 255)])
        assert it.events[0].lost
        for pid in pids:
            await until_dead(pid)
        assert groups_of(it.cgroup("c")) == []


@run
async def test_a_paused_container_whose_shim_is_killed_does_not_stay(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        await task.pause()
        os.kill(it.shim_pid(), signal.SIGKILL)
        assert (await it.exited()).lost
        await until_dead(task.pid)


@run
async def test_a_shim_killed_in_the_middle_of_a_question_is_noticed(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        shim = it.shim_pid()
        os.kill(shim, signal.SIGSTOP)
        asking = asyncio.ensure_future(task.pids())
        await asyncio.sleep(0.1)
        os.kill(shim, signal.SIGKILL)
        with pytest.raises(NotFound):
            await within(300, asking)
        assert (await within(300, it.exited())).lost


@run
async def test_a_shim_leaves_only_after_its_container(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
        await it.wait_for_log("up")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(it.shim_pid(), number)
        assert (await task.status())["state"] == "running"
        await task.signal(signal.SIGTERM)
        assert (await it.exited()).status == 5


@run
async def test_a_killed_zygote_is_replaced(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await it.shell("sleep 1000", "before")
        zygote = it.tasks._zygote_process
        assert zygote is not None
        zygote.kill()
        for number in range(3):
            await it.shell("exit 4", f"c{number}")
            assert (await it.exited(f"c{number}")).status == 4
        assert (await it.tasks.get("before").status())["state"] == "running"  # type: ignore[union-attr]


@run
async def test_a_zygote_that_is_killed_again_and_again_is_replaced(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        with zygotes_that_die(3) as left:
            it.end_zygote_and_spare()
            await it.shell("exit 4")
            assert (await it.exited()).status == 4
            assert left() == 0


@run
async def test_a_zygote_that_always_dies_is_told(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        with zygotes_that_die(1000):
            it.end_zygote_and_spare()
            with pytest.raises(Unavailable, match="the zygote has died 5 times"):
                await it.shell("exit 4", "refused")
        await it.shell("exit 4")
        assert (await it.exited()).status == 4


@run
async def test_two_engines_do_not_meet(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        (tmp_path / "second").mkdir()
        other = Lab(tmp_path / "second")
        other.group = it.group + "-second"
        await other.tasks.open()
        try:
            await asyncio.gather(it.shell("sleep 1000"), other.shell("exit 8"))
            assert (await other.exited()).status == 8
            assert it.events == []
            assert await other.new_tasks().reconnect() is not None
        finally:
            await other.finish()
        assert (await it.tasks.get("c").status())["state"] == "running"  # type: ignore[union-attr]


@run
async def test_a_peer_that_breaks_the_protocol_loses_its_connection_and_nothing_else(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        path = str(tmp_path / "exec/tasks/c/shim.sock")
        assert os.stat(path).st_mode & 0o777 == 0o600
        for garbage in (b"\xff" * 100, b"\0\0\0\2[]", b'\0\0\0\x0a{"fds": 3}', b"\0\0\0\2{}"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(garbage)
            writer.write_eof()
            await within(300, reader.read())
            writer.close()
        for request in (
            b'{"id":1,"op":"start"}',
            b'{"id":1,"op":"nope"}',
            b'{"id":1,"op":["x"]}',
            b'{"id":1,"op":"attach"}',
            b'{"id":1,"op":"signal","signal":99999}',
        ):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(len(request).to_bytes(4, "big") + request)
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
            assert "error" in json.loads(answer)
            writer.close()
        assert (await task.status())["state"] == "running"
        assert not (tmp_path / "exec/tasks/c/shim.err").exists()


def test_kill_minus_nine_of_a_real_process_with_the_engines_part(tmp_path: Path) -> None:
    """Not a simulated death: another process owns the tasks, and is killed while its containers write."""
    source = (
        "import sys, asyncio, uvloop; from pathlib import Path; from tests.root.shim_lab import Lab\n"
        "async def main():\n"
        "    it = Lab(Path(sys.argv[1])); it.group = sys.argv[2]; await it.tasks.open()\n"
        "    for n in range(5):\n"
        "        await it.shell('i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; sleep 1000', f'w{n}')\n"
        "    for n in range(3):\n"
        "        await it.shell(f'sleep 0.5; exit {n + 20}', f'e{n}')\n"
        "    print('ready', flush=True); await asyncio.sleep(1000)\n"
        "uvloop.run(main())\n"
    )

    @run
    async def test(tmp_path: Path) -> None:
        here = tmp_path / "engine"
        here.mkdir()
        group = f"/wherry-lab-{os.getpid()}"
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            source,
            str(here),
            group,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "src:."},
        )
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        child.kill()
        await child.wait()
        it = Lab.__new__(Lab)
        it.directory, it.rootfs, it.group = here, here / "rootfs", group
        it.events, it.warnings, it._clients = [], [], []
        it._arrived, it._ids = asyncio.Event(), [*(f"w{n}" for n in range(5)), *(f"e{n}" for n in range(3))]
        it.tasks = it.new_tasks()
        await it.tasks.open()
        try:
            running, ended = await it.tasks.reconnect()
            it.events += ended
            assert {f"w{n}" for n in range(5)} <= {task.container_id for task in running}
            assert [(await it.exited(f"e{n}")).status for n in range(3)] == [20, 21, 22]
            for number in range(5):
                await it.wait_for_log('"3000\\n"', f"w{number}")
                logged = [json.loads(line)["log"] for line in it.log_path(f"w{number}").read_text().splitlines()]
                assert logged == [f"{count}\n" for count in range(1, 3001)]
        finally:
            await it.finish()

    test(tmp_path)


@run
async def test_tasks_of_an_empty_directory(tmp_path: Path) -> None:
    tasks = Tasks(str(tmp_path), lambda event: None)
    await tasks.open()
    assert await tasks.reconnect() == ([], [])
    assert tasks.get("c") is None
    await tasks.forget("c")
    await tasks.close()
    assert busybox_rootfs(tmp_path).is_dir()
