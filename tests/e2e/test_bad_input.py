"""What is wrong is refused in Docker's words and with Docker's status, and nothing half-made is left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.harness import BUSYBOX, Engine, UnixConnection, differs_on_dockerd

GARBAGE = (
    b"\x00" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /containers/create HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /" + b"a" * 100_000,
)


@pytest.fixture(autouse=True)
def nothing_new(engine: Engine) -> Iterator[None]:
    """A refused `create` makes no container, volume or image."""
    before = engine.objects()
    yield
    assert engine.objects() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("-m=1k", "Minimum memory limit allowed is 6MB"),
        ("-m=64m --memory-swap=32m", "Minimum memoryswap limit should be larger than memory limit"),
        ("--cpus=10000", "ange of CPUs is from 0.01 to"),
        ("--cpuset-cpus=4000", "Requested CPUs are not available"),
        ("--cpuset-cpus=x", "nvalid value x for cpuset cpus"),
        ("--cap-add=NOT_A_CAP", 'unknown capability: "CAP_NOT_A_CAP"'),
        ("--security-opt=nonsense=1", "nvalid --security-opt"),
        ("--name=-bad-", "Invalid container name (-bad-)"),
        ("-v=/tmp:relative", "mount path must be absolute"),
        ("--network=container:nobody", "No such container: nobody"),
        ("--runtime=nothing", "nothing"),
        ("--shm-size=-1", "invalid size"),
        ("--device=/dev/not-there", "no such file or directory"),
        ("-u=9999999999", "uids and gids must be in range 0-2147483647"),
        ("-u=nobody-here", "unable to find user nobody-here"),
        ("--group-add=nogroup-here", "nable to find group nogroup-here"),
        ("--sysctl=kernel.panic=1", "kernel.panic"),
        ("--log-driver=nothing", "nothing"),
        ("-p=99999:80", "nvalid"),
        ("--restart=on-failure:-1", "maximum retry count cannot be negative"),
        ("--cpuset-mems=x", "nvalid value x for cpuset mems"),
        ("--cpus=1 --cpu-quota=5000", "Nano CPUs and CPU Quota cannot both be set"),
        ("--device=/etc/passwd", "not a device node"),
        ("--device-read-bps=/dev/not-there:1mb", "stat /dev/not-there: no such file or directory"),
        ("--isolation=hyperv", "nvalid isolation"),
        ("-v=/tmp:/x:nocopy", "field VolumeOptions must not be specified"),
        ("--mount=type=nonsense,target=/x", "mount type unknown"),
        ("--tmpfs=/x:nonsense", 'nvalid tmpfs option ["nonsense"]'),
        ("--log-opt=nonsense=1", "unknown log opt 'nonsense' for json-file log driver"),
        ("--log-opt=mode=nonsense", "logging mode not supported: nonsense"),
        ("-w=/etc/passwd", "not a directory"),
        ("--stop-signal=NOPE", "nvalid signal: NOPE"),
    ],
)
def test_a_bad_flag_is_refused(engine: Engine, flags: str, words: str) -> None:
    done = engine.docker(
        "run",
        *(["--rm"] if "restart" not in flags else []),
        *(["--network=none"] if "network" not in flags else []),
        *flags.split(),
        BUSYBOX,
        "true",
        check=False,
    )
    assert done.returncode in (125, 126, 127)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/containers/nobody/json", None, 404),
        ("POST", "/containers/nobody/start", None, 404),
        ("DELETE", "/containers/nobody", None, 404),
        ("GET", "/images/nothing/json", None, 404),
        ("POST", "/containers/create", {}, 400),
        ("POST", "/containers/create", {"Image": "no-such-image"}, 404),
        ("GET", "/no/such/path", None, 404),
        ("GET", "/exec/0123456789/json", None, 404),
        ("GET", "/volumes/nothing", None, 404),
        ("POST", "/containers/create?name=a%2Fb", {"Image": BUSYBOX}, 400),
    ],
)
def test_status_codes_are_docker_s(engine: Engine, method: str, path: str, body: object, status: int) -> None:
    answered, message = engine.api(method, path, body)
    assert answered == status
    assert message["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"Tty": "true"},
        {"Tty": 1},
        {"Env": "A=b"},
        {"HostConfig": {"Memory": "64m"}},
        {"HostConfig": {"Memory": 64e6 + 0.5}},
        {"HostConfig": {"Memory": 10**30}},
        {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 8080}]}}},
        {"Labels": {"a": 1}},
    ],
)
def test_a_value_of_the_wrong_type_is_a_bad_request(engine: Engine, body: dict[str, object]) -> None:
    status, answer = engine.api("POST", "/containers/create", {"Image": BUSYBOX, **body})
    assert status == (500 if engine.kind == "dockerd" else 400)  # 20.10 has it for its own mistake
    assert answer["message"]


def test_json_is_read_as_go_reads_it(engine: Engine) -> None:
    body = {"image": BUSYBOX, "CMD": ["true"], "Hostname": None, "hostconfig": {"memory": 64 << 20, "Binds": None}}
    status, answer = engine.api("POST", "/containers/create?name=lower", body)
    assert status == 201, answer
    shown = engine.inspect("lower")
    assert (shown["Path"], shown["HostConfig"]["Memory"]) == ("true", 64 << 20)
    engine.docker("rm", "lower")


@pytest.mark.parametrize(
    ("platform", "status"),
    [("linux/amd64", 201), ("linux/x86_64", 201), ("linux", 201), ("linux/s390x", 404), ("a/b/c/d", 400), ("no!", 400)],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the image under test is for x86-64")
@differs_on_dockerd("does not check, or says it otherwise")
def test_a_platform_is_understood(engine: Engine, platform: str, status: int) -> None:
    body = {"Image": BUSYBOX, "Cmd": ["true"]}
    answered, answer = engine.api("POST", f"/containers/create?name=on&platform={quote(platform, safe='')}", body)
    assert answered == status, answer
    if status == 201:
        engine.docker("rm", "on")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("foo", '"foo": unknown operating system or architecture'),
        ("linux/", '"" is an invalid component of "linux/": platform specifier component must match "^['),
        ("*", '"*": wildcards not yet supported'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier'),
    ],
)
def test_a_malformed_platform_is_refused_before_anything_is_asked_for(engine: Engine, text: str, why: str) -> None:
    platform, body = quote(text, safe=""), {"Image": "127.0.0.1:1/nothere"}
    for path in (
        f"/v1.41/images/create?fromImage=127.0.0.1:1/nothere&tag=1&platform={platform}",
        f"/v1.41/containers/create?platform={platform}",
    ):
        status, answer = engine.api("POST", path, body)
        assert status == 400, answer
        assert answer["message"].startswith(why)
        assert answer["message"].endswith(": invalid argument")


def test_nothing_can_be_pulled_for_an_image_from_nothing(engine: Engine) -> None:
    assert engine.api("POST", "/images/create?fromImage=scratch&tag=1") == (
        403,
        {"message": "'scratch' is a reserved name"},
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"Image": 7}', "null", '{"HostConfig": "x"}', "\x00"])
def test_malformed_json_is_a_bad_request(engine: Engine, text: str) -> None:
    connection = UnixConnection(engine.socket_path)
    connection.request("POST", "/containers/create", text, {"Content-Type": "application/json"})
    assert connection.getresponse().status in (400, 500 if engine.kind == "dockerd" else 400)
    connection.close()


def test_garbage_on_the_socket_does_not_disturb(engine: Engine) -> None:
    for garbage in (
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 100_000,
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(engine.socket_path)
            try:
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
            except OSError:
                pass
    assert engine.api("GET", "/_ping") == (200, "OK")


def test_an_old_and_a_too_new_api_version(engine: Engine) -> None:
    assert engine.api("GET", "/v1.24/version")[0] == 200
    status, body = engine.api("GET", "/v9.99/version")
    assert status == 400
    assert "too new" in body["message"]


def test_a_bad_mount_source_says_what_is_missing(engine: Engine, tmp_path: Path) -> None:
    done = engine.docker(
        "run", "--rm", f"--mount=type=bind,source={tmp_path}/not,target=/x", BUSYBOX, "true", check=False
    )
    assert done.returncode == 125
    assert f"bind source path does not exist: {tmp_path}/not" in done.stderr
