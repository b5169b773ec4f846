"""The real dockerd (and its containerd) runs its containers on wherry-runc, and does not notice."""

from __future__ import annotations

import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.requires("root", "dockerd", "docker", "busybox", "libseccomp")

REPOSITORY = Path(__file__).resolve().parents[2]
PARENT = f"/wherry-test-dockerd-{os.getpid():x}"


class Docker:
    """A dockerd of our own, whose default runtime is wherry-runc."""

    def __init__(self, place: Path, program: Path) -> None:
        self.host = f"unix://{place}/s"
        self.log = place / "log"
        words = [
            "--data-root",
            place / "data",
            "--exec-root",
            place / "exec",
            "-H",
            self.host,
            "-p",
            place / "pid",
            "--cgroup-parent",
            PARENT,
        ]
        words += [
            "--iptables=false",
            "--bridge=none",
            "--storage-driver=vfs",
            "--add-runtime",
            f"wherry={program}",
            "--default-runtime=wherry",
        ]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["dockerd", *map(str, words)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def __call__(self, *words: str, **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", self.host, *words], capture_output=True, text=True, check=False, timeout=120, **options
        )

    def wait_until_up(self) -> None:
        pidfd = os.pidfd_open(self.process.pid)
        while self("version").returncode:
            assert not select.select([pidfd], [], [], 0.2)[0], self.log.read_text()[-2000:]
        os.close(pidfd)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    prefix = tmp_path / "prefix"
    packages = prefix / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    (packages / "wherry").symlink_to(REPOSITORY / "src/wherry")
    (prefix / "bin").mkdir()
    (prefix / "bin/python3").symlink_to(os.path.realpath(sys.executable))
    shutil.copy(REPOSITORY / "src/bin/wherry-runc", prefix / "bin")
    shutil.copytree(REPOSITORY / "src/libexec", prefix / "libexec/wherry")
    docker = Docker(tmp_path, prefix / "bin/wherry-runc")
    try:
        docker.wait_until_up()
        load_busybox(docker)
        yield docker
        for name in docker("ps", "-aq").stdout.split():
            docker("rm", "-f", name)
    finally:
        docker.close()
        for directory in [*Path("/sys/fs/cgroup").glob(f"*{PARENT}"), Path(f"/sys/fs/cgroup{PARENT}")]:
            if directory.is_dir():
                directory.rmdir()


def load_busybox(docker: Docker) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "id", "sleep", "ps", "cat", "true", "dd", "stty", "hostname"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    subprocess.run(
        ["docker", "-H", docker.host, "import", "-", "box"], input=archive.getvalue(), capture_output=True, check=True
    )


def test_dockerd_runs_execs_limits_pauses_and_removes(docker: Docker) -> None:
    done = docker(
        "run",
        "--rm",
        "--network=none",
        "--hostname=h",
        "box",
        "sh",
        "-c",
        "hostname; id -u; cat /proc/1/status; exit 5",
    )
    assert (done.returncode, done.stdout.splitlines()[:2]) == (5, ["h", "0"]), done.stderr
    assert "CapEff:\t00000000a80425fb" in done.stdout
    assert "Seccomp:\t2" in done.stdout
    for program, status in (("nope", 127), ("/bin", 126)):
        assert docker("run", "--rm", "--network=none", "box", program).returncode == status
    assert (
        docker(
            "run", "-d", "--name=box1", "--network=none", "-m=64m", "--pids-limit=50", "box", "sleep", "1000"
        ).returncode
        == 0
    )
    assert "sleep 1000" in docker("exec", "box1", "ps").stdout
    assert docker("exec", "-i", "box1", "cat", input="through\n").stdout == "through\n"
    assert docker("exec", "-u", "7:8", "box1", "id", "-u").stdout == "7\n"
    assert docker("exec", "box1", "sh", "-c", "exit 3").returncode == 3
    assert docker("exec", "box1", "nope").returncode in (126, 127)
    assert "sleep 1000" in docker("top", "box1").stdout
    assert docker("pause", "box1").returncode == 0
    assert "(Paused)" in docker("ps", "--format", "{{.Status}}").stdout
    assert docker("unpause", "box1").returncode == 0
    assert docker("update", "-m=100m", "--memory-swap=200m", "box1").returncode == 0
    assert "100MiB" in docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "box1").stdout
    hungry = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M")
    assert (
        docker("run", "--network=none", "--name=oom", "-m=16m", "--memory-swap=16m", "box", *hungry).returncode == 137
    )
    assert docker("inspect", "-f", "{{.State.OOMKilled}}", "oom").stdout == "true\n"
    assert docker("restart", "-t0", "box1").returncode == 0
    assert docker("kill", "box1").returncode == 0
    assert docker("inspect", "-f", "{{.State.ExitCode}}", "box1").stdout == "137\n"
    assert docker("rm", "box1", "oom").returncode == 0
    assert docker("run", "--rm", "--privileged", "--network=none", "box", "true").returncode == 0
