"""Other OCI runtimes behind the shim: the same promises through runc and crun."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import leaks
from tests.root.shim_lab import Client, Lab, lab, run, until_dead

from wherry.core.tasks import CopyUp, ExternalRuntime
from wherry.errors import Conflict, StartError


def runtime(name: str, directory: Path) -> ExternalRuntime:
    """crun refuses a machine whose v1 hierarchies stand beside an empty v2 one, so it is shown the machine without that."""
    if name == "crun" and os.path.ismount("/sys/fs/cgroup/unified"):
        wrapper = directory / "crun"
        wrapper.write_text(
            '#!/bin/sh\nexec unshare -m sh -c \'umount /sys/fs/cgroup/unified; exec crun "$@"\' crun "$@"\n'
        )
        wrapper.chmod(0o755)
        return ExternalRuntime(str(wrapper))
    found = shutil.which(name)
    assert found is not None
    return ExternalRuntime(found)


BOTH = [
    pytest.param("runc", marks=pytest.mark.requires("root", "overlay", "busybox", "runc")),
    pytest.param("crun", marks=pytest.mark.requires("root", "overlay", "busybox", "crun")),
]
for_both = pytest.mark.parametrize("name", BOTH)


def go(tmp_path: Path, name: str, body: Callable[..., object]) -> None:
    @run
    async def test(tmp_path: Path) -> None:
        async with lab(tmp_path) as it:
            await body(it, runtime(name, tmp_path))  # type: ignore[misc]

    test(tmp_path)


@for_both
def test_output_exit_and_exec(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        client = Client(stdin=True)
        task = await it.shell(
            "hostname; read line; echo err >&2; exit $line", runtime=used, clients=(client,), stdin=True
        )
        other = Client()
        await it.exec(task, ["sh", "-c", "echo inside; exit 4"], clients=(other,))
        assert await other.read() == {1: b"inside\n"}
        assert (await it.exited(exec_id="e")).status == 4
        assert task.pid in await task.pids()
        await client.send(b"17\n")
        assert await client.read() == {1: b"lab\n", 2: b"err\n"}
        event = await it.exited()
        assert (event.status, event.pid, event.lost) == (17, task.pid, False)
        await task.wait_released()
        assert len(it.log_path().read_text().splitlines()) == 2

    go(tmp_path, name, body)


@for_both
def test_a_terminal_for_init_and_for_an_exec(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        client = Client(stdin=True)
        task = await it.shell("tty; read line; stty size", runtime=used, clients=(client,), stdin=True, terminal=True)
        await client.read_until(b"/dev/", raw=True)
        other = Client(stdin=True)
        await it.exec(task, ["sh", "-c", "tty; read line; echo $line"], clients=(other,), stdin=True, terminal=True)
        await other.send(b"typed\n")
        assert b"typed" in await other.read_raw()
        await task.resize(101, 41)
        await client.send(b"\n")
        assert b"41 101" in await client.read_raw()

    go(tmp_path, name, body)


@for_both
def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        with pytest.raises(StartError, match="nope"):
            await it.start(["nope"], runtime=used)
        assert os.listdir(it.directory / "exec/tasks") == []
        with pytest.raises(StartError, match="no such file"):
            await it.start(["true"], runtime=ExternalRuntime("/no/such/runtime"))

    go(tmp_path, name, body)


@for_both
def test_pause_update_and_signals(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        task = await it.shell("echo up; sleep 1000", runtime=used, resources={"pids": {"limit": 50}})
        await it.wait_for_log("up")
        await task.pause()
        with pytest.raises(Conflict):
            await it.exec(task, ["true"])
        await task.resume()
        if name == "runc":
            await task.update({"pids": {"limit": 20}})
        await task.signal(9)
        assert (await it.exited()).status == 137

    go(tmp_path, name, body)


@for_both
def test_a_killed_shim_takes_the_container_with_it(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        task = await it.shell("echo up; sleep 1000", runtime=used)
        await it.wait_for_log("up")
        os.kill(it.shim_pid(), signal.SIGKILL)
        assert (await it.exited()).lost
        await until_dead(task.pid)
        leaks.reap_orphans()

    go(tmp_path, name, body)


@for_both
def test_a_restarted_engine_finds_it(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        await it.shell("echo up; sleep 1000", runtime=used)
        await it.wait_for_log("up")
        await it.tasks.close()
        it.tasks = it.new_tasks()
        await it.tasks.open()
        running, ended = await it.tasks.reconnect()
        assert ([task.container_id for task in running], ended) == (["c"], [])
        client = Client()
        await it.exec(running[0], ["echo", "here"], clients=(client,))
        assert await client.read() == {1: b"here\n"}

    go(tmp_path, name, body)


@for_both
def test_nothing_is_in_the_hosts_mount_table_and_volumes_are_filled(tmp_path: Path, name: str) -> None:
    async def body(it: Lab, used: ExternalRuntime) -> None:
        (it.rootfs / "data").mkdir()
        (it.rootfs / "data/file").write_text("of the image")
        volume = it.directory / "volume"
        volume.mkdir()
        mounts = [{"destination": "/data", "type": "bind", "source": str(volume), "options": ["rbind"]}]
        before = Path("/proc/self/mountinfo").read_text()
        await it.shell("cat /data/file", runtime=used, mounts=mounts, copy_up=(CopyUp(str(volume), "/data"),))
        assert Path("/proc/self/mountinfo").read_text() == before
        await it.exited()
        assert json.loads(it.log_path().read_text())["log"] == "of the image"

    go(tmp_path, name, body)
