"""wherryd as a process: what the machine sees of its coming and going."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import leaks
from tests.images import busybox_spec, docker_archive

from wherry.daemon.roots import instance_of

pytestmark = pytest.mark.requires("root", "overlay", "nftables", "libseccomp")

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 300


class Daemon:
    """One wherryd on its own roots. `start` returns when it has told its service manager (us) that it is ready."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "w.sock"
        self.process: subprocess.Popen[str] | None = None
        leaks.watch_instance(instance_of(str(root / "data")))

    def arguments(self, *more: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from wherry.daemon.main import main; raise SystemExit(main())",
            f"--data-root={self.root / 'data'}",
            f"--exec-root={self.root / 'exec'}",
            f"--pidfile={self.root / 'w.pid'}",
            *(more or (f"--host=unix://{self.socket}",)),
        ]

    def spawn(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.arguments(*more),
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), **environment},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def start(self, *more: str, **environment: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            address = self.root / "notify"
            address.unlink(missing_ok=True)
            manager.bind(str(address))
            self.expect_ready(manager, self.spawn(*more, NOTIFY_SOCKET=str(address), **environment))

    def expect_ready(self, manager: socket.socket, process: subprocess.Popen[str]) -> None:
        """Until the process says that it is ready; a failure with its log when it ends first."""
        self.process = process
        pidfd = os.pidfd_open(process.pid)
        try:
            select.select([manager, pidfd], [], [], WAIT_SECONDS)
        finally:
            os.close(pidfd)
        manager.setblocking(False)
        try:
            assert manager.recv(100) == b"READY=1"
        except BlockingIOError:
            pytest.fail(f"wherryd did not come up:\n{self.end()[1]}", pytrace=False)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """→ exit status and log."""
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        _, log = process.communicate(timeout=WAIT_SECONDS)
        return process.returncode, log

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.socket))
        connection.request("GET", path)
        answer = connection.getresponse()
        with connection.sock:
            return answer.status, answer.read()

    def docker(self, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", *arguments],
            input=data,
            capture_output=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def done(self, *arguments: str, data: bytes | None = None) -> str:
        """The output of a docker command that must succeed."""
        answer = self.docker(*arguments, data=data)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.decode().strip()

    def run_until_up(self, script: str, *flags: str) -> None:
        """Runs a shell with `script` in the background, and returns when that has said "up": by then it has set its traps."""
        name = self.done("run", "-d", "--network=none", *flags, "busybox", "sh", "-c", script)
        words = ["docker", "-H", f"unix://{self.socket}", "logs", "--follow", name]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            assert following.stdout.readline() == "up\n"
            following.kill()

    def load_busybox(self) -> None:
        self.done("load", data=docker_archive(busybox_spec(), ["busybox:latest"]))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    if made.process is not None:
        print(made.end()[1])


@pytest.mark.requires("docker")
def test_the_docker_cli_talks_to_it_and_a_signal_ends_it_without_a_trace(daemon: Daemon) -> None:
    daemon.start()
    assert json.loads(daemon.done("version", "--format", "{{json .Server}}"))["ApiVersion"] == "1.56"
    assert daemon.done("ps", "--all", "--quiet") == ""
    status, log = daemon.end()
    assert (status, "level=error" in log) == (0, False), log
    assert not daemon.socket.exists()
    assert not (daemon.root / "w.pid").exists()


def test_roots_and_socket_are_private(daemon: Daemon) -> None:
    daemon.start()
    for name in ("data", "exec"):
        assert stat.S_IMODE((daemon.root / name).stat().st_mode) == 0o700
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660
    assert daemon.socket.stat().st_uid == 0


def test_a_second_engine_on_the_same_root_is_refused(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    second = subprocess.run(
        daemon.arguments("--host=unix:///nonesuch.sock"),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"{daemon.root / 'data'} is in use by another engine (process {daemon.process.pid})" in second.stderr
    assert daemon.get("/_ping") == (200, b"OK")


def test_after_a_crash_the_next_engine_takes_over(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.get("/_ping") == (200, b"OK")
    assert daemon.end()[0] == 0


def test_two_engines_run_beside_each_other(tmp_path: Path) -> None:
    daemons = [Daemon(tmp_path / name) for name in ("one", "two")]
    try:
        for daemon in daemons:
            daemon.root.mkdir()
            daemon.start()
        for daemon in daemons:
            assert daemon.get("/_ping") == (200, b"OK")
    finally:
        ends = [daemon.end() for daemon in daemons if daemon.process is not None]
    assert [status for status, _ in ends] == [0, 0]


def test_a_configuration_error_is_told_before_anything_is_made(daemon: Daemon) -> None:
    process = daemon.spawn("--host=tcp://127.0.0.1:0")
    daemon.process = None
    _, log = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 1
    assert "--tls=false" in log
    assert not (daemon.root / "data").exists()


def test_a_machine_without_cgroups_is_told_so_in_one_line(daemon: Daemon) -> None:
    script = 'while umount -l /sys 2>/dev/null; do :; done; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *daemon.arguments()],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "failed to start: no cgroup file system is mounted" in done.stderr
    assert not daemon.socket.exists()


def test_a_socket_from_the_service_manager_is_served(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(daemon.socket))
        listening.listen()
        held = [os.dup(listening.fileno()) for _ in range(8)]  # so that 3 is taken, whatever the runner has open
        program = (
            f"import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.dup2({held[-1]}, 3);"
            "from wherry.daemon.main import main; sys.exit(main())"
        )
        arguments = daemon.arguments("--host=fd://")
        arguments[2] = program
        address = daemon.root / "notify"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(str(address))
                process = subprocess.Popen(
                    arguments,
                    env={
                        **os.environ,
                        "PYTHONPATH": str(REPOSITORY / "src"),
                        "LISTEN_FDS": "1",
                        "NOTIFY_SOCKET": str(address),
                    },
                    pass_fds=held,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                daemon.expect_ready(manager, process)
        finally:
            for fd in held:
                os.close(fd)
        assert daemon.get("/_ping") == (200, b"OK")
        assert daemon.end()[0] == 0
        assert daemon.socket.exists()  # the service manager's, not ours to remove


STUBBORN = "trap '' TERM; echo up; while true; do sleep 1; done"


@pytest.mark.requires("docker", "busybox")
def test_a_clean_end_stops_the_containers_each_in_its_time(daemon: Daemon) -> None:
    daemon.start()
    daemon.load_busybox()
    daemon.run_until_up("trap 'exit 5' TERM; echo up; sleep 1000 & wait", "--name=polite", "--stop-timeout=1000")
    daemon.run_until_up(STUBBORN, "--name=stubborn", "--stop-timeout=1")
    assert daemon.end()[0] == 0
    daemon.start()
    states = daemon.done("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "polite", "stubborn")
    assert states.split("\n") == ["exited 5", "exited 137"]
    daemon.done("rm", "polite", "stubborn")


@pytest.mark.requires("docker", "busybox")
def test_with_live_restore_containers_run_on_and_are_taken_over(daemon: Daemon) -> None:
    host = f"--host=unix://{daemon.socket}"
    daemon.start(host, "--live-restore")
    daemon.load_busybox()
    daemon.done("run", "-d", "--network=none", "--name=box", "busybox", "sleep", "1000")
    pid = daemon.done("inspect", "--format={{.State.Pid}}", "box")
    assert daemon.end()[0] == 0
    assert os.path.exists(f"/proc/{pid}")
    daemon.start(host, "--live-restore")
    assert daemon.done("inspect", "--format={{.State.Status}} {{.State.Pid}}", "box") == f"running {pid}"
    assert daemon.done("exec", "box", "echo", "inside") == "inside"
    daemon.done("rm", "-f", "box")


@pytest.mark.requires("docker", "busybox")
def test_a_second_signal_ends_the_engine_at_once(daemon: Daemon) -> None:
    daemon.start()
    daemon.load_busybox()
    daemon.run_until_up(STUBBORN, "--name=box", "--stop-timeout=1000")
    pid = daemon.done("inspect", "--format={{.State.Pid}}", "box")
    assert daemon.process is not None
    assert daemon.process.stderr is not None
    daemon.process.send_signal(signal.SIGTERM)
    while "SIGTERM: stopping" not in (line := daemon.process.stderr.readline()):
        assert line, "it has ended"
    assert daemon.end()[0] == 128 + signal.SIGTERM
    assert os.path.exists(f"/proc/{pid}")
    daemon.start()
    assert daemon.done("inspect", "--format={{.State.Status}}", "box") == "running"
    daemon.done("rm", "-f", "box")


@pytest.mark.requires("docker", "busybox")
def test_a_client_that_waits_hears_of_the_containers_end_before_the_engine_goes(daemon: Daemon) -> None:
    daemon.start()
    daemon.load_busybox()
    daemon.run_until_up("trap 'exit 9' TERM; echo up; sleep 1000 & wait", "--name=box", "--stop-timeout=1000")
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(daemon.socket))
    with connection.sock:
        connection.request("POST", "/containers/box/wait")
        answer = connection.getresponse()
        assert daemon.end()[0] == 0
        assert json.loads(answer.read())["StatusCode"] == 9
    daemon.start()
    daemon.done("rm", "box")
