"""Other OCI runtimes under the engine: `docker run --runtime NAME` behaves as without."""

from __future__ import annotations

import difflib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.e2e.harness import BUSYBOX, PEER, Engine, nothing_left, running
from tests.wherry_runc import install

pytestmark = pytest.mark.skipif(PEER == "dockerd", reason="wherryd's: dockerd's own runtime is one of them")

RUNTIMES = [
    pytest.param("runc", marks=pytest.mark.requires("runc")),
    pytest.param("crun", marks=pytest.mark.requires("crun")),
    "wherry-runc",
]
CRUN = """#!/bin/sh
exec unshare -m sh -c 'umount /sys/fs/cgroup/unified; exec crun "$@"' crun "$@"
"""
"""crun refuses a machine whose v1 hierarchies stand beside an empty v2 one, so it is shown the machine without that."""

WHAT_IT_SEES = r"""
id; pwd; env | sort | grep -v HOSTNAME; umask; ulimit -n
grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status | sed 's/[ \t]*$//'
cat /proc/self/oom_score_adj
awk '$5 !~ "^/(proc|sys)/" { print $5 }' /proc/self/mountinfo | sort -u
ls /dev | grep -v '^core$' | sort
cd /sys/fs/cgroup
for file in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes pids/pids.max cpu/cpu.shares cpu/cpu.cfs_quota_us cpuset/cpuset.cpus \
    memory.max pids.max cpu.max; do cat $file; done 2>/dev/null
touch /proc/sys/kernel/hostname /sys/x /etc/written 2>&1 | sed 's/^touch: //'
ls /proc/self/fd | wc -l
"""
"""Prints what the runtime has arranged, but for crun's /dev/core."""


@pytest.fixture(scope="module")
def one_engine(tmp_path_factory: pytest.TempPathFactory, archive: str) -> Iterator[Engine]:
    place = tmp_path_factory.mktemp("runtimes")
    crun = place / "crun"
    crun.write_text(CRUN if os.path.ismount("/sys/fs/cgroup/unified") else '#!/bin/sh\nexec crun "$@"\n')
    crun.chmod(0o755)
    wherry_runc = install(place / "usr")
    root = Path(leaks.engine_roots() + secrets.token_hex(3))
    arguments = (f"--add-runtime=crun={crun}", f"--add-runtime=wherry-runc={wherry_runc}")
    with nothing_left(), running(Engine(root, extra_arguments=arguments), archive) as engine:
        yield engine
    shutil.rmtree(root)


@pytest.fixture
def engine(one_engine: Engine) -> Iterator[Engine]:
    before = one_engine.objects()
    yield one_engine
    one_engine.remove_everything_new(before)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-u=1000:2000", "--group-add=7", "-w=/made/here", "-e=A=b", "--hostname=h", "--read-only", "--tmpfs=/t:size=1m"),
        ("--cap-drop=ALL", "--cap-add=NET_ADMIN", "--security-opt=no-new-privileges", "--device=/dev/null:/dev/other:r"),
        ("-m=64m", "--memory-reservation=32m", "--pids-limit=50", "--cpu-shares=77", "--cpus=0.5", "--cpuset-cpus=0",
         "--oom-score-adj=300", "--ulimit=nofile=100:200", "--shm-size=1m"),
        ("--privileged",),
    ],
    ids=lambda flags: flags[0].lstrip("-") if flags else "default",
)  # fmt: skip
def test_the_program_sees_the_same(engine: Engine, runtime: str, flags: tuple[str, ...]) -> None:
    ours = engine.shell(WHAT_IT_SEES, *flags).splitlines()
    theirs = engine.shell(WHAT_IT_SEES, f"--runtime={runtime}", *flags).splitlines()
    if differences := list(difflib.unified_diff(ours, theirs, "wherry", runtime, n=0, lineterm="")):
        pytest.fail("\n".join(differences), pytrace=False)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_life(engine: Engine, runtime: str) -> None:
    engine.docker(
        "run", "-d", "--name=box", "--network=none", f"--runtime={runtime}", "-m=64m", BUSYBOX, "sleep", "1000"
    )
    assert engine.inspect("box")["HostConfig"]["Runtime"] == runtime
    until = "until grep -x sleep /proc/1/comm; do :; done"  # others answer a start a moment before their execve
    assert engine.output("exec", "box", "sh", "-c", until) == "sleep"
    assert (
        engine.docker("exec", "-e=A=b", "-u=7:8", "-w=/tmp", "box", "sh", "-c", "exit 5", check=False).returncode == 5
    )
    assert "sleep" in engine.output("top", "box")
    engine.docker("pause", "box")
    assert engine.state("box")["Paused"] is True
    engine.docker("unpause", "box")
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert engine.output("exec", "box", "sh", "-c", limit) == str(64 << 20)
    engine.docker("kill", "box")
    assert engine.output("wait", "box") == "137"
    engine.docker("start", "box")
    engine.docker("restart", "-t=0", "box")
    engine.docker("stop", "-t=0", "box")
    engine.docker("rm", "box")


@pytest.mark.parametrize("runtime", ["", "runc"])
def test_the_shared_memory_of_another_container_is_its_own_and_nothing_of_the_hosts(
    engine: Engine, runtime: str
) -> None:
    flags = ("--ipc=container:owner", *([f"--runtime={runtime}"] if runtime else []))
    owner = (
        "run",
        "-d",
        "--name=owner",
        "--network=none",
        "--ipc=shareable",
        "--cap-add=SYS_ADMIN",
        BUSYBOX,
        "sh",
        "-c",
    )
    engine.docker(*owner, "echo shared >/dev/shm/file; echo ready; exec sleep 1000")
    engine.until_said("owner")
    assert engine.shell("cat /dev/shm/file; echo more >/dev/shm/more", *flags) == "shared"
    assert engine.output("exec", "owner", "cat", "/dev/shm/more") == "more"
    # a link in its place leads nowhere, least of all out of the container that it is in
    engine.docker("exec", "owner", "sh", "-c", "umount /dev/shm && rmdir /dev/shm && ln -s /etc /dev/shm")
    done = engine.docker("run", "--rm", "--network=none", *flags, BUSYBOX, "ls", "/dev/shm/", check=False)
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    assert "cannot share /proc/" in done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_streams_terminals_and_errors(engine: Engine, runtime: str) -> None:
    words = ("run", "--rm", "--network=none", f"--runtime={runtime}")
    assert engine.docker(*words, "-i", BUSYBOX, "cat", stdin="in\n").stdout == "in\n"
    assert engine.output(*words, "-t", BUSYBOX, "sh", "-c", "tty; echo $TERM").split() == ["/dev/pts/0", "xterm"]
    done = engine.docker(*words, BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    done = engine.docker(*words, BUSYBOX, "nope", check=False)
    assert done.returncode == (125 if runtime == "crun" else 127)  # the docker CLI reads runc's words, and not crun's
    assert done.stderr.count("unable to start container process") == 1
    engine.docker("run", "-d", "--name=box", "--network=none", f"--runtime={runtime}", BUSYBOX, "sleep", "1000")
    assert engine.output("exec", "-t", "box", "tty") == "/dev/pts/0"
    assert engine.docker("exec", "-i", "box", "cat", stdin="more").stdout == "more"
    done = engine.docker("exec", "box", "nope", check=False)
    assert done.returncode == 127
    engine.docker("rm", "-f", "box")
