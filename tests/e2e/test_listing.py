"""ps, inspect, top, stats, version, info: what the engine says of what there is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.harness import BUSYBOX, Engine


@pytest.fixture
def three(engine: Engine) -> Iterator[Engine]:
    """Three containers: `up` runs, `down` exited with 3, `new` was never started."""
    engine.docker("run", "-d", "--name=up", "-l", "tier=web", "--network=none", BUSYBOX, "sleep", "1000")
    engine.docker("run", "--name=down", "-l", "tier=db", "--network=none", BUSYBOX, "sh", "-c", "exit 3", check=False)
    engine.docker("create", "--name=new", "--network=none", "-v", "vol:/data", BUSYBOX, "true")
    yield engine


def names(engine: Engine, *flags: str) -> set[str]:
    return set(engine.output("ps", "--format={{.Names}}", *flags).split())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {"up"}),
        ("-a", {"up", "down", "new"}),
        ("-a -f status=exited", {"down"}),
        ("-f status=created", {"new"}),
        ("-a -f exited=3", {"down"}),
        ("-a -f name=ow", {"down"}),
        ("-a -f name=^/?up$", {"up"}),
        ("-a -f name=(*o*)*$ -f name=^new$", {"new"}),
        ("-a -f name=((\\w*)*)*=", set()),
        ("-a -f id=((([0-9a-f]*)*)*)*z", set()),
        ("-a -f label=tier", {"up", "down"}),
        ("-a -f label=tier=db", {"down"}),
        ("-a -f ancestor=busybox", {"up", "down", "new"}),
        ("-a -f ancestor=busybox -f status=running -f status=created", {"up", "new"}),
        ("-a -f volume=vol", {"new"}),
        ("-a -f network=none", {"up", "down", "new"}),
        ("-a -f before=down", {"up"}),
        ("-a -f since=down", {"new"}),
        ("-n 2", {"down", "new"}),
        ("-l", {"new"}),
    ],
)
def test_ps_chooses(three: Engine, flags: str, expected: set[str]) -> None:
    assert names(three, *flags.split()) == expected


def test_ps_filters_by_id(three: Engine) -> None:
    ref = three.inspect("down")["Id"]
    assert names(three, "-a", f"--filter=id={ref[:10]}") == {"down"}


def test_ps_refuses_a_filter_it_does_not_know(three: Engine) -> None:
    done = three.docker("ps", "-f", "colour=red", check=False)
    assert done.returncode == 1
    assert "invalid filter 'colour" in done.stderr.lower() or "Invalid filter 'colour" in done.stderr


def test_ps_prints_its_table(three: Engine) -> None:
    header, *rows = three.output("ps", "-a").splitlines()
    assert header.split("   ")[0].strip() == "CONTAINER ID"
    by_name = {row.split()[-1]: row for row in rows}
    assert "Up " in by_name["up"]
    assert "Exited (3)" in by_name["down"]
    assert "Created" in by_name["new"]
    assert '"sleep 1000"' in by_name["up"]


def test_ps_quiet_and_sizes(three: Engine) -> None:
    ref = three.inspect("up")["Id"]
    assert three.output("ps", "-q") == ref[:12]
    assert three.output("ps", "-q", "--no-trunc") == ref
    three.docker("exec", "up", "sh", "-c", "head -c 5000 /dev/zero > /file")
    assert "virtual" in three.output("ps", "-s", "--format={{.Size}}", "-f", "name=up")


def test_ps_as_json(three: Engine) -> None:
    shown = json.loads(three.output("ps", "--format=json"))
    assert (shown["Names"], shown["Image"], shown["State"], shown["Labels"]) == ("up", BUSYBOX, "running", "tier=web")


def test_inspect_has_what_clients_read(three: Engine) -> None:
    shown = three.inspect("up")
    assert shown["Path"] == "sleep"
    assert shown["Args"] == ["1000"]
    assert shown["Image"].startswith("sha256:")
    assert shown["Config"]["Image"] == BUSYBOX
    assert shown["Config"]["Labels"] == {"tier": "web"}
    assert shown["HostConfig"]["NetworkMode"] == "none"
    assert shown["Driver"] in ("overlay2", "overlayfs")
    assert shown["Created"].endswith("Z")
    assert shown["NetworkSettings"]["Networks"]["none"]
    assert shown["Mounts"] == []


def test_inspect_of_what_is_not_there(engine: Engine) -> None:
    done = engine.docker("inspect", "nothing", check=False)
    assert done.returncode == 1
    assert "No such object: nothing" in done.stderr
    done = engine.docker("container", "inspect", "nothing", check=False)
    assert "No such container: nothing" in done.stderr


def test_an_ambiguous_prefix_is_refused(engine: Engine) -> None:
    seen: dict[str, str] = {}
    while True:  # two ids that begin alike are found within 17 containers
        ref = engine.output("create", BUSYBOX, "true")
        if ref[0] in seen:
            break
        seen[ref[0]] = ref
    status, body = engine.api("GET", f"/containers/{ref[0]}/json")
    assert status in (400, 404, 500)
    assert "provided" in body["message"].lower() or "no such container" in body["message"].lower()


def test_top_shows_the_container_s_processes(three: Engine) -> None:
    header, *rows = three.output("top", "up").splitlines()
    assert header.split()[:3] == ["UID", "PID", "PPID"]
    assert [row.split()[-2:] for row in rows] == [["sleep", "1000"]]
    assert three.output("top", "up", "-o", "pid,comm").split()[-1] == "sleep"
    assert "is not running" in three.docker("top", "down", check=False).stderr


def test_stats_shows_a_sample(three: Engine) -> None:
    shown = json.loads(three.output("stats", "--no-stream", "--format=json", "up"))
    assert shown["Name"] == "up"
    assert shown["PIDs"] == "1"
    assert shown["MemUsage"]


def test_version_has_both_sides(engine: Engine) -> None:
    shown = json.loads(engine.output("version", "--format=json"))
    assert shown["Server"]["Os"] == "linux"
    assert shown["Server"]["Arch"] == shown["Client"]["Arch"]
    assert tuple(map(int, shown["Server"]["ApiVersion"].split("."))) >= (1, 41)
    assert shown["Server"]["KernelVersion"]


def test_info_counts(three: Engine) -> None:
    shown = json.loads(three.output("info", "--format=json"))
    assert (shown["Containers"], shown["ContainersRunning"], shown["ContainersStopped"]) == (3, 1, 2)
    assert shown["DockerRootDir"] == str(three.data_root)
    assert shown["CgroupVersion"] in ("1", "2")
    assert "json-file" in shown["Plugins"]["Log"]
    assert shown["NCPU"] >= 1
    assert not shown.get("ServerErrors")


def test_system_df_counts(three: Engine) -> None:
    rows = [json.loads(line) for line in three.output("system", "df", "--format=json").splitlines()]
    counts = {row["Type"]: (row["TotalCount"], row["Active"]) for row in rows}
    assert counts["Containers"] == ("3", "1")
    assert counts["Local Volumes"] == ("1", "1")
