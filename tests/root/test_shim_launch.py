"""The zygote: it cannot be used to overwrite the host's interpreter, it is small, it leaves no zombies and loads nothing late."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.root.shim_lab import Client, has_zombies, lab, run

from wherry.shim import launch

pytestmark = pytest.mark.requires("root", "overlay", "busybox")


@run
async def test_the_interpreter_cannot_be_written_through_any_process_of_ours(tmp_path: Path) -> None:
    """CVE-2019-5736: whoever is inside a container reaches the runtime's file as /proc/PID/exe."""
    async with lab(tmp_path) as it:
        await it.shell("sleep 1000")
        zygote = it.tasks._zygote_process
        assert zygote is not None
        for pid in (zygote.pid, it.shim_pid()):
            with pytest.raises(OSError):
                os.open(f"/proc/{pid}/exe", os.O_WRONLY)
            assert os.stat(f"/proc/{pid}/exe").st_ino == os.stat(os.path.realpath(sys.executable)).st_ino


def test_the_sealed_copy_runs_and_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = launch._sealed_copy("/bin/busybox")
    try:
        shown = subprocess.run(
            ["busybox", "echo", "runs"],
            executable=f"/proc/self/fd/{fd}",
            pass_fds=[fd],
            capture_output=True,
            check=True,
        )
        assert shown.stdout == b"runs\n"
        writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(writable, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(writable, 0)
        os.close(writable)
    finally:
        os.close(fd)


@run
async def test_a_zygote_from_a_sealed_copy_starts_containers(tmp_path: Path) -> None:
    before = launch.open_executable
    launch.open_executable = launch._sealed_copy
    try:
        async with lab(tmp_path) as it:
            await it.shell("exit 3")
            assert (await it.exited()).status == 3
    finally:
        launch.open_executable = before


@run
async def test_processes_of_the_shim_have_nothing_of_the_engines_open(tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        async with lab(tmp_path) as it:
            task = await it.shell("sleep 1000")
            await it.until_spare()
            await task.status()  # nor has the shim anything to do any more
            zygote = it.tasks._zygote_process
            assert zygote is not None
            for pid in (zygote.pid, it.shim_pid()):
                names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                assert not any("secret" in name for name in names)
            assert {os.readlink(f"/proc/{it.shim_pid()}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}


@run
async def test_a_shim_loads_no_library_that_the_zygote_has_not(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        zygote = it.tasks._zygote_process
        assert zygote is not None
        before = libraries(zygote.pid)
        task = await it.shell("sleep 1000", terminal=True)
        client = Client()
        await it.exec(task, ["true"], clients=(client,))
        await it.exited(exec_id="e")
        assert libraries(it.shim_pid()) <= before


def libraries(pid: int) -> set[str]:
    return {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if line.endswith(".so")}


@run
async def test_the_zygote_has_no_zombies_and_ends_with_the_engine(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        zygote = it.tasks._zygote_process
        assert zygote is not None
        for number in range(5):
            await it.shell("true", f"c{number}")
            await it.exited(f"c{number}")
        while has_zombies(zygote.pid):
            await asyncio.sleep(0.01)
    assert zygote.poll() == 0


@run
async def test_the_rehearsal_leaves_nothing_behind(tmp_path: Path) -> None:
    """The zygote has been a shim for a few lives (`shim.rehearsal`): no descriptor, process, handler or role of them is left."""
    async with lab(tmp_path) as it:
        await it.shell("sleep 1000")
        await it.until_spare()
        zygote = it.tasks._zygote_process
        assert zygote is not None
        assert len(os.listdir(f"/proc/{zygote.pid}/fd")) == 4
        shims = {str(it.shim_pid()), *Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().split()}
        assert len(shims) <= 2  # the container's, and a spare one
        status = dict(line.split(":\t") for line in Path(f"/proc/{zygote.pid}/status").read_text().splitlines())
        assert int(status["SigCgt"], 16) == 0
        assert int(status["SigIgn"], 16) & 1 << signal.SIGCHLD - 1
        assert not int(status["SigIgn"], 16) & 1 << signal.SIGTERM - 1


@run
async def test_one_more_idle_container_costs_little_memory(tmp_path: Path) -> None:
    """What a shim has for itself; what it shares with the zygote one more container does not cost again (docs/SPECIFICATION.md)."""
    async with lab(tmp_path) as it:
        for number in range(10):
            await it.shell("sleep 1000", f"c{number}")
        own = sorted(private_memory(it.shim_pid(f"c{number}")) for number in range(10))
        assert own[5] <= 1100, "KiB"


def private_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])
    raise AssertionError("no Private_Dirty")
