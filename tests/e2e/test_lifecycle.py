"""A container's life by the docker CLI: create, start, attach, wait, stop, kill, restart, pause, rename, rm."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, POOL, Engine, UnixConnection, differs_on_dockerd, wait_until

SLEEP = ("--network=none", BUSYBOX, "sleep", "1000")
# PID 1 has no default action for signals, so a program that should end by one says so; and a signal that comes before is lost.
OBEDIENT = (
    "--network=none",
    BUSYBOX,
    "sh",
    "-c",
    "trap 'exit 7' TERM; trap 'exit 8' USR1; echo ready; while :; do sleep 0.1; done",
)


def test_created_then_started_then_exited(engine: Engine) -> None:
    ref = engine.output("create", "--name=walk", "--network=none", BUSYBOX, "sh", "-c", "read line; sleep 0.1; exit 3")
    assert engine.state(ref)["Status"] == "created"
    assert engine.output("start", "walk") == "walk"
    assert engine.output("wait", "walk") == "3"
    state = engine.state("walk")
    assert (state["Status"], state["Running"], state["ExitCode"], state["Pid"]) == ("exited", False, 3, 0)
    assert state["StartedAt"] < state["FinishedAt"]


def test_a_running_container_says_so(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=runner", *SLEEP)
    state = engine.state("runner")
    assert (state["Status"], state["Running"], state["Paused"], state["ExitCode"]) == ("running", True, False, 0)
    command = Path(f"/proc/{state['Pid']}/cmdline")  # empty in the middle of an execve
    wait_until("its command line is there", lambda: command.read_text() != "")
    assert command.read_text().split("\0")[:2] == ["sleep", "1000"]


def test_start_of_a_running_container_changes_nothing(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=runner", *SLEEP)
    before = engine.state("runner")
    assert engine.api("POST", "/containers/runner/start")[0] == 304
    assert engine.state("runner") == before


def test_start_attached_passes_output_and_exit_code(engine: Engine) -> None:
    engine.docker("create", "--name=again", "--network=none", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 5")
    for _ in range(2):
        done = engine.docker("start", "-a", "again", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")


def test_start_attached_with_stdin(engine: Engine) -> None:
    engine.docker("create", "-i", "--name=reader", "--network=none", BUSYBOX, "cat")
    assert engine.output("start", "-a", "-i", "reader", stdin="to it\n") == "to it"


def test_attach_sees_what_comes_and_its_end(engine: Engine) -> None:
    engine.docker(
        "run",
        "-d",
        "-i",
        "--name=talker",
        "--network=none",
        BUSYBOX,
        "sh",
        "-c",
        "read a; echo got $a; sleep 0.2; exit 4",
    )
    with engine.popen("attach", "talker", stdin=-1) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("this\n")
        client.stdin.flush()
        assert client.stdout.read() == "got this\n"
        assert client.wait(timeout=300) == 4


def attachments(engine: Engine, since: float) -> int:
    """How many clients have been attached to "shared" since then."""
    options = (f"--since={since}", f"--until={time.time()}", "--filter=container=shared", "--filter=event=attach")
    return engine.output("events", *options, "--format={{.Action}}").split().count("attach")


def test_two_clients_are_attached_at_once(engine: Engine) -> None:
    script = "read a; echo said $a; read b; echo end"
    since = time.time()
    engine.docker("run", "-d", "-i", "--name=shared", "--network=none", BUSYBOX, "sh", "-c", script)
    with engine.popen("attach", "--no-stdin", "shared") as listener:
        with engine.popen("attach", "shared", stdin=-1) as talker:
            assert talker.stdin is not None
            assert talker.stdout is not None
            assert listener.stdout is not None
            wait_until("both are attached", lambda: attachments(engine, since) == 2)
            talker.stdin.write("one\n")
            talker.stdin.flush()
            assert talker.stdout.readline() == "said one\n"
            assert listener.stdout.readline() == "said one\n"
            talker.stdin.write("two\n")
            talker.stdin.flush()
            assert talker.stdout.read() == "end\n"
        assert listener.stdout.read() == "end\n"


def test_stop_asks_with_the_signal_of_the_container(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=plain", *OBEDIENT)
    engine.docker("run", "-d", "--name=special", "--stop-signal=USR1", *OBEDIENT)
    for name in ("plain", "special"):
        engine.until_said(name)
    engine.docker("stop", "-t", "300", "plain", "special")
    assert (engine.state("plain")["ExitCode"], engine.state("special")["ExitCode"]) == (7, 8)


def test_stop_kills_what_does_not_listen(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=deaf", *SLEEP)
    engine.docker("stop", "-t", "0", "deaf")
    assert engine.state("deaf")["ExitCode"] == 137


def test_stop_waits_for_the_time_given(engine: Engine) -> None:
    slow = "trap 'sleep 1; exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    engine.docker("run", "-d", "--name=slow", "--network=none", BUSYBOX, "sh", "-c", slow)
    engine.until_said("slow")
    engine.docker("stop", "-t", "300", "slow")
    assert engine.state("slow")["ExitCode"] == 9


def test_stop_of_a_stopped_container_is_no_error(engine: Engine) -> None:
    engine.docker("create", "--name=still", *SLEEP)
    engine.docker("stop", "still")
    assert engine.api("POST", "/containers/still/stop")[0] == 304


@pytest.mark.parametrize("signal", ["USR1", "SIGUSR1", "10"])
def test_kill_sends_the_signal_named(engine: Engine, signal: str) -> None:
    engine.docker("run", "-d", "--name=victim", *OBEDIENT)
    engine.until_said("victim")
    engine.docker("kill", "-s", signal, "victim")
    assert engine.output("wait", "victim") == "8"


def test_kill_of_a_stopped_container_is_a_conflict(engine: Engine) -> None:
    ref = engine.output("create", "--name=still", *SLEEP)
    status, body = engine.api("POST", "/containers/still/kill")
    assert status == 409
    assert ref in body["message"]
    assert "is not running" in body["message"]


def test_an_unknown_signal_is_refused(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=victim", *SLEEP)
    done = engine.docker("kill", "-s", "NOPE", "victim", check=False)
    assert done.returncode == 1
    assert "Invalid signal: NOPE" in done.stderr or "invalid signal: NOPE" in done.stderr.lower()


def test_restart_gives_a_new_process_in_the_same_container(engine: Engine) -> None:
    engine.docker(
        "run",
        "-d",
        "--name=phoenix",
        "--network=none",
        BUSYBOX,
        "sh",
        "-c",
        "echo life >> /lives; wc -l < /lives; exec sleep 1000",
    )
    wait_until("the first life is in the log", lambda: engine.output("logs", "phoenix") == "1")
    first = engine.state("phoenix")
    engine.docker("restart", "-t", "0", "phoenix")
    second = engine.state("phoenix")
    assert second["Running"]
    assert second["Pid"] != first["Pid"]
    assert second["StartedAt"] > first["StartedAt"]
    wait_until("both lives are in the log", lambda: engine.output("logs", "phoenix").split() == ["1", "2"])


def test_pause_stops_the_clock_and_unpause_continues(engine: Engine, tmp_path: Path) -> None:
    script = (
        "while :; do echo tick >> /data/ticks; sleep 0.05; done"  # not its log: what is on the way there still comes
    )
    engine.docker("run", "-d", "--name=clock", "--network=none", f"-v={tmp_path}:/data", BUSYBOX, "sh", "-c", script)
    ticks = tmp_path / "ticks"
    wait_until("it ticks", ticks.exists)
    engine.docker("pause", "clock")
    assert engine.state("clock")["Status"] == "paused"
    done = engine.docker("exec", "clock", "true", check=False)
    assert done.returncode == 1
    assert "is paused, unpause the container before exec" in done.stderr
    before = ticks.stat().st_size
    time.sleep(0.3)
    assert ticks.stat().st_size == before
    engine.docker("unpause", "clock")
    wait_until("it ticks again", lambda: ticks.stat().st_size > before)


def test_a_paused_container_can_be_killed_and_removed(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=frozen", *SLEEP)
    engine.docker("pause", "frozen")
    engine.docker("rm", "-f", "frozen")
    assert engine.api("GET", "/containers/frozen/json")[0] == 404


def test_rename_moves_the_name(engine: Engine) -> None:
    ref = engine.output("create", "--name=old", *SLEEP)
    engine.docker("rename", "old", "new")
    assert engine.inspect("new")["Id"] == ref
    assert engine.api("GET", "/containers/old/json")[0] == 404
    engine.docker("create", "--name=old", *SLEEP)
    assert "already in use" in engine.docker("rename", "new", "old", check=False).stderr


def test_rm_of_a_running_container_needs_force(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=busy", *SLEEP)
    done = engine.docker("rm", "busy", check=False)
    assert done.returncode == 1
    assert "container is running: stop the container before removing or force remove" in done.stderr or (
        "You cannot remove a running container" in done.stderr
    )
    engine.docker("rm", "-f", "busy")
    assert engine.api("GET", "/containers/busy/json")[0] == 404


def test_wait_ends_with_each_container(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=one", "--network=none", BUSYBOX, "sh", "-c", "sleep 0.2; exit 11")
    engine.docker("run", "-d", "--name=two", "--network=none", BUSYBOX, "sh", "-c", "exit 12")
    assert engine.output("wait", "one", "two").split() == ["11", "12"]


def test_wait_for_removal_answers_when_the_container_is_gone(engine: Engine) -> None:
    engine.docker("create", "--rm", "--name=leaving", "--network=none", BUSYBOX, "sh", "-c", "exit 6")
    connection = UnixConnection(engine.socket_path)
    connection.request("POST", "/containers/leaving/wait?condition=removed")
    response = connection.getresponse()  # the head comes at once: the waiter is registered
    engine.docker("start", "leaving")
    assert json.loads(response.read())["StatusCode"] == 6
    connection.close()
    status, body = engine.api("POST", "/containers/leaving/wait?condition=removed")
    assert (status, body["message"]) == (404, "No such container: leaving")


def test_prune_removes_the_stopped_alone(engine: Engine) -> None:
    stopped = engine.output("run", "-d", "--network=none", "--name=stopped", "-l", "mine=1", BUSYBOX, "true")
    engine.docker("wait", "stopped")
    engine.docker("run", "-d", "--name=alive", "-l", "mine=1", *SLEEP)
    printed = engine.output("container", "prune", "-f", "--filter", "label=mine=1")
    assert stopped in printed
    assert engine.state("alive")["Running"]


def test_twenty_brief_containers_leave_nothing(engine: Engine) -> None:
    before = engine.objects()
    for n in range(20):
        engine.docker("run", "--rm", "--network=none", BUSYBOX, "sh", "-c", f"exit {n}", check=False)
    wait_until("all are removed", lambda: engine.objects() == before)
    wait_until("their directories, too", lambda: not any((engine.data_root / "containers").iterdir()))


def test_auto_remove_is_refused_with_a_restart_policy(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--restart=always", *SLEEP, check=False)
    assert done.returncode == 125
    assert "conflicting options" in done.stderr.lower()


def test_restart_policy_on_failure_counts(engine: Engine) -> None:
    engine.docker(
        "run", "-d", "--name=stubborn", "--restart=on-failure:2", "--network=none", BUSYBOX, "sh", "-c", "exit 1"
    )
    wait_until(
        "it gave up",
        lambda: engine.state("stubborn")["Status"] == "exited" and engine.inspect("stubborn")["RestartCount"] == 2,
    )


def test_inspect_formats(engine: Engine) -> None:
    engine.docker("create", "--name=shown", "-e", "A=1", *SLEEP)
    assert (
        engine.output("inspect", "-f", "{{.Name}} {{.State.Status}} {{json .Config.Cmd}}", "shown")
        == '/shown created ["sleep","1000"]'
    )
    assert json.loads(engine.output("inspect", "-f", "{{json .HostConfig.NetworkMode}}", "shown")) == "none"


def test_rm_force_while_a_start_is_under_way(engine: Engine) -> None:
    for delay in (0.002, 0.005, 0.01, 0.015, 0.02):
        ref = engine.output("create", *SLEEP)
        starting = threading.Thread(target=engine.api, args=("POST", f"/containers/{ref}/start"))
        starting.start()
        time.sleep(delay)
        assert engine.api("DELETE", f"/containers/{ref}?force=1")[0] == 204
        starting.join()
        assert engine.output("ps", "-aq") == ""  # and the leak check finds no shim and no cgroup


@pytest.mark.parametrize("verb", ["kill", "stop"])
def test_a_container_that_waits_for_its_restart_can_be_ended(engine: Engine, verb: str) -> None:
    engine.docker("run", "-d", "--name=again", "--restart=always", "--network=none", BUSYBOX, "false")

    def waits_for_long() -> bool:
        """Asked often, so that most of the time is still to come."""
        shown = engine.api("GET", "/containers/again/json")[1]
        return bool(shown["RestartCount"] >= 4 and shown["State"]["Restarting"])

    wait_until("it waits for nearly a second or more", waits_for_long)
    assert engine.api("POST", f"/containers/again/{verb}")[0] == 204  # by the API: it waits for no program to start
    state = engine.state("again")
    assert (state["Status"], state["Restarting"], state["ExitCode"]) == ("exited", False, 1)


def descriptors(engine: Engine) -> tuple[int, int]:
    """The engine's: those of network namespaces apart, which it keeps ready and refills when it has the time."""
    assert engine.process is not None
    targets = []
    for link in Path(f"/proc/{engine.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(os.readlink(link))
    namespaces = sum(target.startswith("net:") for target in targets)
    return len(targets) - namespaces, namespaces


@differs_on_dockerd("its descriptors are not ours to count")
def test_a_start_that_fails_leaves_no_descriptor(engine: Engine) -> None:
    engine.docker("create", "--name=still", BUSYBOX, "true")
    engine.docker("create", "--name=joins", "--network=none", "--pid=container:still", BUSYBOX, "true")
    engine.docker("create", "--name=nope", "--network=none", BUSYBOX, "nope")
    assert engine.docker("start", "-a", "joins", check=False).returncode == 1
    engine.warm_up()
    before, _ = descriptors(engine)
    for name in ("joins", "nope"):
        for _ in range(5):
            assert engine.docker("start", "-a", name, check=False).returncode == 1

    def none_is_left() -> bool:
        """One that each start left would be five; a connection or two come and go."""
        others, namespaces = descriptors(engine)
        return others < before + 5 and namespaces <= 1 + 2 * POOL  # the machine's own, and those that it keeps ready

    wait_until("no descriptor is left", none_is_left)


@pytest.mark.parametrize("pause", [False, True])
def test_a_kill_returns_when_the_container_has_ended(engine: Engine, pause: bool) -> None:
    for _ in range(3):
        engine.docker("run", "-d", "--name=victim", *SLEEP)
        if pause:
            engine.docker("pause", "victim")
        assert engine.api("POST", "/containers/victim/kill")[0] == 204
        assert engine.api("DELETE", "/containers/victim")[0] == 204


def test_a_stop_timeout_of_nothing_is_one(engine: Engine) -> None:
    engine.docker("create", "--name=hasty", "--stop-timeout=0", *SLEEP)
    assert engine.inspect("hasty")["Config"]["StopTimeout"] == 0


def test_a_restart_that_fails_says_that_it_was_one(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=host", *SLEEP)
    engine.docker("run", "-d", "--name=guest", "--pid=container:host", *SLEEP)
    engine.docker("stop", "-t", "0", "host")
    done = engine.docker("restart", "-t", "0", "guest", check=False)
    assert done.returncode == 1
    assert "Cannot restart container guest: " in done.stderr
    assert engine.state("guest")["Status"] == "exited"
