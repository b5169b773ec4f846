"""Debian's podman (and its conmon), its containers on runc and on wherry-runc (`--runtime`)."""

from __future__ import annotations

import pytest

from tests.conformance.engines import Podman

pytestmark = pytest.mark.requires("podman")


def test_run_with_output_streams_and_exit_codes(podman: Podman) -> None:
    done = podman.run(
        "--rm",
        "-i",
        "-u=app",
        "-e=A=b",
        "-w=/tmp",
        "sh",
        "-c",
        "id -u; pwd; echo $A; cat; echo err >&2; exit 5",
        input="in\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, "1000\n/tmp\nb\nin\n", "err\n")
    for program, status in (("nope", 127), ("/bin", 126)):
        done = podman.run("--rm", program)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


def test_terminal(podman: Podman) -> None:
    shell = "tty; until stty size 2>&1 | grep '33 77'; do sleep 0.05; done; read x; echo got $x; exit 6"
    words = ["--runtime", podman.programs[podman.runtime], *podman.run_words("-it", "--rm", "sh", "-c", shell)]
    status, output = podman.in_terminal(words, b"typed\n")
    assert (status, "/dev/pts/0" in output, "33 77" in output, "got typed" in output) == (6, True, True, True), output


def test_limits_and_an_update_reach_the_group(podman: Podman) -> None:
    podman.must(*podman.run_words("-d", "--name=box", "-m=64m", "--pids-limit=50", "--cpus=0.5", "sleep", "1000"))
    files = "cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us"
    assert podman.must("exec", "-w", "/sys/fs/cgroup", "box", "sh", "-c", files).split() == ["67108864", "50", "50000"]
    podman.must("update", "-m=100m", "--cpus=0.25", "box")
    assert podman.must("exec", "-w", "/sys/fs/cgroup", "box", "sh", "-c", files).split() == ["104857600", "50", "25000"]


def test_a_container_is_entered_paused_killed_and_removed(podman: Podman) -> None:
    podman.must(*podman.run_words("-d", "--name=box", "sleep", "1000"))
    assert podman.must("exec", "-i", "-u", "7:8", "box", "sh", "-c", "id -u; cat", input="through\n") == "7\nthrough\n"
    assert podman("exec", "box", "sh", "-c", "exit 3").returncode == 3
    assert podman("exec", "box", "nope").returncode == 127
    # a start is answered a moment before its execve
    podman.must("exec", "box", "sh", "-c", "until ps | grep '[s]leep 1000'; do :; done")
    assert "sleep 1000" in podman.must("top", "box", "-eo", "args")
    podman.must("pause", "box")
    assert podman.must("inspect", "-f", "{{.State.Status}}", "box") == "paused\n"
    podman.must("unpause", "box")
    podman.must("kill", "box")
    assert podman.must("wait", "box") == "137\n"
    podman.must("start", "box")
    podman.must("rm", "-f", "-t", "0", "box")
    assert podman.must("ps", "-aq") == ""


def test_running_out_of_memory_kills(podman: Podman) -> None:
    hungry = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M")
    assert podman.run("--rm", "-m=16m", "--memory-swap=16m", *hungry).returncode == 137


def test_containers_of_a_pod_share_namespaces(podman: Podman) -> None:
    podman.must(*podman.run_words("-d", "--name=box", "--ipc=shareable", "sleep", "1000"))
    shared = podman.run(
        "--rm",
        "--network=container:box",
        "--pid=container:box",
        "--ipc=container:box",
        "sh",
        "-c",
        "until ps | grep '[s]leep 1000'; do :; done",
    )
    assert shared.stdout.endswith(" sleep 1000\n"), shared.stderr
