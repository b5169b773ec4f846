"""`docker events`: the life of a container, as it is told."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.e2e.harness import BUSYBOX, Engine, wait_until


def recorded(engine: Engine, since: float, *flags: str) -> list[dict[str, Any]]:
    """The events from `since` to now, oldest first."""
    text = engine.output("events", f"--since={since:.9f}", f"--until={time.time():.9f}", "--format={{json .}}", *flags)
    return [json.loads(line) for line in text.splitlines()]


def actions(events: list[dict[str, Any]], kind: str = "container") -> list[str]:
    return [event["Action"] for event in events if event["Type"] == kind]


def test_the_life_of_a_container(engine: Engine) -> None:
    since = time.time()
    ref = engine.output("create", "--name=told", "-l", "a=b", "--network=none", BUSYBOX, "sh", "-c", "exit 3")
    engine.docker("start", "-a", "told", check=False)
    engine.docker("rm", "told")
    events = recorded(engine, since)
    assert actions(events) == ["create", "attach", "start", "die", "destroy"]
    died = next(event for event in events if event["Action"] == "die")
    assert died["Actor"]["ID"] == ref
    wanted = {"exitCode": "3", "image": BUSYBOX, "name": "told", "a": "b"}
    assert wanted.items() <= died["Actor"]["Attributes"].items()
    times = [event["timeNano"] for event in events]
    assert times == sorted(times)


def test_stop_kill_pause_rename_and_restart_are_told(engine: Engine) -> None:
    since = time.time()
    engine.docker("run", "-d", "--name=told", "--network=none", BUSYBOX, "sleep", "1000")
    engine.docker("pause", "told")
    engine.docker("unpause", "told")
    engine.docker("rename", "told", "retold")
    engine.docker("restart", "-t", "0", "retold")
    engine.docker("stop", "-t", "0", "retold")
    engine.docker("rm", "retold")
    wanted = [
        "create",
        "start",
        "pause",
        "unpause",
        "rename",
        "kill",
        "die",
        "stop",
        "start",
        "restart",
        "kill",
        "die",
        "stop",
        "destroy",
    ]
    told = actions(recorded(engine, since))
    assert [action for action in told if told.count(action) and action != "kill"] == [
        action for action in wanted if action != "kill"
    ]
    assert told.count("kill") >= 2


def test_execs_are_told(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=told", "--network=none", BUSYBOX, "sleep", "1000")
    since = time.time()
    engine.docker("exec", "told", "sh", "-c", "exit 4", check=False)
    wait_until("the exec's end is told", lambda: "exec_die" in actions(recorded(engine, since)))
    told = recorded(engine, since)
    assert [action.split(":")[0] for action in actions(told)] == ["exec_create", "exec_start", "exec_die"]
    assert actions(told)[0] == "exec_create: sh -c exit 4"
    assert told[-1]["Actor"]["Attributes"]["exitCode"] == "4"


def test_an_out_of_memory_kill_is_told(engine: Engine) -> None:
    since = time.time()
    engine.docker(
        "run", "--network=none", "-m=16m", "--memory-swap=16m", BUSYBOX, "tail", "-c", "64m", "/dev/zero", check=False
    )
    assert "oom" in actions(recorded(engine, since))


def test_events_arrive_live(engine: Engine) -> None:
    since = f"--since={time.time():.9f}"
    with engine.popen("events", since, "--format={{.Action}}", "--filter=container=told") as listener:
        assert listener.stdout is not None
        engine.docker("create", "--name=told", BUSYBOX, "true")
        assert listener.stdout.readline() == "create\n"  # from now on it listens, if it has not before
        engine.docker("rm", "told")
        assert listener.stdout.readline() == "destroy\n"
        listener.terminate()


def test_filters_choose(engine: Engine) -> None:
    since = time.time()
    for name in ("one", "two"):
        engine.docker("run", "--rm", f"--name={name}", "-l", f"which={name}", "--network=none", BUSYBOX, "true")
    wait_until("both are gone", lambda: actions(recorded(engine, since)).count("destroy") == 2)
    assert len(actions(recorded(engine, since, "--filter=event=die"))) == 2
    assert set(
        actions(recorded(engine, since, "--filter=container=one", "--filter=event=die", "--filter=event=start"))
    ) == {"start", "die"}
    names = {event["Actor"]["Attributes"]["name"] for event in recorded(engine, since, "--filter=label=which=two")}
    assert names == {"two"}
    assert actions(recorded(engine, since, "--filter=type=image")) == []


def test_image_events_are_told(engine: Engine) -> None:
    since = time.time()
    engine.docker("tag", BUSYBOX, "other:1")
    engine.docker("rmi", "other:1")
    assert actions(recorded(engine, since), "image") == ["tag", "untag"]


def test_volume_events_are_told(engine: Engine) -> None:
    since = time.time()
    engine.docker("volume", "create", "told")
    engine.docker("run", "--rm", "--network=none", "-v", "told:/v", BUSYBOX, "true")
    engine.docker("volume", "rm", "told")
    wait_until("all is told", lambda: "destroy" in actions(recorded(engine, since), "volume"))
    told = actions(recorded(engine, since), "volume")
    assert list(dict.fromkeys(told)) == [
        "create",
        "mount",
        "unmount",
        "destroy",
    ]  # dockerd tells of the creation at each use again


def test_networks_and_volumes_tell_who_comes_and_goes(engine: Engine) -> None:
    since = time.time()
    for network in ("bridge", "none", "host"):
        engine.docker("run", "--rm", f"--name=on-{network}", f"--network={network}", "-v=/data", BUSYBOX, "true")
        told = [
            (event["Type"], event["Action"], event["Actor"]["Attributes"].get("type", ""))
            for event in recorded(engine, since)
        ]
        since = time.time()
        driver = {"none": "null"}.get(network, network)
        assert told == [
            ("volume", "create", ""),
            ("container", "create", ""),
            ("container", "attach", ""),
            ("network", "connect", driver),
            ("volume", "mount", ""),
            ("container", "start", ""),
            ("container", "die", ""),
            ("network", "disconnect", driver),
            ("volume", "unmount", ""),
            ("volume", "destroy", ""),
            ("container", "destroy", ""),
        ]


def test_a_start_that_fails_leaves_the_network_again(engine: Engine) -> None:
    since = time.time()
    engine.docker("run", "--name=failing", "--network=none", BUSYBOX, "nope", check=False)
    assert actions(recorded(engine, since), "network") == ["connect", "disconnect"]
