"""Rootless podman, which calls its runtime as root of a user namespace that it has made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.rootless_lab import SUBORDINATE, UID, User, user

pytestmark = pytest.mark.requires("root", "userns", "podman", "runc", "newuidmap")

IMAGE = "localhost/box:latest"


class Podman:
    def __init__(self, someone: User) -> None:
        self.someone = someone
        self.home = someone.place / "run"
        self.runtime = ""
        archive = self.home / "box.tar"
        subprocess.run(["tar", "-C", str(someone.rootfs), "-cf", str(archive), "."], check=True)
        os.chown(archive, UID, UID)
        done = self("import", str(archive), IMAGE)
        assert done.returncode == 0, done

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        runtime = ("--runtime", self.runtime) if self.runtime else ()
        flags = (
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
            "--storage-driver",
            "vfs",
            "--log-level",
            "error",
        )
        return self.someone(
            "env", f"HOME={self.home}", f"TMPDIR={self.home}", "podman", *flags, *runtime, *words, cwd=self.home
        )


@pytest.fixture(scope="module")
def rootless() -> Iterator[Podman]:
    with user() as someone:
        podman = Podman(someone)
        yield podman
        podman("rm", "-fa", "-t", "0")
        pause = podman.home / "libpod/tmp/pause.pid"
        if pause.exists():
            os.kill(int(pause.read_text()), 9)


@pytest.fixture(params=["runc", "wherry-runc"])
def podman(rootless: Podman, request: pytest.FixtureRequest) -> Podman:
    rootless.runtime = str(shutil.which("runc")) if request.param == "runc" else rootless.someone.program
    return rootless


RUN = ("--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


def test_run_with_subordinate_ids_and_the_hosts_nodes(podman: Podman) -> None:
    done = podman("run", "--rm", *RUN, IMAGE, "sh", "-c", "id -u; cat /proc/self/uid_map; echo >/dev/null; exit 3")
    assert done.stdout.split() == ["0", "0", str(UID), "1", "1", str(SUBORDINATE), "65536"], done
    assert done.returncode == 3


def test_exec_kill_and_removal(podman: Podman) -> None:
    assert podman("run", "-d", "--name", "web", *RUN, IMAGE, "sleep", "1000").returncode == 0
    done = podman("exec", "web", "sh", "-c", "id -u; exit 4")
    assert (done.stdout, done.returncode) == ("0\n", 4), done
    assert podman("kill", "web").returncode == 0
    assert podman("wait", "web").stdout == "137\n"
    assert podman("rm", "web").returncode == 0
