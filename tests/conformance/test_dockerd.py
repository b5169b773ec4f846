"""Debian's dockerd, its containers on runc and on wherry-runc."""

from __future__ import annotations

import difflib
import json
import time
from pathlib import Path

import pytest

from tests.conformance.conftest import RUNTIMES
from tests.conformance.engines import Dockerd

pytestmark = pytest.mark.requires("dockerd", "docker")

WHAT_IT_SEES = r"""
id; pwd; env | sort | grep -v HOSTNAME; umask; ulimit -n; wc -c </proc/sys/kernel/hostname
grep -E '^(Cap|NoNewPrivs|Seccomp|Groups|SigIgn|SigBlk)' /proc/self/status
cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_unprivileged_port_start
awk '$5 !~ "^/(proc/acpi|sys/firmware|sys/fs/cgroup)$" { point = $5 " " $6; sub(".* - ", ""); print point, $1 }' /proc/self/mountinfo | sort
ls -l /dev | awk '{ print $1, $3, $4, $5, $6, $NF }' | sed 's/, *[A-Z][a-z]*//'
sed -n '/^0:/!s/[0-9a-f]\{64\}/ID/p' /proc/self/cgroup
cd /sys/fs/cgroup
for file in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes memory/memory.swappiness pids/pids.max cpu/cpu.shares \
    cpu/cpu.cfs_quota_us cpuset/cpuset.cpus; do cat $file; done 2>/dev/null
sort devices/devices.list 2>/dev/null
ls /proc/self/fd | wc -l
"""
"""Prints what the runtime has arranged, but for what is stricter in wherry-runc: masked directories are inert, and the
directory of cgroup hierarchies is read-only as its option says; and the v2 hierarchy beside v1, which has no controllers.
"""


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-u=1000:2000", "--group-add=7", "-w=/made/here", "-e=A=b", "--hostname=h"),
        ("-u=app", "--read-only", "--tmpfs=/t:size=1m,mode=1777", "-v=/usr/share/doc:/d:ro", "-v=/v", "--init", "--ipc=shareable"),
        ("--cap-drop=ALL", "--cap-add=NET_ADMIN", "--security-opt=no-new-privileges", "--device=/dev/null:/dev/other:r",
         "--device-cgroup-rule=b 7:* rw", "--sysctl=net.ipv4.ip_unprivileged_port_start=80"),
        ("-m=64m", "--memory-reservation=32m", "--memory-swappiness=7", "--pids-limit=50", "--cpu-shares=77", "--cpus=0.5",
         "--cpuset-cpus=0", "--oom-score-adj=300", "--ulimit=nofile=100:200", "--shm-size=1m"),
        ("--pid=host", "--ipc=host", "--uts=host", "--network=host", "--cgroupns=host", "--security-opt=seccomp=unconfined",
         "--security-opt=systempaths=unconfined"),
    ],
    ids=lambda flags: flags[0].lstrip("-") if flags else "default",
)  # fmt: skip
def test_the_program_sees_the_same_as_on_runc(shared_dockerd: Dockerd, flags: tuple[str, ...]) -> None:
    seen: dict[str, list[str]] = {}
    for shared_dockerd.runtime in RUNTIMES:
        done = shared_dockerd.run("--rm", *flags, "sh", "-c", WHAT_IT_SEES)
        assert done.returncode == 0, done.stderr
        seen[shared_dockerd.runtime] = done.stdout.splitlines()
    if differences := list(difflib.unified_diff(*seen.values(), *seen, n=0, lineterm="")):
        pytest.fail("\n".join(differences), pytrace=False)


def until_it_runs(dockerd: Dockerd, command: str) -> None:
    """Returns when the container "box" has that program: a start is answered a moment before its execve."""
    while not any(
        line.split(None, 1)[1] == command for line in dockerd.must("top", "box", "-o", "pid,args").splitlines()
    ):
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("program", "status"),
    [(("sh", "-c", "exit 5"), 5), (("nope",), 127), (("/bin",), 126), (("/etc/passwd",), 126)],
)  # fmt: skip
def test_exit_codes(dockerd: Dockerd, program: tuple[str, ...], status: int) -> None:
    done = dockerd.run("--rm", *program)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_streams(dockerd: Dockerd) -> None:
    done = dockerd.run("--rm", "-i", "sh", "-c", "cat; echo err >&2", input="in\n" * 5000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\n" * 5000, "err\n")


def test_exec(dockerd: Dockerd) -> None:
    dockerd.run("-d", "--name=box", "sleep", "1000")
    until_it_runs(dockerd, "sleep 1000")
    assert "sleep 1000" in dockerd.must("exec", "box", "ps")
    assert dockerd.must("exec", "-i", "box", "cat", input="through\n") == "through\n"
    assert (
        dockerd.must("exec", "-u", "7:8", "-w", "/tmp", "-e", "X=y", "box", "sh", "-c", "id -u; pwd; echo $X")
        == "7\n/tmp\ny\n"
    )
    assert dockerd("exec", "box", "sh", "-c", "exit 3").returncode == 3
    missing = dockerd("exec", "box", "nope")
    assert missing.returncode in (126, 127)
    assert "executable file not found" in missing.stdout + missing.stderr
    dockerd.must("exec", "-d", "box", "sleep", "777")
    until_it_runs(dockerd, "sleep 777")


def test_terminals(dockerd: Dockerd) -> None:
    shell = "tty; until stty size 2>&1 | grep '33 77'; do sleep 0.05; done; read x; echo got $x; exit 6"
    status, output = dockerd.in_terminal(dockerd.run_words("-it", "--rm", "sh", "-c", shell), b"typed\n")
    assert (status, "/dev/pts/0" in output, "33 77" in output, "got typed" in output) == (6, True, True, True), output
    dockerd.run("-d", "--name=box", "sleep", "1000")
    status, output = dockerd.in_terminal(["exec", "-it", "box", "sh", "-c", shell], b"typed\n")
    assert (status, "/dev/pts/" in output, "33 77" in output, "got typed" in output) == (6, True, True, True), output


def test_pause_and_unpause(dockerd: Dockerd) -> None:
    dockerd.run("-d", "--name=box", "sleep", "1000")
    dockerd.must("pause", "box")
    assert "(Paused)" in dockerd.must("ps", "--format", "{{.Status}}")
    assert "is paused" in dockerd("exec", "box", "true").stderr
    dockerd.must("unpause", "box")
    assert dockerd.must("exec", "box", "echo", "again") == "again\n"


def test_update(dockerd: Dockerd) -> None:
    dockerd.run("-d", "--name=box", "-m=64m", "sleep", "1000")
    dockerd.must("update", "-m=100m", "--memory-swap=200m", "--pids-limit=44", "--cpus=0.3", "--cpu-shares=333", "box")
    assert "100MiB" in dockerd.must("stats", "--no-stream", "--format", "{{.MemUsage}}", "box")
    files = "pids/pids.max cpu/cpu.cfs_quota_us cpu/cpu.shares memory/memory.memsw.limit_in_bytes"
    assert dockerd.must("exec", "box", "sh", "-c", f"cd /sys/fs/cgroup; cat {files}").split() == [
        "44",
        "30000",
        "333",
        "209715200",
    ]


@pytest.mark.parametrize("signal", ["TERM", "KILL", "USR1", "RTMIN+3"])
def test_kill(dockerd: Dockerd, signal: str) -> None:
    dockerd.run("-d", "--name=box", "--init", "sleep", "1000")
    until_it_runs(dockerd, "sleep 1000")  # from then on docker-init passes signals on
    dockerd.must("kill", "-s", signal, "box")
    assert (
        dockerd.must("wait", "box").strip() == {"TERM": "143", "KILL": "137", "USR1": "138", "RTMIN+3": "165"}[signal]
    )


def test_stop_restart_and_removal_of_a_running_container(dockerd: Dockerd) -> None:
    dockerd.run("-d", "--name=box", "sh", "-c", "trap 'exit 9' TERM; sleep 1000 & while :; do wait; done")
    until_it_runs(dockerd, "sleep 1000")
    dockerd.must("stop", "-t", "200", "box")
    assert dockerd.must("inspect", "-f", "{{.State.ExitCode}}", "box").strip() == "9"
    dockerd.must("start", "box")
    dockerd.must("restart", "-t0", "box")
    assert dockerd.must("inspect", "-f", "{{.State.Running}}", "box").strip() == "true"
    dockerd.must("rm", "-f", "box")


def test_running_out_of_memory_is_told(dockerd: Dockerd) -> None:
    """The shim listens from the end of the start on, so the program waits for an exec. It tells of the kill and of the end by two threads, and
    dockerd keeps what comes first: several tries."""
    shell = "until [ -e /go ]; do sleep 0.05; done; exec dd if=/dev/zero of=/dev/null bs=200M"
    is_told = False
    for _ in range(10):
        dockerd.must(*dockerd.run_words("-d", "--name=box", "-m=16m", "--memory-swap=16m", "sh", "-c", shell))
        dockerd("exec", "box", "touch", "/go")
        assert dockerd.must("wait", "box").strip() == "137"
        is_told = dockerd.must("inspect", "-f", "{{.State.OOMKilled}}", "box").strip() == "true"
        dockerd.must("rm", "box")
        if is_told:
            break
    assert is_told


def test_namespaces_of_another_container(dockerd: Dockerd) -> None:
    dockerd.run("-d", "--name=box", "--ipc=shareable", "sleep", "1000")
    until_it_runs(dockerd, "sleep 1000")
    joined = dockerd.run("--rm", "--network=container:box", "--pid=container:box", "--ipc=container:box", "sh", "-c",
                         "ps | grep -c 'sleep 100[0]'; for n in net pid ipc; do readlink /proc/self/ns/$n; done")  # fmt: skip
    pid = dockerd.must("inspect", "-f", "{{.State.Pid}}", "box").strip()
    links = [str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "pid", "ipc")]
    assert joined.stdout.split() == ["1", *links], joined.stderr


def test_a_container_that_cannot_start_says_why_and_leaves_nothing(dockerd: Dockerd) -> None:
    for flags in (
        ("--sysctl=kernel.nothing.here=1",),
        ("--ulimit=nofile=5:4",),
        ("-w=/etc/passwd",),
        ("--device=/dev/nothing",),
    ):
        done = dockerd.run("--rm", *flags, "true")
        assert done.returncode in (125, 126, 127), flags
        assert "Traceback" not in done.stderr
    assert json.loads(dockerd.must("info", "-f", "{{json .ContainersRunning}}")) == 0


def test_logs_are_what_was_written_before_the_end(dockerd: Dockerd) -> None:
    dockerd.run("-d", "--name=box", "sh", "-c", "echo out; echo err >&2")
    dockerd.must("wait", "box")
    done = dockerd("logs", "box")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
