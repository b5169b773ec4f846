"""`docker exec`: what it sees, as whom it runs, how it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, wait_until


@pytest.fixture
def box(engine: Engine) -> Iterator[Engine]:
    """The engine, with a container named `box` running."""
    engine.docker(
        "run", "-d", "--name=box", "--network=none", "-e", "MINE=1", "-w", "/var", "-u", "app", BUSYBOX, "sleep", "1000"
    )
    yield engine


def test_exec_runs_inside_as_the_container_does(box: Engine) -> None:
    printed = box.output("exec", "box", "sh", "-c", "id -u; pwd; echo $MINE $HOME; cat /proc/1/comm")
    assert printed.split("\n") == ["1000", "/var", "1 /home/app", "sleep"]


@differs_on_dockerd("says 126 to all of them, and takes a privileged exec's capabilities from what exists")
@pytest.mark.parametrize(
    ("flags", "program", "status", "words"),
    [
        ("", "", 127, 'exec: "": executable file not found in $PATH'),
        ("", "nope", 127, 'exec: "nope": executable file not found in $PATH'),
        ("", "/etc", 126, 'exec: "/etc": permission denied'),
        ("-w /not-there", "true", 127, 'chdir to cwd ("/not-there")'),
        ("-w relative", "true", 126, "relative"),
        ("-u nobody-here", "true", 126, "unable to find user nobody-here: no matching entries in passwd file"),
    ],
)
def test_an_exec_that_cannot_start_says_why(box: Engine, flags: str, program: str, status: int, words: str) -> None:
    done = box.docker("exec", *flags.split(), "box", program, check=False)
    assert done.returncode == status
    assert words in done.stdout
    assert flags.startswith("-u") is not done.stdout.startswith("OCI runtime exec failed")


def test_exec_sees_the_namespaces_and_cgroups_of_pid_1(box: Engine) -> None:
    for kind in ("pid", "net", "ipc", "uts", "mnt", "cgroup"):
        script = f"readlink /proc/self/ns/{kind}; readlink /proc/1/ns/{kind}"
        mine, theirs = box.output("exec", "box", "sh", "-c", script).split()
        assert mine == theirs
    script = "cat /proc/self/cgroup > /tmp/a; cat /proc/1/cgroup > /tmp/b; cmp /tmp/a /tmp/b && echo same"
    assert box.output("exec", "box", "sh", "-c", script) == "same"


@pytest.mark.parametrize(
    ("flags", "script", "expected"),
    [
        ("-e A=2 -e MINE=3", "echo $A $MINE", "2 3"),
        ("-w /etc", "pwd", "/etc"),
        ("-u 0", "id -u", "0"),
        ("-u daemon", "id -u; id -g", "1\n1"),
        ("-u 12:34", "id -u; id -g", "12\n34"),
        ("-u 0", "grep -E 'CapEff|Seccomp:' /proc/self/status | cut -f2", "00000000a80425fb\n2"),
        ("", "grep CapEff /proc/self/status | cut -f2", "0000000000000000"),
    ],
)
def test_exec_flag_has_its_effect(box: Engine, flags: str, script: str, expected: str) -> None:
    assert box.output("exec", *flags.split(), "box", "sh", "-c", script) == expected


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_passed_on(box: Engine, code: int) -> None:
    assert box.docker("exec", "box", "sh", "-c", f"exit {code}", check=False).returncode == code


def test_a_signal_s_exit_code_is_128_and_its_number(box: Engine) -> None:
    assert box.docker("exec", "box", "sh", "-c", "kill -9 $$", check=False).returncode == 137


@differs_on_dockerd("ends with 126 for both")
def test_a_command_not_found_is_127(box: Engine) -> None:
    done = box.docker("exec", "box", "nope", check=False)
    assert done.returncode == 127
    assert 'exec: "nope": executable file not found in $PATH' in done.stdout + done.stderr


def test_a_file_that_cannot_be_executed_is_126(box: Engine) -> None:
    done = box.docker("exec", "box", "/etc/not-executable", check=False)
    assert done.returncode == 126
    assert "permission denied" in done.stdout + done.stderr


def test_streams_are_apart_and_stdin_ends(box: Engine) -> None:
    done = box.docker("exec", "-i", "box", "sh", "-c", "cat; echo err >&2", stdin="in\n")
    assert (done.stdout, done.stderr) == ("in\n", "err\n")


def test_a_megabyte_goes_through_in_both_directions(box: Engine) -> None:
    data = "".join(f"{n}\n" for n in range(150_000))
    assert box.docker("exec", "-i", "box", "cat", stdin=data).stdout == data


def test_detached_exec_runs_on(box: Engine) -> None:
    assert box.output("exec", "-d", "box", "sh", "-c", "echo done > /tmp/mark") == ""
    wait_until(
        "the detached command ran",
        lambda: box.docker("exec", "box", "cat", "/tmp/mark", check=False).stdout == "done\n",
    )


def test_exec_in_a_container_that_does_not_run_is_a_conflict(engine: Engine) -> None:
    ref = engine.output("create", "--name=still", BUSYBOX, "true")
    done = engine.docker("exec", "still", "true", check=False)
    assert done.returncode == 1
    assert "is not running" in done.stderr
    assert ref[:12] in done.stderr or "still" in done.stderr


def test_execs_end_with_their_container(box: Engine) -> None:
    with box.popen("exec", "box", "sh", "-c", "echo runs; exec sleep 1000") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "runs\n"
        box.docker("kill", "box")
        assert client.wait(timeout=300) == 137


def test_what_an_exec_leaves_in_the_background_lives_on(box: Engine) -> None:
    box.docker("exec", "box", "sh", "-c", "sleep 999 > /dev/null 2>&1 &")
    wait_until("it has begun", lambda: "sleep 999" in box.output("top", "box"))


def test_exec_is_inspected_while_and_after(box: Engine) -> None:
    status, created = box.api("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "exit 9"], "AttachStdout": True})
    assert status == 201
    assert box.api("GET", f"/exec/{created['Id']}/json")[1]["ExitCode"] is None
    assert box.api("POST", f"/exec/{created['Id']}/start", {"Detach": True})[0] == 200
    wait_until("the exec ended", lambda: not box.api("GET", f"/exec/{created['Id']}/json")[1]["Running"])
    shown = box.api("GET", f"/exec/{created['Id']}/json")[1]
    assert (shown["ExitCode"], shown["ProcessConfig"]["entrypoint"]) == (9, "sh")


def test_an_exec_runs_once(box: Engine) -> None:
    created = box.api("POST", "/containers/box/exec", {"Cmd": ["true"]})[1]
    assert box.api("POST", f"/exec/{created['Id']}/start", {"Detach": True})[0] == 200
    wait_until("the exec ended", lambda: not box.api("GET", f"/exec/{created['Id']}/json")[1]["Running"])
    assert box.api("POST", f"/exec/{created['Id']}/start", {"Detach": True})[0] == 409


def test_an_exec_does_not_stop_the_container(box: Engine) -> None:
    for _ in range(5):
        box.docker("exec", "box", "true")
    assert box.state("box")["Running"]


@differs_on_dockerd("its runc refuses a privileged exec where the machine itself lacks a capability")
def test_a_privileged_exec_has_no_filter(box: Engine) -> None:
    assert (
        box.output("exec", "--privileged", "-u", "0", "box", "sh", "-c", "grep Seccomp: /proc/self/status | cut -f2")
        == "0"
    )


def test_inspect_names_the_execs_that_have_not_ended(box: Engine) -> None:
    box.docker("exec", "box", "true")
    assert box.inspect("box")["ExecIDs"] is None
    box.docker("exec", "-d", "box", "sleep", "1000")
    (open_one,) = box.inspect("box")["ExecIDs"]
    assert box.api("GET", f"/exec/{open_one}/json")[1]["ProcessConfig"]["arguments"] == ["1000"]
