"""`docker run`: streams, exit codes, names, removal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, wait_until

RUN = ("run", "--rm", "--network=none")


def test_output_and_errors_arrive_on_their_own_streams(engine: Engine) -> None:
    done = engine.docker(*RUN, BUSYBOX, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_megabyte_of_output_arrives_whole_and_in_order(engine: Engine) -> None:
    assert engine.output(*RUN, BUSYBOX, "seq", "1", "150000").split() == [str(n) for n in range(1, 150001)]


def test_binary_output_arrives_unchanged(engine: Engine) -> None:
    done = subprocess.run(
        ["docker", *RUN, BUSYBOX, "sh", "-c", r"printf '\000\001\377\r\n\342\202'"],
        env=engine.client_environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\x00\x01\xff\r\n\xe2\x82"


def test_stdin_is_read_to_its_end(engine: Engine) -> None:
    assert engine.output(*RUN, "-i", BUSYBOX, "wc", "-l", stdin="a\nb\nc\n") == "3"


def test_a_megabyte_of_stdin_arrives_whole(engine: Engine) -> None:
    assert engine.output(*RUN, "-i", BUSYBOX, "wc", "-c", stdin="x" * 1_000_000) == "1000000"


def test_without_i_stdin_is_empty(engine: Engine) -> None:
    assert engine.output(*RUN, BUSYBOX, "wc", "-c", stdin="not for it") == "0"


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_the_exit_code_of_the_program_is_that_of_the_client(engine: Engine, code: int) -> None:
    assert engine.docker(*RUN, BUSYBOX, "sh", "-c", f"exit {code}", check=False).returncode == code


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("SEGV", 11)])
def test_a_program_ended_by_a_signal_exits_with_128_and_its_number(engine: Engine, name: str, number: int) -> None:
    # A child of PID 1 is ended by the signal, and its shell passes the status on; PID 1 itself would ignore it.
    script = f"sh -c 'kill -{name} $$'; exit $?"
    assert engine.docker(*RUN, BUSYBOX, "sh", "-c", script, check=False).returncode == 128 + number


def test_a_container_killed_by_a_signal_exits_with_128_and_its_number(engine: Engine) -> None:
    engine.docker("run", "-d", "--network=none", "--name=victim", BUSYBOX, "sleep", "1000")
    engine.docker("kill", "-s", "KILL", "victim")
    assert engine.output("wait", "victim") == "137"
    assert not engine.state("victim")["OOMKilled"]


def test_a_command_not_found_is_127(engine: Engine) -> None:
    done = engine.docker(*RUN, BUSYBOX, "no-such-command", check=False)
    assert done.returncode == 127
    assert 'exec: "no-such-command": executable file not found in $PATH' in done.stderr


def test_a_path_that_does_not_exist_is_127(engine: Engine) -> None:
    done = engine.docker(*RUN, BUSYBOX, "/no/such/file", check=False)
    assert done.returncode == 127
    assert "no such file or directory" in done.stderr


@pytest.mark.parametrize("path", ["/etc", "/etc/not-executable"])
def test_a_file_that_cannot_be_executed_is_126(engine: Engine, path: str) -> None:
    done = engine.docker(*RUN, BUSYBOX, path, check=False)
    assert done.returncode == 126
    assert f'exec: "{path}"' in done.stderr
    assert "permission denied" in done.stderr or "is a directory" in done.stderr


def test_an_unknown_image_is_125_and_says_so(engine: Engine) -> None:
    done = engine.docker(*RUN, "--pull=never", "no-such-image:latest", "true", check=False)
    assert done.returncode == 125
    assert "No such image: no-such-image:latest" in done.stderr


def test_a_container_that_could_not_start_remains_created_with_its_error(engine: Engine) -> None:
    done = engine.docker("run", "--network=none", "--name=unstartable", BUSYBOX, "no-such-command", check=False)
    assert done.returncode == 127
    state = engine.state("unstartable")
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("created", 127, 0)
    assert "executable file not found" in state["Error"]


def test_rm_removes_the_container_even_when_it_failed_to_start(engine: Engine) -> None:
    engine.docker(*RUN, "--name=unstartable", BUSYBOX, "no-such-command", check=False)
    wait_until("the container is removed", lambda: engine.api("GET", "/containers/unstartable/json")[0] == 404)


def test_rm_removes_the_container_after_its_end(engine: Engine) -> None:
    engine.docker(*RUN, "--name=brief", BUSYBOX, "true")
    wait_until("the container is removed", lambda: engine.api("GET", "/containers/brief/json")[0] == 404)


def test_detached_prints_the_full_id(engine: Engine) -> None:
    ref = engine.output("run", "-d", "--network=none", "--name=detached", BUSYBOX, "sleep", "1000")
    assert len(ref) == 64
    assert engine.inspect("detached")["Id"] == ref
    assert engine.inspect(ref[:12])["Name"] == "/detached"


def test_a_name_is_taken_once(engine: Engine) -> None:
    ref = engine.output("create", "--name=taken", BUSYBOX, "true")
    done = engine.docker("create", "--name=taken", BUSYBOX, "true", check=False)
    assert done.returncode != 0
    assert f'Conflict. The container name "/taken" is already in use by container "{ref}"' in done.stderr


def test_a_container_without_a_name_gets_one(engine: Engine) -> None:
    ref = engine.output("create", BUSYBOX, "true")
    left, _, right = engine.inspect(ref)["Name"].removeprefix("/").partition("_")
    assert left.isalpha()
    assert right


def test_cidfile_holds_the_id(engine: Engine, tmp_path: Path) -> None:
    ref = engine.output("run", "-d", "--network=none", f"--cidfile={tmp_path / 'id'}", BUSYBOX, "true")
    assert (tmp_path / "id").read_text() == ref


def test_the_image_s_configuration_is_what_runs(engine: Engine, tmp_path: Path) -> None:
    spec = images.busybox_spec(
        Entrypoint=["sh", "-c", 'echo "$GREETING $(id -u) $PWD $0 $1"'],
        Cmd=["zero", "one"],
        Env=["PATH=/bin", "GREETING=hi"],
        User="app",
        WorkingDir="/made/by/engine",
    )
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), spec, "configured:1"))
    assert engine.output(*RUN, "configured:1") == "hi 1000 /made/by/engine zero one"
    assert engine.output(*RUN, "configured:1", "nil", "eins") == "hi 1000 /made/by/engine nil eins"
    assert engine.output(*RUN, "--entrypoint=echo", "configured:1", "mine") == "mine"


def test_signals_are_proxied_to_the_program(engine: Engine) -> None:
    script = "trap 'echo got it; exit 42' TERM; echo ready; while :; do sleep 0.1; done"
    with engine.popen(*RUN, BUSYBOX, "sh", "-c", script) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        client.terminate()
        assert client.stdout.read() == "got it\n"
        assert client.wait(timeout=300) == 42


def test_the_writable_layer_belongs_to_one_container_and_outlives_its_process(engine: Engine) -> None:
    script = "cat /file /etc/group 2>/dev/null; echo mine > /file; rm -f /etc/group"
    engine.docker("run", "--network=none", "--name=first", BUSYBOX, "sh", "-c", script)
    assert engine.output("start", "-a", "first") == "mine"
    assert engine.shell("test -e /file; echo $?; test -e /etc/group; echo $?").split() == ["1", "0"]


@differs_on_dockerd("has no hello-world image in it")
def test_hello_world_runs_from_the_image_that_the_package_carries(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "hello-world")
    assert "Hello from" in done.stdout


@differs_on_dockerd("runs health checks")
def test_a_health_check_that_will_not_run_is_said(engine: Engine, tmp_path: Path) -> None:
    spec = images.busybox_spec(Healthcheck={"Test": ["CMD", "true"]})
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), spec, "checked:1"))
    done = engine.docker(*RUN, "checked:1", "true")
    assert "WARNING: wherry does not run health checks yet" in done.stderr
    assert engine.docker(*RUN, "--no-healthcheck", "checked:1", "true").stderr == ""
    done = engine.docker(*RUN, "--health-cmd=true", BUSYBOX, "true", check=False)
    assert (done.returncode, "wherry does not support Healthcheck" in done.stderr) == (125, True)


def test_ports_published_on_the_host_s_network_are_said_to_be_nothing(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--network=host", "-p", "80:80", BUSYBOX, "true")
    assert "Published ports are discarded when using host network mode" in done.stderr
