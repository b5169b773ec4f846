"""Debian's containerd by its client ctr, its containers on runc and on wherry-runc (`--runc-binary`)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.conformance.conftest import RUNTIMES
from tests.conformance.engines import PARENT, Containerd

pytestmark = pytest.mark.requires("containerd")

FIELDS = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"


def test_run_with_output_streams_and_exit_code(containerd: Containerd) -> None:
    shell = "pwd; echo $A; read line; echo got $line; echo err >&2; exit 5"
    done = containerd.run("--rm", "--env=A=b", "--cwd=/tmp", "box", "sh", "-c", shell, input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (5, "/tmp\nb\ngot in\n", "err\n")


def test_a_program_that_is_missing_is_named(containerd: Containerd) -> None:
    done = containerd.run("--rm", "box", "nope")
    assert done.returncode != 0
    assert 'exec: "nope": executable file not found in $PATH' in done.stderr
    assert containerd.must("task", "ls", "-q") == ""


def test_the_program_is_confined_alike(shared_containerd: Containerd) -> None:
    seen: list[list[object]] = []
    for runtime in RUNTIMES:
        shared_containerd.runtime = runtime
        seen.append([])
        for flags in (
            ("--seccomp",),
            ("--cap-drop=CAP_NET_RAW", "--cap-add=CAP_SYS_NICE", "--allow-new-privs", "--read-only"),
        ):
            shell = f"{FIELDS}; touch /x; cat /proc/self/mountinfo | wc -l"
            done = shared_containerd.run("--rm", *flags, "box", "sh", "-c", shell)
            seen[-1].append((done.returncode, done.stdout, done.stderr))
    assert seen[0] == seen[1]


def test_terminal(containerd: Containerd) -> None:
    words = containerd.run_words("--rm", "-t", "box", "sh", "-c", "tty; stty size; read x; echo got $x; exit 6")
    status, output = containerd.in_terminal(words, b"typed\n")
    assert (status, "/dev/pts/0" in output, "got typed" in output) == (6, True, True), output


@pytest.mark.requires("cgroup1")
def test_limits_reach_the_group(containerd: Containerd) -> None:
    containerd.must(*containerd.run_words("-d", "--memory-limit=67108864", "--cpus=0.5", "box", "sleep", "1000"))
    for file, value in (("memory/{}/box/memory.limit_in_bytes", "67108864"), ("cpu/{}/box/cpu.cfs_quota_us", "50000")):
        assert Path("/sys/fs/cgroup", file.format(PARENT[1:])).read_text().strip() == value


def test_a_task_is_entered_paused_looked_at_killed_and_deleted(containerd: Containerd) -> None:
    containerd.must(*containerd.run_words("-d", "box", "sleep", "1000"))
    task = ("task", "exec", "--exec-id", "e")
    # a start is answered a moment before its execve
    assert containerd(*task, "box", "sh", "-c", "until ps | grep '[s]leep 1000'; do :; done; exit 3").returncode == 3
    assert containerd(*task, "box", "sh", "-c", "exit 3").returncode == 3
    assert containerd(*task, "--user=7:8", "--cwd=/tmp", "box", "sh", "-c", "id -u; pwd").stdout == "7\n/tmp\n"
    assert containerd(*task, "box", "cat", input="through\n").stdout == "through\n"
    missing = containerd(*task, "box", "nope")
    assert (missing.returncode != 0, "executable file not found" in missing.stderr) == (True, True)
    status, output = containerd.in_terminal([*task, "-t", "box", "sh", "-c", "tty; read x; echo got $x"], b"typed\n")
    assert (status, "/dev/pts/" in output, "got typed" in output) == (0, True, True), output
    containerd.must("task", "pause", "box")
    assert "PAUSED" in containerd.must("task", "ls")
    containerd.must("task", "resume", "box")
    assert "RUNNING" in containerd.must("task", "ls")
    assert len(containerd.must("task", "ps", "box").splitlines()) == 2
    metrics = json.loads(containerd.must("task", "metrics", "--format=json", "box"))
    assert metrics["pids"]["current"] == 1
    assert containerd("task", "delete", "box").returncode != 0
    containerd.must("task", "kill", "-s", "SIGKILL", "box")
    while "STOPPED" not in containerd.must("task", "ls"):  # on a busy machine that takes a moment
        time.sleep(0.05)
    assert containerd("task", "delete", "box").returncode in (0, 137)
    assert containerd.must("task", "ls", "-q") == ""


def test_running_out_of_memory_kills(containerd: Containerd) -> None:
    done = containerd.run("--rm", "--memory-limit=16777216", "box", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M")
    assert done.returncode == 137


def test_namespaces_of_another_container(containerd: Containerd) -> None:
    containerd.must(*containerd.run_words("-d", "box", "sleep", "1000"))
    pid = containerd.must("task", "ls").splitlines()[1].split()[1]
    joined = containerd.run(
        "--rm", f"--with-ns=pid:/proc/{pid}/ns/pid", "other", "sh", "-c", "until ps | grep '[s]leep 1000'; do :; done"
    )
    assert joined.stdout.endswith(" sleep 1000\n"), joined.stderr
