"""`wherry` against `docker`: what only looks shows the same, with the same errors and exit codes."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.harness import BUSYBOX, Engine, wait_until
from tests.e2e.parity import DOCKER, WHERRY, ask, environment


@pytest.fixture(scope="module")
def furnished(shared_engine: Engine) -> Iterator[Engine]:
    """An engine with one running, one stopped, one terminal and one created container, and a volume."""
    engine = shared_engine
    before = engine.objects()
    network = "--network=none"
    engine.docker(
        "run", "-d", "--name", "runs", network, "-l", "a=b", "-l", "c.d=e", "-v", "vol:/v", BUSYBOX, "sleep", "1000"
    )
    engine.docker("run", "--name", "ended", network, BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    engine.docker("run", "-dt", "--name", "terminal", network, BUSYBOX, "sh", "-c", "echo on a terminal; sleep 1000")
    engine.docker("create", "--name", "created", network, "-e", "A=b", BUSYBOX)
    wait_until("the terminal has shown its line", lambda: "terminal" in engine.output("logs", "terminal"))
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
    assert ask(furnished, WHERRY, words) == ask(furnished, DOCKER, words)


def test_a_reader_that_goes_away_ends_the_command_as_sigpipe_does(furnished: Engine) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run([*WHERRY, "ps"], env=environment(furnished), stdout=pipe, check=False)
    assert done.returncode == -13
