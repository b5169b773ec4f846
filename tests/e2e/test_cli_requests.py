"""`wherry` asks an engine for the same thing as `docker` does: the requests of both are recorded and compared."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.recorder import Recorder, recording

SOURCES = str(Path(__file__).parent.parent.parent / "src")
WHERRY = [sys.executable, "-m", "wherry.cli"]

CREATE = """
busybox
busybox echo -n hi
-it busybox
-i busybox
-t busybox
-a stdin -a STDERR busybox
-d busybox
-d -it busybox
-d --rm busybox
--cap-add ALL --cap-add NET_ADMIN --cap-drop NET_ADMIN busybox
--cap-add net_admin --cap-drop cap_net_admin --cap-drop chown busybox
--name web --hostname h --domainname d -u 1:2 -w /x busybox
-e A=b -e HOME -e NOT_SET_ANYWHERE -l a=b -l c --label d= busybox
--entrypoint sh busybox -c true
--entrypoint= busybox
--rm busybox
--restart on-failure:3 busybox
--restart always busybox
--init busybox
--init=false busybox
--stop-signal USR1 --stop-timeout 5 busybox
-v data:/data -v /a:/b:ro -v /anonymous -v ./here:/there busybox
--mount type=bind,src=/a,dst=/b,readonly busybox
--mount type=volume,source=v,target=/v,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=type=tmpfs busybox
--mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777 busybox
--mount type=bind,src=/a,dst=/b,bind-propagation=rslave busybox
--mount "type=bind,\\"src=/a,b\\",dst=/b" busybox
--tmpfs /t --tmpfs /u:size=1m,mode=1777 busybox
--read-only --shm-size 64m --privileged busybox
--network host busybox
--network none busybox
--network container:x busybox
--network mine --network-alias a --ip 10.0.0.5 --mac-address 02:00:00:00:00:05 busybox
--network name=mine,alias=a,alias=b,driver-opt=x=y busybox
--mac-address 92:d0:c6:0a:29:33 busybox
-p 80 -p 8080:81 -p 127.0.0.1:9000-9001:90-91/udp -p [::1]:5:6 busybox
-p 8000-8010:80 -p published=5,target=6,protocol=udp busybox
-P --expose 5 --expose 6-8/udp busybox
--add-host a:1.2.3.4 --add-host b=::1 --add-host c:host-gateway --dns 8.8.8.8 --dns-search example.com --dns-option ndots:2 busybox
-m 512m --memory-swap -1 --memory-reservation 256m --memory-swappiness 50 --oom-kill-disable --oom-score-adj 100 busybox
--cpus 1.5 --cpu-shares 512 --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit 100 busybox
--cpu-period 100000 --cpu-quota 50000 --cpu-rt-period 1000 --cpu-rt-runtime 500 busybox
--ulimit nofile=10:20 --ulimit core=-1 --ulimit nofile=5 busybox
--blkio-weight 300 --blkio-weight-device /dev/sda:200 busybox
--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2kb --device-read-iops /dev/sda:5 --device-write-iops /dev/sda:6 busybox
--device /dev/fuse --device /dev/null:/dev/x --device /dev/null:/dev/y:r --device /dev/zero:rw busybox
--device-cgroup-rule "c 1:3 rwm" busybox
--cap-add NET_ADMIN --cap-drop ALL --group-add 5 --group-add audio busybox
--security-opt seccomp=unconfined --security-opt no-new-privileges --security-opt apparmor=unconfined busybox
--security-opt systempaths=unconfined busybox
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=5 busybox
--pid host --ipc host --uts host --userns host --cgroupns host busybox
--runtime crun --cgroup-parent /x --annotation a=b busybox
--log-driver json-file --log-opt max-size=10m --log-opt max-file=3 busybox
--health-cmd "true x" --health-interval 5s --health-retries 3 --health-timeout 1m30s --health-start-period 1h busybox
--no-healthcheck busybox
--volumes-from x --link a:b --volume-driver local --storage-opt size=5G busybox
--platform linux/arm64 busybox
""".strip().splitlines()

OTHER = """
ps
ps -a
ps -n 5
ps -l
ps -s
ps -f status=exited -f label=a=b -f status=running
images
images -a
images --filter dangling=true
images repo:tag
stop x
stop -t 5 x
stop -s INT x
restart -t 5 x
kill x
kill -s HUP x
pause x
unpause x
rename a b
rm x
rm -f -v x
rm -l x
wait x
start x
top x
top x -o pid,args
inspect --type container x
inspect --type container -s x
inspect --type image x
container inspect x
image inspect x
network inspect x
volume inspect x
rmi x
rmi -f --no-prune x
tag a b:c
tag a b
pull a/b:c
pull a
pull a@sha256:0123456789012345678901234567890123456789012345678901234567890123
pull -a a
pull --platform linux/arm64 a
history x
import http://x/y a:b
import -c "CMD x" -m m http://x/y
network ls
network ls -f driver=bridge
volume ls
volume ls -f dangling=true
volume create
volume create --label a=b -o type=tmpfs v
volume rm v
volume rm -f v
volume prune -f
volume prune -af
container prune -f
container prune -f --filter until=24h
image prune -f
image prune -af
image prune -f --filter dangling=false
system df
info
events --since 5 --until 6
events --since 5 --until 6 -f type=container -f event=die
""".strip().splitlines()


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recorder, str]]:
    folder = tmp_path_factory.mktemp("recorder")
    path = str(folder / "s")
    with recording(path) as recorder:
        yield recorder, f"unix://{path}"


def record(listener: tuple[Recorder, str], program: list[str], arguments: list[str], cwd: Path) -> list[Any]:
    recorder, host = listener
    recorder.clear()
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "DOCKER_HOST": host, "PYTHONPATH": SOURCES}
    done = subprocess.run(
        [*program, *arguments],
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert recorder.requests, done.stderr
    return [(item.method, item.path, plain(item.query), normal(item.body)) for item in recorder.requests]


_TRUTH = {"true": "1", "false": "0"}
_DEFAULTS: dict[str, object] = {"MemorySwappiness": -1, "RestartPolicy": {"Name": "no"}, "NetworkMode": "default"}
_EMPTY = (None, "", 0, False, [], {}, [0, 0], ["0"])


def plain(query: dict[str, list[str]]) -> dict[str, object]:
    """Filters as data, one spelling of truth, no defaults; image names as the user wrote them (engines complete them)."""
    found: dict[str, object] = {}
    for key, values in query.items():
        found[key] = [json.loads(value) if value.startswith("{") else _TRUTH.get(value, value) for value in values]
        if key in ("repo", "fromImage"):
            found[key] = [value.removeprefix("docker.io/").removeprefix("library/") for value in values]
    return {key: value for key, value in found.items() if value not in (["0"], ["not-running"])}


def normal(value: Any) -> Any:
    """Without what is empty or a default: an engine takes its absence for the same. docker's client gives Binds and Env in no certain order."""
    if isinstance(value, dict):
        cleaned = {
            key: sorted(item) if key in ("Binds", "Env") else normal(item) for key, item in value.items() if item
        }
        return {key: item for key, item in cleaned.items() if item not in _EMPTY and _DEFAULTS.get(key) != item}
    if isinstance(value, list):
        return [normal(item) for item in value]
    return value


@pytest.mark.parametrize("line", CREATE)
def test_create_and_run_ask_for_the_same_container_as_docker(
    line: str, listener: tuple[Recorder, str], tmp_path: Path
) -> None:
    arguments = ["run" if line.startswith("-d ") else "create", *shlex.split(line)]
    asked = record(listener, ["docker"], arguments, tmp_path)
    assert record(listener, WHERRY, arguments, tmp_path) == asked


@pytest.mark.parametrize("line", OTHER)
def test_other_verbs_ask_for_the_same_as_docker(line: str, listener: tuple[Recorder, str], tmp_path: Path) -> None:
    asked = record(listener, ["docker"], shlex.split(line), tmp_path)
    assert record(listener, WHERRY, shlex.split(line), tmp_path) == asked
