"""`wherry` against `docker`: what changes something says the same, with the same errors and exit codes."""

from __future__ import annotations

import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine
from tests.e2e.parity import DOCKER, WHERRY, ask, environment
from tests.registry import docker_registry, skopeo_copy

ACTING = r"""
run --rm --network none busybox echo hello
run --rm --network none busybox sh -c 'echo out; echo err >&2; exit 7'
run --rm --network none busybox sh -c 'kill -9 $$'
run --rm --network none busybox nonsense
run --rm --network none busybox /nonsense
run --rm --network none busybox /etc
run --rm --network none busybox /etc/passwd
run --rm --network none -t busybox sh -c 'echo on a terminal; exit 4'
run --rm --network none -i busybox cat
run --rm --network none busybox cat
run --rm --network none -i -a stdin busybox sh -c 'cat >/dev/null'
run --rm --network none -a stderr busybox sh -c 'echo out; echo err >&2'
run --rm --network none -a stdout busybox sh -c 'echo out; echo err >&2'
run --rm --network none -it busybox sh
run -d --network none --name made busybox true
run -d --rm --network none busybox true
run -d -a stdout --network none busybox true
run --rm --restart always busybox true
run --rm --network none --name runs busybox true
run --rm --network none -w relative busybox true
run --rm --network none -e A=b -e C busybox sh -c 'echo $A$C'
run --rm --network none --entrypoint echo busybox one two
run --rm --network none --entrypoint= busybox
run --rm --network none -u 1000:1000 busybox id -u
run --rm --network none -v relative/path:/x busybox true
run --rm --network none -v /x busybox true
run --rm --network none --mount type=bind,source=/nonsense/of/mine,target=/x busybox true
run --rm --network none --mount type=bind,source=/x busybox true
run --rm --network none -m 1k busybox true
run --rm --network none --cpus 1000 busybox true
run --rm --network none --pull never no-such-image true
run --rm --network none --pull nonsense busybox true
run --rm --network none --detach-keys ctrl-x busybox true
run --rm --network none --ulimit nofile=100:200 busybox sh -c 'ulimit -n'
run --rm --network none --tmpfs /t:size=1m busybox true
run --rm --network none --cap-add nonsense busybox true
run --rm --network none --device /dev/nonsense busybox true
run --rm --network none --device relative busybox true
run --rm --network none --sysctl nonsense=1 busybox true
run --rm --network none --security-opt seccomp=/nonsense busybox true
run --rm --network none --env-file /dev/null busybox true
run --rm --network none --label-file /dev/null busybox true
run --rm --network none --cidfile /etc/passwd busybox true
run --rm --network none -p nonsense busybox true
run --rm --network none -p 1-3:1-2 busybox true
run --rm --network none --ulimit nonsense busybox true
run --rm --network none --ulimit nofile=5:3 busybox true
run --rm --network none --add-host nonsense busybox true
run --rm --network none --dns nonsense busybox true
run --rm --network none --memory-swap -2 busybox true
run --rm --network none --memory-swappiness 200 busybox true
run --rm --network none --mac-address nonsense busybox true
run --rm --network none --pid nonsense busybox true
run --rm --network none --log-driver none --log-opt a=b busybox true
run --rm --network none --no-healthcheck --health-cmd x busybox true
run --rm --network none --device-read-bps nonsense busybox true
run --rm --network none --device-read-bps /dev/x:nonsense busybox true
run --rm --network none --blkio-weight-device /dev/x:5 busybox true
run --rm --network none --stop-timeout nonsense busybox true
create --network none busybox
create --network none --name runs busybox
create --name @ busybox
create no-such-image --pull never
start created
start -a ended
start -ai ended
start nope
start ended nope
start -a ended created
restart -t 0 runs
stop -t 0 runs
stop nope
stop -s KILL runs
kill runs
kill -s USR1 runs
kill -s NONSENSE runs
kill ended
kill nope runs
pause runs
pause ended
unpause runs
rename ended renamed
rename ended runs
rename nope x
wait ended
rm ended
rm nope
rm -f nope
rm runs
rm -f runs ended nope
rm -v created
exec runs echo hello
exec runs sh -c 'echo out; echo err >&2; exit 9'
exec runs nonsense
exec runs /etc
exec runs /nonsense
exec -i runs cat
exec -t runs tty
exec -it runs tty
exec -d runs true
exec -e A=b -w /tmp -u 5 runs sh -c 'echo $A; pwd; id -u'
exec ended true
exec nope true
attach ended
attach nope
tag busybox another:tag
tag nope another:tag
tag busybox another@sha256:0123456789012345678901234567890123456789012345678901234567890123
rmi example.com:5000/some/busybox:v2
rmi nope
rmi -f example.com:5000/some/busybox:v2 nope
rmi -f nope
volume create vol
volume create made
volume create --label a=b made
volume rm nope
volume rm -f nope
volume rm vol
volume prune -f
container prune -f
image prune -f
import /nonsense
load -i /nonsense
load
pull localhost:1/nope
pull -q localhost:1/nope
pull -a busybox:tag
pull ''
pull UPPER
pull busybox@
push ''
push UPPER
push busybox@sha256:0123456789012345678901234567890123456789012345678901234567890123
push localhost:1/nope:1@sha256:0123456789012345678901234567890123456789012345678901234567890123
tag busybox ''
tag '' another:tag
""".strip().splitlines()


@pytest.fixture
def fresh(shared_engine: Engine) -> Iterator[Engine]:
    """What `furnish` makes, and the rest is removed afterwards."""
    before = shared_engine.objects()
    yield shared_engine
    shared_engine.remove_everything_new(before)


def furnish(engine: Engine, line: str) -> None:
    """The objects that `line` names."""
    network = "--network=none"
    if "runs" in line or "vol" in line:
        script = "trap '' USR1; sleep 1000 & wait; wait"
        engine.docker("run", "-d", "--name", "runs", network, "-v", "vol:/v", BUSYBOX, "sh", "-c", script)
    if "ended" in line:
        script = "echo out; echo err >&2; exit 3"
        engine.docker("run", "--name", "ended", "-i", network, BUSYBOX, "sh", "-c", script, check=False)
    if "created" in line or "prune" in line:
        engine.docker("create", "--name", "created", network, BUSYBOX)
    if "example.com" in line:
        engine.docker("tag", BUSYBOX, "example.com:5000/some/busybox:v2")


@pytest.mark.parametrize("line", ACTING)
def test_acting_says_what_docker_says(line: str, fresh: Engine) -> None:
    words = shlex.split(line)
    before = fresh.objects()
    answers = []
    for program in (DOCKER, WHERRY):
        furnish(fresh, line)
        answers.append(ask(fresh, program, words, stdin="some input\n"))
        fresh.remove_everything_new(before)
        if BUSYBOX not in fresh.objects()["images"]:
            pytest.fail("the command removed the tests' image")
    assert answers[1] == answers[0]


def test_a_cidfile_has_the_containers_id(fresh: Engine, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    answer = subprocess.run(
        [*WHERRY, "create", "--cidfile", str(path), "--network=none", BUSYBOX],
        env=environment(fresh),
        capture_output=True,
        text=True,
        check=True,
    )
    assert path.read_text() == answer.stdout.strip()


def test_a_cidfile_does_not_stay_when_create_fails(fresh: Engine, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    answer = ask(fresh, WHERRY, ["create", "--cidfile", str(path), "--pull=never", "no-such-image"])
    assert answer.code == 1
    assert not path.exists()


def test_load_says_what_docker_says(fresh: Engine, archive: str) -> None:
    with open(archive, "rb") as file:
        piped = [
            subprocess.run([*program, "load"], stdin=file, env=environment(fresh), capture_output=True, check=False)
            for program in (DOCKER, WHERRY)
            if file.seek(0) == 0
        ]
    assert (piped[1].returncode, piped[1].stdout, piped[1].stderr) == (0, piped[0].stdout, piped[0].stderr)
    named = [ask(fresh, program, ["load", "-q", "-i", archive]) for program in (DOCKER, WHERRY)]
    assert named[1] == named[0]
    assert named[1].out == f"Loaded image: {BUSYBOX}\n"


def test_import_says_what_docker_says(fresh: Engine, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    with tarfile.open(path, "w") as made:
        made.add("/bin/busybox", "bin/busybox")
    words = ["import", "-c", 'CMD ["/bin/busybox", "echo", "hello"]', "-m", "made by a test", str(path), "made:1"]
    answers = [ask(fresh, program, words) for program in (DOCKER, WHERRY)]
    assert answers[1] == answers[0]
    assert answers[1].code == 0
    assert ask(fresh, WHERRY, ["run", "--rm", "--network=none", "made:1"]).out == "hello\n"


@pytest.fixture
def pullable(archive: str, tmp_path: Path) -> Iterator[str]:
    """The reference of an image in a registry."""
    with docker_registry(tmp_path / "registry") as host:
        reference = f"{host}/some/image:v1"
        skopeo_copy(f"docker-archive:{archive}", f"docker://{reference}", "--dest-tls-verify=false")
        yield reference


@pytest.mark.requires("registry", "skopeo")
def test_pull_says_what_docker_says_whatever_the_order_of_layers(fresh: Engine, pullable: str) -> None:
    reference = pullable
    answers = []
    for program in (DOCKER, WHERRY):
        fresh.docker("rmi", "-f", reference, check=False)
        answers.append(ask(fresh, program, ["pull", reference]))
    assert answers[1].code == 0
    assert sorted(answers[1].out.splitlines()) == sorted(answers[0].out.splitlines())
    again = [ask(fresh, program, ["pull", reference]) for program in (DOCKER, WHERRY)]
    assert again[1] == again[0]
    fresh.docker("rmi", "-f", reference)
    ran = ask(fresh, WHERRY, ["run", "--rm", "--network=none", reference, "echo", "hello"])
    assert (ran.code, ran.out) == (0, "hello\n")
    assert ran.err.startswith(f"Unable to find image '{reference}' locally\n")
    quiet = ask(fresh, WHERRY, ["run", "--rm", "--network=none", "--pull=always", "-q", reference, "true"])
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
