"""What runc's own users rely on and its help does not say: options after arguments, containers whose first process has
ended, working directories that the user cannot enter, parts of cgroups.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.root.test_wherry_runc import PARENT, Runtime, program, rootfs, runtime

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox")

SHARED_PIDS = [{"type": kind} for kind in ("mount", "ipc", "uts", "network")]


def detached(runtime: Runtime, *words: str) -> None:
    """A command whose container holds its streams."""
    with open(runtime.bundle / "output", "wb") as output:
        command = runtime.command(*words)
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=True, timeout=60)


def test_options_may_come_after_the_container(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime("update", "box", "--pids-limit", "33").returncode == 0
    assert runtime("kill", "box", "--all", "KILL").returncode == 0
    assert runtime("delete", "box", "--force").returncode == 0
    assert "flag provided but not defined: -nothing" in runtime("state", "box", "--nothing").stderr


def test_options_of_the_program_are_not_execs(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime("exec", "box", "sh", "-c", "echo $0", "--tty").stdout == "--tty\n"


@pytest.mark.parametrize("verb", ["kill", "delete"])
def test_processes_that_outlive_the_first_are_ended(runtime: Runtime, verb: str) -> None:
    """Without a pid namespace of the container's own its other processes live on."""
    pid = runtime.start("sleep", "1000", linux_namespaces=SHARED_PIDS)
    detached(runtime, "exec", "-d", "--pid-file", str(runtime.bundle / "other"), "box", "sleep", "1000")
    other = int((runtime.bundle / "other").read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert runtime.status() == "stopped"
    assert runtime(verb, "box", *(["KILL"] if verb == "kill" else [])).returncode == 0
    assert os.waitpid(other, 0)[1] == signal.SIGKILL
    if verb == "kill":
        assert "container not running" in runtime("kill", "box", "KILL").stderr
        assert "container not running" in runtime("kill", "box", "0").stderr


def test_a_working_directory_that_only_root_or_only_the_user_may_enter(runtime: Runtime, tmp_path: Path) -> None:
    for owner, user in ((0, 1000), (1000, 0)):
        private = tmp_path / f"private{owner}"
        private.mkdir(mode=0o700)
        os.chown(private, owner, owner)
        mounts = [
            *runtime.config["mounts"],
            {"destination": "/tmp/p", "type": "bind", "source": str(private), "options": ["bind"]},
        ]
        done = runtime.run("pwd", process_cwd="/tmp/p", process_user={"uid": user, "gid": user}, mounts=mounts)
        assert (done.returncode, done.stdout) == (0, "/tmp/p\n"), done.stderr


def test_a_path_is_masked_once(runtime: Runtime) -> None:
    done = runtime.run(
        "sh", "-c", "grep -c ' /proc/interrupts ' /proc/self/mountinfo", linux_maskedPaths=["/proc/interrupts"] * 3
    )
    assert done.stdout == "1\n"


def test_a_pids_limit_of_none_is_one(runtime: Runtime) -> None:
    done = runtime.run("sh", "-c", "sleep 1 & wait", linux_resources={"pids": {"limit": 0}})
    assert "can't fork" in done.stderr


def test_an_exec_gets_ambient_capabilities_that_are_inheritable(runtime: Runtime) -> None:
    sets = {name: ["CAP_CHOWN"] for name in ("effective", "permitted", "ambient")}
    sets["bounding"] = ["CAP_CHOWN", "CAP_SYSLOG"]
    runtime.start("sleep", "1000", process_capabilities={**sets, "inheritable": ["CAP_CHOWN", "CAP_SYSLOG"]})
    words = ("--cap", "CAP_SYSLOG", "--cap", "CAP_KILL", "box", "cat", "/proc/self/status")
    status = runtime("exec", *words).stdout
    assert [f"Cap{name}:\t{1 << 34 | 1:016x}\n" in status for name in ("Inh", "Amb")] == [True, True], status


@pytest.mark.requires("cgroup1")
def test_an_exec_in_a_part_of_the_cgroup(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    own = f"{PARENT}/{runtime.bundle.parent.name}"
    Path(f"/sys/fs/cgroup/pids{own}/part").mkdir()
    shown = runtime(
        "exec", "--cgroup", "pids:part", "--cgroup", "memory:/", "box", "cat", "/proc/1/cpuset", "/proc/self/cgroup"
    )
    assert f":pids:{own}/part\n" in shown.stdout, shown.stderr
    assert f":memory:{own}\n" in shown.stdout
    for words, text in (
        (("..",), "bad sub cgroup path"),
        (("pids:part/../..",), "bad sub cgroup path"),
        (("nothing",), "no such file or directory"),
        (("cows:part",), "unknown controller"),
        (("part", "other"), "missing <controller>: prefix"),
    ):
        done = runtime("exec", *(part for word in words for part in ("--cgroup", word)), "box", "true")
        assert (done.returncode, text in done.stderr) == (255, True), done.stderr


def test_an_exec_that_cannot_be_handed_over_is_ended(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    done = runtime("exec", "--pidfd-socket", "/nowhere", "-d", "box", "sleep", "777")
    assert "--pidfd-socket /nowhere: no such file or directory" in done.stderr
    assert "777" not in runtime("ps", "box").stdout
