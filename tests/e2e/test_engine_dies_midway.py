"""The engine is killed in the middle of something: its successor ends what was begun, or undoes it. Each test brings the middle about, it does not
hope to hit it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, free_port, wait_until
from tests.e2e.test_engine_dies import shim_of

MakeEngine = Callable[..., Engine]

SLOW_RUNTIME = """#!/bin/sh
# runc, but a create waits until the test lets it go on
case " $* " in *" create "*) : >{gate}/entered; until [ -e {gate}/go ]; do sleep 0.02; done ;; esac
exec runc "$@"
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path


def actions(engine: Engine, name: str) -> list[str]:
    """What this engine has told of a container."""
    words = ("events", "--since=1", f"--until={time.time()}", "--format={{.Action}}", f"--filter=container={name}")
    return engine.output(*words).split()


@pytest.mark.requires("runc")
@differs_on_dockerd("forgets a container that it was starting")
def test_a_container_whose_start_was_under_way_runs_with_its_network_and_its_ports(
    own_engine: MakeEngine, gate: Path
) -> None:
    runtime = gate / "slow"
    runtime.write_text(SLOW_RUNTIME.format(gate=gate))
    runtime.chmod(0o755)
    engine = own_engine(f"--add-runtime=slow={runtime}")
    port = free_port()
    flags = ("--name=web", "--runtime=slow", "-p", f"{port}:80")
    engine.docker("create", *flags, BUSYBOX, "sh", "-c", "echo served >/index.html; exec httpd -f -p 80 -h /")
    start = threading.Thread(target=engine.docker, args=("start", "web"), kwargs={"check": False})
    start.start()
    wait_until("the runtime was called", (gate / "entered").exists)
    engine.kill9()
    start.join()
    (gate / "go").touch()
    engine.start()
    state = engine.state("web")
    assert state["Running"] and state["StartedAt"] > "2020"
    address = engine.inspect("web")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert f" {address}/" in engine.output("exec", "web", "ip", "-4", "-o", "addr", "show", "dev", "eth0")

    def serves() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=300) as answer:
                return bool(answer.read() == b"served\n")
        except OSError:
            return False

    wait_until("the published port leads to it", serves)


@pytest.mark.requires("runc")
@differs_on_dockerd("forgets a container that it was starting")
def test_a_container_that_was_being_restarted_is_still_one_that_is_removed_at_its_end(
    own_engine: MakeEngine, gate: Path
) -> None:
    runtime = gate / "slow"
    runtime.write_text(SLOW_RUNTIME.format(gate=gate))
    runtime.chmod(0o755)
    (gate / "go").touch()
    engine = own_engine(f"--add-runtime=slow={runtime}")
    engine.docker("run", "-d", "--rm", "--name=box", "--runtime=slow", "--network=none", BUSYBOX, "sleep", "1000")
    for path in (gate / "go", gate / "entered"):
        path.unlink()
    restart = threading.Thread(target=engine.docker, args=("restart", "-t0", "box"), kwargs={"check": False})
    restart.start()
    wait_until("it was stopped, and is being started", (gate / "entered").exists)
    engine.kill9()
    restart.join()
    (gate / "go").touch()
    engine.start()
    assert engine.inspect("box")["HostConfig"]["AutoRemove"] and engine.state("box")["Running"]
    engine.docker("stop", "-t0", "box")
    wait_until("it is removed", lambda: engine.objects()["containers"] == frozenset())


@pytest.mark.requires("runc")
def test_who_comes_while_a_container_starts_finds_it_running(own_engine: MakeEngine, gate: Path) -> None:
    runtime = gate / "slow"
    runtime.write_text(SLOW_RUNTIME.format(gate=gate))
    runtime.chmod(0o755)
    engine = own_engine(f"--add-runtime=slow={runtime}")
    for words in (("exec", "box", "true"), ("kill", "box"), ("stop", "-t0", "box")):
        engine.docker("create", "--name=box", "--runtime=slow", "--network=none", BUSYBOX, "sleep", "1000")
        with engine.popen("start", "box") as start:
            wait_until("it is being started", (gate / "entered").exists)
            with engine.popen(*words) as other:
                (gate / "go").touch()
                assert other.wait(timeout=300) == 0, words
            assert start.wait(timeout=300) == 0
        assert engine.state("box")["Running"] is (words[0] == "exec")
        engine.docker("rm", "-f", "box")
        for path in (gate / "go", gate / "entered"):
            path.unlink()


@differs_on_dockerd("forgets that a container was stopped by hand")
def test_a_stop_that_was_under_way_counts_as_one_by_hand(own_engine: MakeEngine, gate: Path) -> None:
    engine = own_engine()
    script = "trap 'touch /gate/asked' TERM; echo ready; until [ -e /gate/go ]; do sleep 0.02; done; exit 5"
    flags = ("--name=box", "--restart=unless-stopped", "--network=none", "-v", f"{gate}:/gate")
    engine.docker("run", "-d", *flags, BUSYBOX, "sh", "-c", script)
    engine.until_said("box")
    with engine.popen("stop", "-t", "600", "box") as client:
        wait_until("the container was told to stop", (gate / "asked").exists)
        engine.kill9()
        client.communicate()
    (gate / "go").touch()
    engine.start()
    wait_until("it has ended", lambda: not engine.state("box")["Running"])
    state = engine.state("box")
    assert (state["Status"], state["ExitCode"]) == ("exited", 5)
    assert "start" not in actions(engine, "box")


def test_an_auto_removed_container_that_never_ran_goes_with_its_volume(own_engine: MakeEngine) -> None:
    engine = own_engine()
    engine.docker("create", "--rm", "--name=brief", "-v", "/data", BUSYBOX, "true")
    engine.docker("create", "--name=other", "-v", "/data", BUSYBOX, "true")
    volumes = engine.objects()["volumes"]
    engine.kill9()
    engine.start()
    assert engine.output("ps", "-a", "--format={{.Names}}") == "other"
    kept = {mount["Name"] for mount in engine.inspect("other")["Mounts"]}
    assert len(volumes) == 2 and engine.objects()["volumes"] == kept


@differs_on_dockerd("keeps no such record")
def test_an_end_that_was_recorded_is_not_recorded_again(own_engine: MakeEngine, gate: Path) -> None:
    engine = own_engine()
    flags = ("--name=box", "--network=none", "-v", f"{gate}:/gate")
    engine.docker("run", "-d", *flags, BUSYBOX, "sh", "-c", "until [ -e /gate/go ]; do sleep 0.02; done; exit 7")
    task = engine.exec_root / "tasks" / engine.inspect("box")["Id"]
    shutil.copytree(task, gate / "task", ignore=shutil.ignore_patterns("shim.sock"))
    (gate / "go").touch()
    assert engine.output("wait", "box") == "7"
    wait_until("the task is cleared", lambda: not task.exists())
    before = engine.state("box")
    engine.kill9()
    shutil.copytree(gate / "task", task)  # as if the engine had died before it cleared it
    engine.start()
    assert engine.state("box") == before
    assert actions(engine, "box") == []
    assert not task.exists()


@pytest.mark.parametrize("verb", ["rm", "run --rm"])
def test_a_volume_that_another_container_uses_is_not_removed_along(engine: Engine, verb: str) -> None:
    engine.docker("create", "--name=first", *(["--rm"] if "--rm" in verb else []), "-v", "/data", BUSYBOX, "true")
    name = engine.inspect("first")["Mounts"][0]["Name"]
    engine.docker("run", "--name=second", "-v", f"{name}:/data", BUSYBOX, "sh", "-c", "echo kept >/data/file")
    if "--rm" in verb:
        engine.docker("start", "-a", "first")
        wait_until("it is removed", lambda: engine.api("GET", "/containers/first/json")[0] == 404)
    else:
        engine.docker("rm", "-v", "first")
    assert engine.shell("cat /data/file", "-v", f"{name}:/data") == "kept"


@differs_on_dockerd("has no such shims")
def test_a_shim_that_does_not_answer_holds_nobody_up(own_engine: MakeEngine) -> None:
    engine = own_engine()
    for name in ("stuck", "other"):
        engine.docker(
            "run",
            "-d",
            f"--name={name}",
            BUSYBOX,
            "sh",
            "-c",
            "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done",
        )
        engine.until_said(name)
    before = {name: engine.inspect(name) for name in ("stuck", "other")}
    shim = shim_of(before["stuck"]["State"]["Pid"])
    os.kill(shim, signal.SIGSTOP)
    try:
        engine.kill9()
        engine.start()
        for name in before:
            after = engine.inspect(name)
            assert after["State"] == before[name]["State"], name
            assert after["NetworkSettings"]["Networks"] == before[name]["NetworkSettings"]["Networks"], name
        assert engine.output("exec", "other", "echo", "here") == "here"
    finally:
        os.kill(shim, signal.SIGCONT)
    assert engine.output("exec", "stuck", "echo", "here too") == "here too"
    engine.docker("stop", "-t", "300", "stuck")
    assert engine.state("stuck")["ExitCode"] == 4
