"""`wherry` against `docker`: the same words to the same engine give the same output, the same errors and the same exit code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine

SOURCES = str(Path(__file__).parent.parent.parent / "src")
WHERRY = [sys.executable, "-m", "wherry.cli"]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def ask(engine: Engine, program: list[str], words: list[str], stdin: str = "") -> Answer:
    environment = {**engine.client_environment, "PYTHONPATH": SOURCES}
    done = subprocess.run(
        [*program, *words], env=environment, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    return Answer(done.returncode, normal(done.stdout), normal(done.stderr))


_PATTERNS = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short id>"),
    (re.compile(r"\d+(\.\d+)?(?=(s|ms)\b)"), "<n>"),
    (re.compile(r"(\d+|Less than a|About a|About an) (second|minute|hour)s?"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)?(%|[kKMG]?i?B)"), "<size>"),
    (re.compile(r" {3,}"), "   "),
    (re.compile(r"\bwherry\b"), "docker"),
)


def normal(text: str) -> str:
    """Without what differs from one moment to the next: ids, times, sizes; and with one name for the program."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


@pytest.fixture(scope="module")
def furnished(shared_engine: Engine) -> Iterator[Engine]:
    """An engine with one running, one stopped, one terminal and one created container, a volume and a second tag."""
    engine = shared_engine
    before = engine.objects()
    network = "--network=none"
    engine.docker(
        "run", "-d", "--name", "runs", network, "-l", "a=b", "-l", "c.d=e", "-v", "vol:/v", BUSYBOX, "sleep", "1000"
    )
    engine.docker("run", "--name", "ended", network, BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    engine.docker("run", "-dt", "--name", "terminal", network, BUSYBOX, "sh", "-c", "echo on a terminal; sleep 1000")
    engine.docker("create", "--name", "created", network, "-e", "A=b", BUSYBOX)
    engine.docker("tag", BUSYBOX, "example.com:5000/some/busybox:v2")
    yield engine
    engine.remove_everything_new(before)


LOOKING = r"""
ps
ps -a
ps -aq
ps -aq --no-trunc
ps -as
ps -a --no-trunc
ps -l
ps -n 2
ps -a -f status=exited
ps -a -f name=runs -f label=a=b
ps -a -f nonsense=1
ps -a --format {{.Names}}
ps -a --format json
ps -a --format '{{json .}}'
ps -a --format 'table {{.Names}}\t{{.Status}}\t{{.Label "c.d"}}'
ps -a --format 'table {{.ID}}\t{{upper .Names}}'
ps -a --format '{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.Labels}}\t{{.Mounts}}\t{{.LocalVolumes}}\t{{.Networks}}\t{{.State}}'
ps -a --format '{{range $i, $x := split .Names "e"}}{{$i}}={{$x}};{{end}}{{if eq .State "running"}}up{{else}}down{{end}}'
ps --format '{{.Nope}}'
ps --format '{{.ID'
ps --format '{{nope .ID}}'
ps --format '{{.State.Nope}}'
ps --format '{{printf "%-10s|%5s|%q" .Names .State .Image}}'
ps --format '{{len .Names}} {{index (split .Names "u") 0}} {{join (split .Names "u") "U"}} {{title .Names}} {{truncate .Names 2}}'
ps --format '{{pad .Names 1 2}}|{{println .Names}}|{{.Names | lower | upper}}|{{not (eq .Names "x")}}|{{and .Names .Labels}}'
ps --format '{{- .Names -}}   x'
ps --format '{{/* nothing */}}{{with .Labels}}{{.}}{{else}}none{{end}}'
ps extra
container ls -a
container list -aq
images
images -q
images --digests
images --no-trunc
images busybox
images nothing-of-this-name
images --format json
images --format '{{.Repository}}:{{.Tag}}'
images --format 'table {{.ID}}\t{{.Repository}}'
image ls
history busybox
history busybox --format json
history --no-trunc -H=false busybox
history -q busybox
history nope
inspect runs
inspect ended created
inspect -s runs
inspect busybox
inspect vol
inspect none
inspect nope
inspect runs nope
inspect --type image runs
inspect --type container busybox
inspect -f {{.Name}} runs nope
inspect -f {{.Nope}} runs
inspect -f {{.State.Status}}/{{.State.ExitCode}} ended
inspect -f '{{json .HostConfig.Binds}}' runs
inspect -f '{{.HostConfig.Binds}} {{.Config.Env}} {{.HostConfig.Memory}} {{.State.Running}}' runs
inspect -f '{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}}{{end}}' runs
inspect -f '{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}' runs
inspect -f '{{index .Config.Labels "c.d"}} {{index .Config.Env 0}}' runs
inspect -f '{{if .State.Health}}sick{{else}}well{{end}}' runs
inspect -f '{{with index .Mounts 0}}{{.Name}}{{end}}' runs
inspect -f '{{len .Mounts}} {{slice .Id 0 0}}' runs
inspect -f '{{' runs
container inspect runs
container inspect nope runs
image inspect busybox
image inspect nope
network inspect none
network inspect nope
volume inspect vol
volume inspect nope
logs ended
logs terminal
logs nope
logs --tail 0 ended
logs -n 1 ended
logs --since 1h ended
logs --since nonsense ended
logs --until 1h ended
logs
top runs
top runs -o pid,args
top ended
top nope
port runs
port runs 80
port nope
stats --no-stream --format '{{.Name}} {{.PIDs}}' runs
stats --no-stream nope
network ls
network ls -q
network ls --format json
network ls -f name=none
volume ls
volume ls -q
volume ls --format '{{.Name}} {{.Driver}} {{.Scope}}'
system df
system df --format json
info -f {{.Driver}}
version -f {{.Server.Version}}
wait ended
wait nope
kill
rename one
stop -t x runs
-x
--nonsense
ps -x
ps --nonsense
ps -f nonsense
ps --format
run
run -x
run --name
run -e
exec
exec runs
nonsense
container nonsense
tag busybox
events --since 1h --until 0s --filter container=ended
events --since 1h --until 0s --filter container=ended --format {{.Type}}/{{.Action}}
events --format '{{'
""".strip().splitlines()


@pytest.mark.parametrize("line", LOOKING)
def test_looking_shows_what_docker_shows(line: str, furnished: Engine) -> None:
    words = shlex.split(line)
    assert ask(furnished, WHERRY, words) == ask(furnished, ["docker"], words)


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
run --rm --network nonsense busybox true
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
    for program in (["docker"], WHERRY):
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
        env={**fresh.client_environment, "PYTHONPATH": SOURCES},
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


def test_a_reader_that_goes_away_ends_the_command_as_sigpipe_does(furnished: Engine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [*WHERRY, "ps"], env={**furnished.client_environment, "PYTHONPATH": SOURCES}, stdout=pipe, check=False
        )
    assert done.returncode == -13
