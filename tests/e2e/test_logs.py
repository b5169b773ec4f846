"""`docker logs` and what is behind it: the json-file driver."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import socket

from tests.e2e.harness import BUSYBOX, Engine, UnixConnection, wait_until
from wherry.wire import stdcopy

STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")


def logged(engine: Engine, script: str, *flags: str, name: str = "writer") -> None:
    engine.docker("run", "-d", "--network=none", f"--name={name}", *flags, BUSYBOX, "sh", "-c", script)
    engine.docker("wait", name)


def test_logs_has_both_streams_apart(engine: Engine) -> None:
    logged(engine, "echo out; echo err >&2")
    done = engine.docker("logs", "writer")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_a_client_that_leaves_in_the_middle_of_a_log_leaves_no_file_open(engine: Engine) -> None:
    """The log is more than the sockets between take. That the client has gone is seen while the next piece is read, or while one is written."""
    logged(engine, "yes 0123456789012345678901234567890123456789 | head -c 4000000")
    for _ in range(8):
        for request in (
            "GET /v1.41/containers/writer/logs?stdout=1&follow=1",
            "GET /v1.41/containers/writer/logs?stdout=1&tail=90000",
            "POST /v1.41/containers/writer/attach?logs=1&stdout=1&stream=1",
        ):
            for taken in (1, 300_000):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(engine.socket_path)
                    client.sendall(f"{request} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
                    assert client.recv(taken, socket.MSG_WAITALL)

    def logs_held() -> list[str]:
        with os.scandir(f"/proc/{engine.process.pid}/fd") as entries:
            links = []
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    links.append(os.readlink(entry.path))
        return [link for link in links if link.endswith("-json.log")]

    wait_until("no log is open", lambda: not logs_held())
    assert "unable to perform operation" not in engine.log()


def test_attach_gives_what_was_logged(engine: Engine) -> None:
    """Asked without an upgrade, where the stream is the answer's body: a client that reads head and stream by different means loses bytes."""
    logged(engine, "echo out; sleep 0.1; echo err >&2")
    with contextlib.closing(UnixConnection(engine.socket_path)) as connection:
        connection.request("POST", "/v1.41/containers/writer/attach?logs=1&stdout=1&stderr=1")
        answer = connection.getresponse().read()
    assert answer == stdcopy.frame(1, b"out\n") + stdcopy.frame(2, b"err\n")


def test_logs_of_all_lives_are_kept(engine: Engine) -> None:
    logged(engine, "echo life")
    engine.docker("start", "-a", "writer")
    assert engine.output("logs", "writer") == "life\nlife"


def test_tail_gives_the_last_lines(engine: Engine) -> None:
    logged(engine, "seq 1 5000")
    assert engine.output("logs", "--tail=3", "writer").split() == ["4998", "4999", "5000"]
    assert engine.output("logs", "-n", "0", "writer") == ""
    assert len(engine.output("logs", "--tail=all", "writer").split()) == 5000


def test_timestamps_are_in_front_and_in_order(engine: Engine) -> None:
    logged(engine, "seq 1 50")
    lines = engine.output("logs", "-t", "writer").splitlines()
    assert all(STAMP.match(line) for line in lines)
    stamps = [line.split()[0] for line in lines]
    assert stamps == sorted(stamps)


def test_since_and_until_cut_by_time(engine: Engine) -> None:
    engine.docker("run", "-di", "--network=none", "--name=writer", BUSYBOX, "sh", "-c", "echo early; read a; echo late")
    engine.until_said("writer", "early")
    between = datetime.datetime.now(datetime.UTC).isoformat()
    engine.docker("attach", "writer", stdin="go on\n")
    assert engine.output("logs", f"--since={between}", "writer") == "late"
    assert engine.output("logs", f"--until={between}", "writer") == "early"


def test_follow_sees_lines_as_they_come_and_ends_with_the_container(engine: Engine) -> None:
    script = "echo one; read a; echo two; read b"
    engine.docker("run", "-di", "--network=none", "--name=writer", BUSYBOX, "sh", "-c", script)
    with engine.popen("logs", "-f", "writer") as follower, engine.popen("attach", "writer", stdin=-1) as talker:
        assert follower.stdout is not None
        assert talker.stdin is not None
        assert follower.stdout.readline() == "one\n"
        talker.stdin.write("go on\n")
        talker.stdin.flush()
        assert follower.stdout.readline() == "two\n"
        talker.stdin.write("end\n")
        talker.stdin.flush()
        assert follower.stdout.read() == ""
        assert follower.wait(timeout=300) == 0


def test_follow_with_tail_starts_near_the_end(engine: Engine) -> None:
    logged(engine, "seq 1 100")
    assert engine.output("logs", "-f", "--tail=2", "writer").split() == ["99", "100"]


def test_a_line_without_an_end_is_logged(engine: Engine) -> None:
    logged(engine, "printf 'no newline'")
    assert engine.docker("logs", "writer").stdout == "no newline"


def test_a_line_longer_than_any_buffer_comes_back_whole(engine: Engine) -> None:
    logged(engine, "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after")
    assert engine.output("logs", "writer") == "x" * 100_000 + "\nafter"


def test_log_file_is_in_docker_s_format(engine: Engine) -> None:
    logged(engine, "echo 'say \"hi\" <&>'; echo err >&2; head -c 20000 /dev/zero | tr '\\0' y; echo")
    path = engine.inspect("writer")["LogPath"]
    with open(path) as file:
        records = [json.loads(line) for line in file]
    assert [(record["stream"], len(record["log"])) for record in records if record["stream"] == "stderr"] == [
        ("stderr", 4)
    ]
    assert [record["log"] for record in records if record["stream"] == "stdout"] == [
        'say "hi" <&>\n',
        "y" * 16384,
        "y" * 3616 + "\n",
    ]
    assert all(STAMP.match(record["time"] + " ") or record["time"].endswith("Z") for record in records)
    with open(path) as file:
        assert '{"log":"say \\"hi\\" \\u003c\\u0026\\u003e\\n","stream":"stdout","time":"' in file.read()


def test_log_files_rotate(engine: Engine) -> None:
    logged(engine, "seq 1 20000", "--log-opt=max-size=50k", "--log-opt=max-file=3")
    path = engine.inspect("writer")["LogPath"]
    numbers = [int(word) for word in engine.output("logs", "writer").split()]
    assert numbers == list(range(numbers[0], 20001))
    assert numbers[0] > 1
    for suffix in ("", ".1", ".2"):
        with open(path + suffix) as file:
            assert len(file.read()) <= 60_000
    assert not engine.docker("logs", "--tail=1", "writer").stderr


def test_the_none_driver_keeps_nothing_and_says_so(engine: Engine) -> None:
    logged(engine, "echo gone", "--log-driver=none")
    done = engine.docker("logs", "writer", check=False)
    assert done.returncode == 1
    assert "configured logging driver does not support reading" in done.stderr


def test_logs_of_an_unknown_container(engine: Engine) -> None:
    done = engine.docker("logs", "nobody", check=False)
    assert "No such container: nobody" in done.stderr


def test_a_slow_reader_does_not_hold_the_program(engine: Engine) -> None:
    engine.docker(
        "run", "-d", "--network=none", "--name=writer", BUSYBOX, "sh", "-c", "seq 1 200000; touch /written; sleep 1000"
    )
    with engine.popen("logs", "-f", "writer") as follower:
        wait_until(
            "the program wrote all although its follower reads nothing",
            lambda: engine.docker("exec", "writer", "test", "-e", "/written", check=False).returncode == 0,
        )
        follower.kill()


def test_details_show_what_the_driver_was_told_to_keep(engine: Engine) -> None:
    flags = ["-l=a=b c", "-l=other=x", "-e=ONE=1", "-e=TWO=2", "--log-opt=labels=a", "--log-opt=env-regex=^T"]
    logged(engine, "echo line", *flags, "--log-opt=tag={{.Name}}/v", name="detailed")
    assert engine.output("logs", "--details", "detailed") == "TWO=2,a=b+c,tag=detailed%2Fv line"
    assert engine.output("logs", "detailed") == "line"
    wrong = engine.docker("run", "--log-opt=labels-regex=(", "--network=none", BUSYBOX, "true", check=False)
    assert (
        wrong.returncode,
        "initialize logging driver: error parsing regexp: missing closing ): `(`" in wrong.stderr,
    ) == (125, True)
    logged(engine, "echo line", name="plain")
    assert engine.output("logs", "--details", "plain") == " line"


def test_following_a_container_that_does_not_run_ends(engine: Engine) -> None:
    engine.docker("create", "--name=idle", "--network=none", BUSYBOX, "true")
    assert engine.docker("logs", "-f", "idle").stdout == ""
    engine.docker("start", "-a", "idle")
    assert engine.docker("logs", "-f", "idle").stdout == ""
