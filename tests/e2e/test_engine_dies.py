"""The engine is killed and comes back; a shim is killed; everything is removed. What was running runs on, nothing is lost, nothing is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable

from tests import leaks
from tests.e2e.harness import BUSYBOX, PEER, Engine, differs_on_dockerd, wait_until

MakeEngine = Callable[..., Engine]
QUIET, WRITERS, ENDING = 12, 5, 3
WRITER = "n=0; while [ $n -lt 100000 ]; do n=$((n+1)); echo line $n; sleep 0.01; done"


def end(engine: Engine, name: str) -> None:
    """Let a container of the kind ENDING end: it waits for this file in a directory that it shares with the host."""
    (engine.root / "gate" / name).touch()


def start_twenty(engine: Engine) -> dict[str, int]:
    """20 containers; → name and host pid of each."""
    (engine.root / "gate").mkdir(exist_ok=True)
    for n in range(QUIET):
        network = "none" if n % 2 else "bridge"
        engine.docker("run", "-d", f"--name=quiet{n}", f"--network={network}", BUSYBOX, "sleep", "100000")
    for n in range(WRITERS):
        engine.docker("run", "-d", f"--name=writer{n}", "--network=none", BUSYBOX, "sh", "-c", WRITER)
    for n in range(ENDING):
        script = f"until [ -e /gate/ending{n} ]; do sleep 0.05; done; echo the end; exit {40 + n}"
        engine.docker(
            "run",
            "-d",
            f"--name=ending{n}",
            "--network=none",
            "-v",
            f"{engine.root}/gate:/gate",
            BUSYBOX,
            "sh",
            "-c",
            script,
        )
    rows = engine.api("GET", "/containers/json")[1]
    assert len(rows) == QUIET + WRITERS + ENDING
    return {row["Names"][0][1:]: engine.state(row["Id"])["Pid"] for row in rows}


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def numbers(engine: Engine, name: str) -> list[int]:
    return [int(line.split()[1]) for line in engine.output("logs", name).splitlines()]


@differs_on_dockerd("loses the last output of a container that ends while no engine runs")
def test_kill_9_of_the_engine_loses_nothing(own_engine: MakeEngine) -> None:
    engine = own_engine()
    since = time.time()
    pids = start_twenty(engine)
    before = {name: engine.inspect(name) for name in pids}

    engine.kill9()
    for n in range(ENDING):
        end(engine, f"ending{n}")
    ends = [engine.exec_root / "tasks" / before[f"ending{n}"]["Id"] / "exit.json" for n in range(ENDING)]
    wait_until("the three ended without an engine", lambda: all(end.exists() for end in ends))
    time.sleep(1)  # the writers write on meanwhile
    assert all(alive(pid) for name, pid in pids.items() if not name.startswith("ending"))
    engine.start()

    for name in pids:
        after = engine.inspect(name)
        if name.startswith("ending"):
            state = after["State"]
            assert (state["Status"], state["ExitCode"]) == ("exited", 40 + int(name[-1])), name
            assert state["FinishedAt"] > before[name]["State"]["StartedAt"]
            assert engine.output("logs", name) == "the end"
        else:
            assert after["State"] == before[name]["State"], name
            assert after["NetworkSettings"]["Networks"] == before[name]["NetworkSettings"]["Networks"]
        assert after["RestartCount"] == 0

    for n in range(WRITERS):
        seen = numbers(engine, f"writer{n}")
        assert seen == list(range(1, len(seen) + 1)), f"writer{n} lost or doubled a line"
        wait_until("the writer's lines go on", lambda n=n, seen=seen: len(numbers(engine, f"writer{n}")) > len(seen))  # type: ignore[misc]

    told = [
        json.loads(line)
        for line in engine.output(
            "events", f"--since={since}", f"--until={time.time()}", "--format={{json .}}", "--filter=event=die"
        ).splitlines()
    ]
    assert {event["Actor"]["Attributes"]["name"]: event["Actor"]["Attributes"]["exitCode"] for event in told} == {
        f"ending{n}": str(40 + n) for n in range(ENDING)
    }
    assert len(told) == ENDING
    check_usable(engine, pids)


def check_usable(engine: Engine, pids: dict[str, int]) -> None:
    """exec, attach, wait, stop and the network of containers that were started by an engine that is no more."""
    assert engine.output("exec", "quiet1", "cat", "/proc/1/comm") == "sleep"
    assert engine.docker("exec", "writer1", "sh", "-c", "exit 23", check=False).returncode == 23
    with engine.popen("attach", "--no-stdin", "--sig-proxy=false", "writer2") as client:
        assert client.stdout is not None
        first = int(client.stdout.readline().split()[1])
        assert [int(client.stdout.readline().split()[1]) for _ in range(5)] == list(range(first + 1, first + 6))
        client.kill()
    addresses = engine.output("exec", "quiet0", "ip", "-4", "-o", "addr", "show", "dev", "eth0")
    assert engine.inspect("quiet0")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] in addresses
    other = engine.inspect("quiet2")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert engine.docker("exec", "quiet0", "ping", "-c1", "-W300", other).returncode == 0
    fresh = (
        engine.output("run", "--rm", BUSYBOX, "ip", "-4", "-o", "addr", "show", "dev", "eth0").split()[3].split("/")[0]
    )
    taken = {
        engine.inspect(f"quiet{n}")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for n in range(0, QUIET, 2)
    }
    assert fresh not in taken
    with engine.popen("wait", "quiet3") as waiter:
        engine.docker("kill", "quiet3")
        assert waiter.stdout is not None
        assert waiter.stdout.read() == "137\n"
    engine.docker("restart", "-t", "0", "quiet5")
    assert engine.state("quiet5")["Pid"] != pids["quiet5"]


@differs_on_dockerd("leaves a socket of its network code behind each crash")
def test_after_rm_f_of_everything_nothing_is_left(own_engine: MakeEngine) -> None:
    engine = own_engine()
    watch = leaks.Watch(roots=(str(engine.root),), file_roots=leftover_roots(engine))
    start_twenty(engine)
    engine.kill9()
    engine.start()
    engine.docker("rm", "-f", "-v", *(f"quiet{n}" for n in range(QUIET)))
    engine.docker("rm", "-f", "-v", *(f"writer{n}" for n in range(WRITERS)), *(f"ending{n}" for n in range(ENDING)))
    left = [label for label in watch.what_is_left() if not is_the_engine_itself(label)]
    assert not left, "\n".join(left)
    assert engine.objects()["containers"] == frozenset()


POOLED = 8


def leftover_roots(engine: Engine) -> tuple[str, ...]:
    """The directories in which each container has files of its own."""
    if PEER == "dockerd":
        return (str(engine.data_root / "containers"),)
    return tuple(
        str(path)
        for path in (
            engine.data_root / "containers",
            engine.data_root / "snapshots" / "active",
            engine.exec_root / "tasks",
        )
    )


def is_the_engine_itself(label: str) -> bool:
    """Its processes, and the few namespaces that it keeps ready for the next containers (far fewer than these tests start)."""
    if label.startswith("network namespace held by wherryd"):
        return int((re.findall(r"\(x(\d+)\)", label) or ["1"])[0]) <= POOLED
    return label.startswith("process: ") and (
        str(label).find("wherryd") > 0 or "daemon.main" in label or "zygote" in label or "dockerd" in label
    )


def test_the_engine_is_killed_again_and_again(own_engine: MakeEngine) -> None:
    engine = own_engine()
    engine.docker("run", "-d", "--name=writer", "--network=none", BUSYBOX, "sh", "-c", WRITER)
    pid = engine.state("writer")["Pid"]
    for _ in range(5):
        engine.kill9()
        engine.start()
    assert engine.state("writer")["Pid"] == pid
    seen = numbers(engine, "writer")
    assert seen == list(range(1, len(seen) + 1))


def stop_and_start_again(engine: Engine) -> None:
    assert engine.process is not None
    engine.process.terminate()
    assert engine.process.wait(timeout=300) == 0
    engine.start()


def test_an_orderly_stop_with_live_restore_leaves_containers_running(own_engine: MakeEngine) -> None:
    engine = own_engine("--live-restore")
    engine.docker("run", "-d", "--name=runner", "--network=none", BUSYBOX, "sleep", "1000")
    pid = engine.state("runner")["Pid"]
    stop_and_start_again(engine)
    assert engine.state("runner")["Pid"] == pid
    assert engine.output("exec", "runner", "echo", "here") == "here"


@differs_on_dockerd("is started with live-restore by these tests, so that it survives the others")
def test_an_orderly_stop_stops_containers_in_their_own_way(own_engine: MakeEngine) -> None:
    engine = own_engine()
    engine.docker(
        "run",
        "-d",
        "--name=obedient",
        "--stop-timeout=250",
        "--network=none",
        BUSYBOX,
        "sh",
        "-c",
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done",
    )
    engine.until_said("obedient")
    pid = engine.state("obedient")["Pid"]
    stop_and_start_again(engine)
    assert not alive(pid)
    assert (engine.state("obedient")["Status"], engine.state("obedient")["ExitCode"]) == ("exited", 7)


def shim_of(pid: int) -> int:
    """The shim is the container's parent process on the host."""
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


@differs_on_dockerd("keeps the container's process alive for some seconds after its shim's death")
def test_kill_9_of_a_shim_ends_its_container_which_is_recorded_and_cleaned_up(own_engine: MakeEngine) -> None:
    engine = own_engine()
    watch = leaks.Watch(roots=(str(engine.root),), file_roots=leftover_roots(engine))
    since = time.time()
    engine.docker("run", "-d", "--name=orphan", "-p", "127.0.0.1::80", BUSYBOX, "sleep", "1000")
    pid = engine.state("orphan")["Pid"]
    with engine.popen("wait", "orphan") as waiter:
        os.kill(shim_of(pid), 9)  # whether or not the waiter waits already, it learns of it
        assert waiter.stdout is not None
        code = int(waiter.stdout.read())
    leaks.reap_orphans(of_other_sessions=True)
    state = engine.state("orphan")
    assert (state["Status"], state["Running"], state["Pid"]) == ("exited", False, 0)
    assert state["ExitCode"] == code
    assert code in (137, 255)
    wait_until("it is dead", lambda: not alive(pid))  # what is out of its cgroup may have a few steps to go
    told = engine.output(
        "events", f"--since={since}", f"--until={time.time()}", "--format={{.Action}}", "--filter=container=orphan"
    ).split()
    assert told.count("die") == 1
    engine.docker("start", "orphan")
    assert engine.state("orphan")["Running"]
    engine.docker("rm", "-f", "orphan")
    left = watch.what_is_left()
    assert not left, "\n".join(left)


@differs_on_dockerd("keeps the container's process alive for some seconds after its shim's death")
def test_kill_9_of_a_shim_while_no_engine_runs_is_found_at_the_next_start(own_engine: MakeEngine) -> None:
    engine = own_engine()
    engine.docker("run", "-d", "--name=orphan", "--network=none", BUSYBOX, "sleep", "1000")
    pid = engine.state("orphan")["Pid"]
    shim = shim_of(pid)
    engine.kill9()
    os.kill(shim, 9)
    wait_until("the container died with its shim", lambda: not alive(pid))
    leaks.reap_orphans(of_other_sessions=True)
    engine.start()
    state = engine.state("orphan")
    assert (state["Status"], state["Running"]) == ("exited", False)
    assert state["ExitCode"] in (137, 255)
    assert state["FinishedAt"] > state["StartedAt"]


def test_kill_9_during_starts_leaves_only_containers_that_are_whole(own_engine: MakeEngine) -> None:
    engine = own_engine()
    with subprocess.Popen(
        ["sh", "-c", f"for n in $(seq 1 50); do docker run -d --name=c$n {BUSYBOX} sleep 1000; done"],
        env=engine.client_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as loop:
        wait_until("some run", lambda: len(engine.api("GET", "/containers/json")[1]) >= 5)
        engine.kill9()
        os.killpg(loop.pid, 9)  # also the client that it waits for, which would ask the next engine
    engine.start()
    for item in engine.api("GET", "/containers/json?all=1")[1]:
        state = engine.state(item["Id"])
        assert state["Status"] in ("created", "running", "exited")
        assert alive(state["Pid"]) == (state["Status"] == "running")
        if state["Running"]:
            assert engine.output("exec", item["Id"], "echo", "whole") == "whole"
    engine.docker("run", "--rm", BUSYBOX, "true")


def test_restart_policies_are_kept_across_engines(own_engine: MakeEngine) -> None:
    engine = own_engine()
    gate = engine.root / "gate"
    gate.mkdir()
    script = "until [ -e /gate/now ]; do sleep 0.05; done; exit 1"
    for name, policy in (("always", "always"), ("never", "no")):
        engine.docker(
            "run",
            "-d",
            f"--name={name}",
            f"--restart={policy}",
            "--network=none",
            "-v",
            f"{gate}:/gate",
            BUSYBOX,
            "sh",
            "-c",
            script,
        )
    ids = [engine.inspect(name)["Id"] for name in ("always", "never")]
    engine.kill9()
    (gate / "now").touch()
    if PEER == "dockerd":
        time.sleep(1)
    else:
        ends = [engine.exec_root / "tasks" / id / "exit.json" for id in ids]
        wait_until("both ended", lambda: all(end.exists() for end in ends))
    (gate / "now").unlink()
    engine.start()
    wait_until("the one is started again", lambda: engine.state("always")["Running"])
    assert engine.state("never")["Status"] == "exited"
