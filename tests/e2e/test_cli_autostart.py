"""A command starts the engine when none runs on the default socket. Tried in namespaces, with a /run, a /var/lib and a network of their own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PEER

SOURCES = str(Path(__file__).parent.parent.parent / "src")
WHERRY = shlex.join([sys.executable, "-m", "wherry.cli"])

pytestmark = pytest.mark.skipif(PEER != "wherryd", reason="peer: dockerd is not started by wherry")

PREPARE = """
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
ip link set lo up
cd /
"""


def in_a_machine_of_its_own(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script with `$W` as the command; what it has started ends with it."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-c",
            PREPARE + script,
        ],
        env={**keep, "PYTHONPATH": SOURCES, "W": WHERRY},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_command_starts_the_engine_and_the_next_one_finds_it() -> None:
    done = in_a_machine_of_its_own("$W ping; cat /run/wherry.pid; $W ps -q; cat /run/wherry.pid")
    lines = done.stdout.split("\n")
    assert lines[0].startswith("unix:///run/wherry.sock: API 1."), done.stderr
    assert lines[1] == lines[2] != ""


def test_commands_at_the_same_moment_start_one_engine() -> None:
    done = in_a_machine_of_its_own(
        "$W ps -q & $W images -q & $W volume ls -q & wait; grep -c listening /run/wherry/wherryd.log"
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_the_engine_outlives_the_command_and_has_a_session_of_its_own() -> None:
    done = in_a_machine_of_its_own(
        "$W ping >/dev/null; pid=$(cat /run/wherry.pid); cut -d' ' -f6 /proc/$pid/stat; echo $pid; readlink /proc/$pid/cwd"
    )
    session, pid, cwd = done.stdout.split()
    assert (session, cwd) == (pid, "/")


def test_wherry_autostart_0_starts_nothing() -> None:
    done = in_a_machine_of_its_own("WHERRY_AUTOSTART=0 $W ps; echo code $?; ls /run | grep wherry")
    assert done.stdout == "code 1\n"
    assert done.stderr == "Cannot connect to the wherry engine at unix:///run/wherry.sock. Is wherryd running?\n"


@pytest.mark.parametrize("words", ["-H unix:///run/wherry.sock ps", "-H tcp://127.0.0.1:1 ps"])
def test_an_engine_that_was_named_is_not_started(words: str) -> None:
    done = in_a_machine_of_its_own(f"$W {words}; echo code $?; ls /run | grep wherry")
    assert done.stdout == "code 1\n"
    assert "Cannot connect to the wherry engine" in done.stderr


def test_an_engine_that_cannot_start_tells_why() -> None:
    done = in_a_machine_of_its_own("touch /var/lib/wherry; $W run hello-world; echo code $?; ls /run/wherry")
    assert "code 125" in done.stdout
    assert (
        "cannot start the engine: wherryd ended while it was starting. Its log, /run/wherry/wherryd.log, ends:"
        in done.stderr
    )
    assert "/var/lib/wherry" in done.stderr.partition("ends:")[2]
    assert "notify" not in done.stdout
