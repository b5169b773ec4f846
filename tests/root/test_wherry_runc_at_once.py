"""Several calls of wherry-runc on one container at the same time: each ends with a result, and nothing is left half-made."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.root.test_wherry_runc import Runtime, groups, program, reap, rootfs, runtime

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox")


def at_once(runtime: Runtime, *commands: list[str]) -> list[tuple[int, str]]:
    """(exit status, what was said) of commands that run together."""
    running = []
    for number, words in enumerate(commands):
        path = runtime.bundle / f"said{number}"
        with open(path, "wb") as output:
            running.append(
                (
                    path,
                    subprocess.Popen(runtime.command(*words), stdin=subprocess.DEVNULL, stdout=output, stderr=output),
                )
            )
    results = []
    for path, process in running:
        status = process.wait(300)
        results.append((status, path.read_text()))
        assert "Traceback" not in results[-1][1]
    reap()
    return results


def test_one_of_many_creates_wins(runtime: Runtime) -> None:
    runtime.write("sleep", "1000")
    results = at_once(runtime, *[["create", "-b", str(runtime.bundle), "box"]] * 4)
    assert sorted(status for status, _ in results) == [0, 1, 1, 1], results
    assert all("already exists" in said for status, said in results if status)
    assert runtime.status() == "created"


def test_one_of_many_starts_wins_and_the_program_runs_once(runtime: Runtime, tmp_path: Path) -> None:
    mounts = [
        *runtime.config["mounts"],
        {"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["bind"]},
    ]
    runtime.write("sh", "-c", "echo ran >>/out/runs; sleep 1000", mounts=mounts)
    assert at_once(runtime, ["create", "-b", str(runtime.bundle), "box"])[0][0] == 0
    results = at_once(runtime, *[["start", "box"]] * 4)
    assert sorted(status for status, _ in results) == [0, 1, 1, 1], results
    while not (tmp_path / "runs").exists() or not (tmp_path / "runs").read_text().endswith("\n"):
        time.sleep(0.01)
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_many_deletes_of_a_running_container_leave_nothing(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    results = at_once(runtime, *[["delete", "--force", "box"]] * 4, ["state", "box"], ["list"])
    assert {status for status, _ in results[:4]} == {0}, results
    assert runtime("list", "-q").stdout == ""
    assert groups() == []
    assert not (runtime.root / "box").exists()


def test_looking_and_acting_together_with_the_end_is_a_result_or_a_named_error(runtime: Runtime) -> None:
    for _ in range(3):
        runtime.start("sleep", "1000")
        looks = [["state", "box"], ["ps", "-f", "json", "box"], ["exec", "box", "true"], ["pause", "box"], ["update", "--pids-limit", "50", "box"],
                 ["kill", "box", "KILL"], ["delete", "-f", "box"]]  # fmt: skip
        results = at_once(runtime, *looks)
        killed = (128 + signal.SIGKILL, "")  # the exec's program, with the container
        assert all(
            status == 0 or (status in (1, 255) and "level=error" in said) or (status, said) == killed
            for status, said in results
        ), results
        runtime("delete", "-f", "box")
        assert groups() == []
        assert not (runtime.root / "box").exists()


@pytest.mark.requires("cgroup1")
def test_updates_together_do_not_forget_one_another(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    changes = [("--pids-limit", "51"), ("--pids-limit", "52"), ("--memory", "80m"), ("--cpu-share", "77")]
    results = at_once(runtime, *(["update", *change, "box"] for change in changes))
    assert {status for status, _ in results} == {0}, results
    kept = json.loads((runtime.root / "box/config.json").read_text())["linux"]["resources"]
    assert (kept["memory"]["limit"], kept["cpu"]["shares"]) == (80 << 20, 77)
    paths = json.loads((runtime.root / "box/state.json").read_text())["cgroup_paths"]
    assert Path(paths["pids"], "pids.max").read_text() == f"{kept['pids']['limit']}\n"
