"""A container through the shim: its output, its exit, its signals, its memory, its volumes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest
from tests.root.shim_lab import Client, has_zombies, lab, run

from wherry.core.tasks import BindRoot, CopyUp, JsonFileLogConfig, TaskSpec
from wherry.errors import AlreadyExists, Conflict, NotFound, StartError

pytestmark = pytest.mark.requires("root", "overlay", "busybox")


def log_of(path: Path) -> list[tuple[str, str]]:
    return [(record["stream"], record["log"]) for record in map(json.loads, path.read_text().splitlines())]


@run
async def test_output_and_exit_status_arrive_in_full(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client()
        task = await it.shell("echo out; echo err >&2; exit 42", clients=(client,))
        assert await client.read() == {1: b"out\n", 2: b"err\n"}
        event = await it.exited()
        assert (event.status, event.exec_id, event.oom_killed, event.lost, event.pid) == (
            42,
            None,
            False,
            False,
            task.pid,
        )
        assert sorted(log_of(it.log_path())) == [("stderr", "err\n"), ("stdout", "out\n")]


@run
async def test_all_of_a_hundred_megabytes_arrives_in_order_at_client_and_log(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client()
        expected = b"".join(b"%0199d\n" % number for number in range(500_000))
        await it.start(["awk", 'BEGIN { for (i = 0; i < 500000; i++) printf "%0199d\\n", i }'], clients=(client,))
        output = await client.read()
        assert len(output[1]) == len(expected) == 100_000_000
        assert output[1] == expected
        assert (await it.exited()).status == 0
        with open(it.log_path(), "rb") as log:
            logged = hashlib.sha256()
            for line in log:
                logged.update(line[8 : line.index(b'","stream"')].replace(b"\\n", b"\n"))
        assert logged.digest() == hashlib.sha256(expected).digest()


@run
async def test_a_hundred_megabytes_through_stdin_come_back_unchanged(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        client = Client(stdin=True)
        block = os.urandom(1 << 20)
        spec = it.spec(["cat"], stdin=True, stdin_once=True)
        it._ids.append("c")
        await it.tasks.start(
            "c", TaskSpec(spec.config, spec.rootfs, stdin=True, stdin_once=True), attach=[client.request]
        )
        client.connected()

        async def feed() -> None:
            for _ in range(100):
                await client.send(block)
            client.end_input()

        feeding = asyncio.ensure_future(feed())
        output = await client.read()
        await feeding
        assert hashlib.sha256(output[1]).digest() == hashlib.sha256(block * 100).digest()
        assert (await it.exited()).status == 0


@run
async def test_death_by_a_signal_is_128_and_its_number(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000")
        await task.signal(9)
        assert (await it.exited()).status == 137
        with pytest.raises(NotFound):
            await task.signal(15)


@run
async def test_a_signal_reaches_init_and_with_all_every_process(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 1000 & wait; done")
        await it.wait_for_log("ready")
        await task.signal(10)
        assert (await it.exited()).status == 5
        assert ("stdout", "caught\n") in log_of(it.log_path())


@run
async def test_a_program_that_is_not_there_is_a_start_error_and_leaves_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        with pytest.raises(StartError, match='exec: "nope": executable file not found in \\$PATH') as caught:
            await it.start(["nope"])
        assert (caught.value.step, caught.value.errno) == ("exec", 2)
        assert it.tasks.get("c") is None
        assert not (tmp_path / "exec/tasks/c").exists()
        assert it.events == []
        await it.start(["true"])  # the name is free again
        assert (await it.exited()).status == 0


@run
async def test_a_malformed_configuration_is_a_start_error(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        spec = it.spec(["true"])
        del spec.config["process"]
        with pytest.raises(StartError):
            await it.tasks.start("c", spec)
        with pytest.raises(StartError, match="root file system"):
            await it.tasks.start("c", TaskSpec(it.spec(["true"]).config, BindRoot("/no/such/dir")))
        with pytest.raises(StartError, match="no such file"):
            await it.start(["true"], log=JsonFileLogConfig(str(tmp_path / "absent/dir/log")))
        assert os.listdir(tmp_path / "exec/tasks") == []


@run
async def test_a_container_that_runs_cannot_be_started_again(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await it.shell("sleep 1000")
        with pytest.raises(Conflict):
            await it.start(["true"])
        (tmp_path / "exec/tasks/foreign").mkdir()
        with pytest.raises(AlreadyExists):
            await it.start(["true"], "foreign")


@run
async def test_a_container_is_started_again_as_soon_as_its_exit_was_told(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        for number in range(5):
            it.events.clear()
            await it.shell(f"echo {number}")
            assert (await it.exited()).status == 0
        assert [text for _, text in log_of(it.log_path())] == ["0\n", "1\n", "2\n", "3\n", "4\n"]


@run
async def test_twenty_containers_start_at_once(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await asyncio.gather(*(it.shell(f"exit {number}", f"c{number}") for number in range(20)))
        assert [(await it.exited(f"c{number}")).status for number in range(20)] == list(range(20))


@run
async def test_exceeding_the_memory_limit_is_reported(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        limit = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
        await it.shell("tail /dev/zero", resources=limit)
        event = await it.exited()
        assert (event.status, event.oom_killed) == (137, True)


@run
async def test_a_container_without_output_or_stdin_has_dev_null_and_no_other_descriptor(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        await it.shell(
            "readlink /proc/self/fd/0; ls /proc/self/fd; cat; grep -E 'SigIgn|SigBlk' /proc/self/status; cat /proc/self/oom_score_adj"
        )
        await it.exited()
        lines = "".join(text for _, text in log_of(it.log_path())).split("\n")
        assert lines[:5] == ["/dev/null", "0", "1", "2", "3"]
        assert [line.split()[1] for line in lines[5:7]] == ["0" * 16, "0" * 16]
        assert lines[7] == "0"


@run
async def test_a_fresh_volume_takes_over_the_images_content_once(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        image = it.rootfs / "data"
        image.mkdir(mode=0o750)
        (image / "file").write_text("from the image")
        os.chown(image / "file", 1000, 1000)
        (it.rootfs / "escape").symlink_to("/../../../../../../etc")
        volume, escaped = tmp_path / "volume", tmp_path / "escaped"
        volume.mkdir()
        escaped.mkdir()
        mounts = [{"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]}]
        copies = (CopyUp(str(volume), "/data"), CopyUp(str(escaped), "/escape"))
        await it.shell("cat /data/file; echo changed > /data/file", copy_up=copies, mounts=mounts)
        await it.exited()
        assert log_of(it.log_path()) == [("stdout", "from the image")]
        assert os.stat(volume / "file").st_uid == 1000
        assert volume.stat().st_mode & 0o777 == 0o750
        assert os.listdir(escaped) == ["passwd"], "the link leads to /etc of the image, not of the host"
        it.events.clear()
        await it.shell("cat /data/file", copy_up=copies, mounts=mounts)
        await it.exited()
        assert (volume / "file").read_text() == "changed\n"


@run
async def test_without_a_pid_namespace_of_its_own_nothing_outlives_init(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        shared = ("mount", "ipc", "uts", "network", "cgroup")
        task = await it.shell("sleep 1000 & (sleep 1000; echo never) & echo started; exit 3", namespaces=shared)
        event = await it.exited()
        assert event.status == 3
        assert log_of(it.log_path()) == [("stdout", "started\n")]
        await task.wait_released()


@run
async def test_orphans_are_reaped(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        shared = ("mount", "ipc", "uts", "network", "cgroup")
        await it.shell("for i in 1 2 3 4 5; do (true &) ; done; echo made; sleep 1000", namespaces=shared)
        await it.wait_for_log("made")
        await it.exec(it.tasks.get("c"), ["sh", "-c", "(true &)"])  # type: ignore[arg-type]
        await it.exited(exec_id="e")
        shim = it.shim_pid()
        while has_zombies(shim):  # the last ones may be ending just now
            await asyncio.sleep(0.01)


@run
async def test_a_paused_container_stands_still_and_takes_no_exec(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("echo up; sleep 1000")
        await it.wait_for_log("up")
        await task.pause()
        assert (await task.status())["state"] == "paused"
        with pytest.raises(Conflict):
            await it.exec(task, ["true"])
        with pytest.raises(Conflict):
            await task.pause()
        await task.resume()
        with pytest.raises(Conflict):
            await task.resume()
        await it.exec(task, ["true"])
        assert (await it.exited(exec_id="e")).status == 0
        await task.pause()
        await task.signal(9)  # acts at once
        assert (await it.exited()).status == 137


@run
async def test_limits_change_while_it_runs(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("echo up; sleep 1000", resources={"pids": {"limit": 50}})
        await it.wait_for_log("up")
        await task.update({"pids": {"limit": 3}})
        await it.exec(task, ["sh", "-c", "for i in 1 2 3 4; do sleep 100 & done; true"])
        assert (await it.exited(exec_id="e")).status == 2  # sh: can't fork


@run
async def test_pids_are_all_processes_of_the_container(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        task = await it.shell("sleep 1000 & sleep 1000 & echo up; wait")
        await it.wait_for_log("up")
        pids = await task.pids()
        assert task.pid in pids
        assert len(pids) == 3
        status = await task.status()
        assert (status["pid"], status["state"], status["exit"], status["execs"]) == (task.pid, "running", None, {})


@run
async def test_the_log_rotates(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        log = JsonFileLogConfig(str(it.log_path()), max_size=20_000, max_file=3, attrs={"tag": "x"})
        await it.shell("seq 1 2000", log=log)
        await it.exited()
        names = sorted(path.name for path in it.log_path().parent.glob("json.log*"))
        assert names == ["json.log", "json.log.1", "json.log.2"]
        kept = [text for name in reversed(names) for _, text in log_of(it.log_path().parent / name)]
        assert kept == [f"{number}\n" for number in range(2001 - len(kept), 2001)]


@run
async def test_nothing_of_a_container_is_in_the_hosts_mount_table(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        before = Path("/proc/self/mountinfo").read_text()
        await it.shell("sleep 1000")
        assert Path("/proc/self/mountinfo").read_text() == before
        assert Path(f"/proc/{it.shim_pid()}/mountinfo").read_text() == before
