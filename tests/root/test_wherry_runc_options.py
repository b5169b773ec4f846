"""wherry-runc's rarer options: sockets that descriptors go to, service managers, groups below the container's, and what
is printed for programs.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.root.test_wherry_runc import Runtime, program, reap, rootfs, runtime

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox")


def detached(runtime: Runtime, *words: str) -> int:
    """The status of a command whose process keeps its standard streams."""
    return subprocess.run(
        runtime.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode  # fmt: skip


class Receiver(threading.Thread):
    """Takes one message with one descriptor from a stream socket at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self.text, self.fd = b"", -1
        self.start()

    def run(self) -> None:
        connection, _ = self._server.accept()
        with connection:
            self.text, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
        self.fd = array.array("i", ancillary[0][2])[0]

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        self.join()
        self._server.close()
        yield self.fd
        os.close(self.fd)


def test_the_pidfd_socket_gets_a_pidfd_of_the_first_process(runtime: Runtime, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "pidfd.sock")
    runtime.write("sleep", "1000")
    assert (
        detached(runtime, "create", "-b", str(runtime.bundle), "--pidfd-socket", f"{tmp_path}/pidfd.sock", "box") == 0
    )
    with receiver.descriptor() as pidfd:
        assert receiver.text == b"standard"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 300)[0]
    assert runtime.status() == "stopped"


def test_the_pidfd_socket_gets_a_pidfd_of_an_exec(runtime: Runtime, tmp_path: Path) -> None:
    runtime.start("sleep", "1000")
    receiver = Receiver(tmp_path / "pidfd.sock")
    assert detached(runtime, "exec", "-d", "--pidfd-socket", f"{tmp_path}/pidfd.sock", "box", "sleep", "500") == 0
    with receiver.descriptor() as pidfd:
        assert receiver.text == b"setns"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 300)[0]
    reap()
    assert runtime.status() == "running"


@pytest.mark.parametrize("option", ["--pidfd-socket", "--console-socket"])
def test_a_socket_that_nobody_listens_at_is_named_and_nothing_is_left(
    runtime: Runtime, tmp_path: Path, option: str
) -> None:
    runtime.write("sleep", "1000", process_terminal=option == "--console-socket")
    done = runtime("run", "-d", "-b", str(runtime.bundle), option, str(tmp_path / "none"), "box")
    assert done.returncode == 1
    assert f"{option} {tmp_path}/none: no such file or directory" in done.stderr
    assert runtime("list", "-q").stdout == ""


def test_a_root_without_pivot_root(runtime: Runtime) -> None:
    done = runtime.run("ls", "/", words=("--no-pivot",))
    assert done.stdout == runtime.run("ls", "/").stdout, done.stderr


# --------------------------------------------------------------------------------------- service managers and descriptors


class Manager:
    """A service manager's socket, and the messages that came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(300)

    def next(self) -> str:
        """The next message. A barrier's descriptor is closed, which lets its sender go on."""
        data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(4))
        for fd in array.array("i", ancillary[0][2]) if ancillary else ():
            os.close(fd)
        return data.decode().strip()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "manager.sock")
    yield made
    made.close()


def say(pid: int, *messages: str) -> None:
    """Says `messages` at the socket that the container has been given."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for message in messages:
            sender.sendto(message.encode(), f"/proc/{pid}/root/run/notify/notify.sock")


def in_background(runtime: Runtime, manager: Manager, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NOTIFY_SOCKET": str(manager.path)}
    return subprocess.Popen(
        runtime.command(*words), env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip


def first_pid(runtime: Runtime, path: Path) -> int:
    """The pid that the container writes as soon as it runs, translated to ours by its state."""
    while not path.exists() or not path.read_text().endswith("\n"):
        select.select([], [], [], 0.02)
    return int(json.loads(runtime("state", "box").stdout)["pid"])


def announcing(runtime: Runtime, tmp_path: Path) -> Path:
    """Configures a container that says in a file of ours what it was told, and lives on."""
    (tmp_path / "out").mkdir()
    mounts = [
        *runtime.config["mounts"],
        {"destination": "/out", "type": "bind", "source": str(tmp_path / "out"), "options": ["bind"]},
    ]
    runtime.write("sh", "-c", "echo $NOTIFY_SOCKET $(ls /run/notify) >/out/told; exec sleep 1000", mounts=mounts)
    return tmp_path / "out/told"


def test_a_service_in_the_background_is_ready_when_its_container_is(
    runtime: Runtime, manager: Manager, tmp_path: Path
) -> None:
    told = announcing(runtime, tmp_path)
    running = in_background(runtime, manager, "run", "-d", "-b", str(runtime.bundle), "box")
    pid = first_pid(runtime, told)
    assert told.read_text() == "/run/notify/notify.sock notify.sock\n"
    assert running.poll() is None
    say(pid, "STATUS=not yet", "MAINPID=1\nREADY=1\nSTATUS=up")
    assert [manager.next() for _ in range(3)] == ["READY=1", f"MAINPID={pid}", "BARRIER=1"]
    assert running.wait(300) == 0


def test_a_created_service_is_ready_when_its_started_container_is(
    runtime: Runtime, manager: Manager, tmp_path: Path
) -> None:
    told = announcing(runtime, tmp_path)
    created = in_background(runtime, manager, "create", "-b", str(runtime.bundle), "box")
    assert created.wait(300) == 0
    started = in_background(runtime, manager, "start", "box")
    pid = first_pid(runtime, told)
    say(pid, "READY=1")
    assert [manager.next() for _ in range(3)] == ["READY=1", f"MAINPID={pid}", "BARRIER=1"]
    assert started.wait(300) == 0
    assert runtime("delete", "-f", "box").returncode == 0
    assert not (runtime.root / "box").exists()


def test_a_service_in_the_foreground_is_the_runtime_and_goes_on_talking(
    runtime: Runtime, manager: Manager, tmp_path: Path
) -> None:
    told = announcing(runtime, tmp_path)
    running = in_background(runtime, manager, "run", "-b", str(runtime.bundle), "box")
    pid = first_pid(runtime, told)
    say(pid, "READY=1")
    assert [manager.next() for _ in range(3)] == ["READY=1", f"MAINPID={running.pid}", "BARRIER=1"]
    say(pid, "FDSTORE=1", "MAINPID=1\nSTATUS=working", "WATCHDOG=1")
    assert [manager.next() for _ in range(2)] == ["STATUS=working", "WATCHDOG=1"]
    os.kill(pid, signal.SIGKILL)
    assert running.wait(300) == 128 + 9


def test_a_service_that_ends_without_a_word_does_not_keep_anybody_waiting(runtime: Runtime, manager: Manager) -> None:
    runtime.write("true")
    assert in_background(runtime, manager, "run", "-d", "-b", str(runtime.bundle), "box").wait(300) == 0


def test_only_descriptors_that_are_meant_for_the_runtime_are_passed_on(runtime: Runtime, tmp_path: Path) -> None:
    """LISTEN_PID says whom socket activation is for (sd_listen_fds(3))."""
    (tmp_path / "file").write_text("activated\n")
    runtime.write("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3 2>/dev/null; true")
    command = " ".join(runtime.command("run", "-b", str(runtime.bundle), "box"))
    for listen_pid, seen in (("$$", ["1 1", "activated"]), ("1", [""])):
        script = f"exec 3<{tmp_path}/file; export LISTEN_FDS=1 LISTEN_PID={listen_pid}; exec {command}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        assert done.stdout.splitlines() == seen, done.stderr


# ------------------------------------------------------------------------------------------ groups below the container's


@pytest.mark.requires("cgroup1")
def test_an_exec_joins_a_group_below_the_containers(runtime: Runtime, tmp_path: Path) -> None:
    pid = runtime.start("sleep", "1000")
    groups = {
        line.split(":")[1]: line.strip().split(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    }
    paths = json.loads((runtime.root / "box/state.json").read_text())["cgroup_paths"]
    for controller in ("pids", "memory"):
        os.mkdir(f"{paths[controller]}/sub")
    shown = runtime("exec", "--cgroup", "pids,memory:sub", "box", "cat", "/proc/self/cgroup").stdout
    ends = {line.split(":")[1]: line.strip().endswith("/sub") for line in shown.splitlines()}
    assert ends["pids"] and ends["memory"]
    assert not ends["freezer"]
    assert groups["pids"]
    for words, text in (
        (["pids:../.."], "bad sub cgroup path: ../.."),
        (["magic:sub"], "unknown controller magic"),
        (["pids:sub", "--cgroup", "sub"], "missing <controller>: prefix"),
        ([":sub"], "empty <controller> prefix"),
        (["pids:sub", "--cgroup", "pids:sub"], "specified multiple times"),
        (["pids:none"], "no such file or directory"),
    ):
        done = runtime("exec", "--cgroup", *words, "box", "true")
        assert done.returncode == 255
        assert text in done.stderr


def test_a_capability_of_an_exec_is_ambient_where_some_are_inheritable(runtime: Runtime) -> None:
    sets = {name: ["CAP_KILL", "CAP_NET_RAW"] for name in ("bounding", "inheritable")}
    runtime.start("sleep", "1000", process_capabilities={**sets, "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]})
    shown = runtime("exec", "--cap", "CAP_NET_RAW", "--user", "1000", "box", "cat", "/proc/self/status")
    assert f"CapAmb:\t{1 << 13:016x}\n" in shown.stdout, shown.stderr


# ------------------------------------------------------------------------------------------------------ what is printed


def test_features_are_those_of_the_specification(runtime: Runtime) -> None:
    shown: dict[str, Any] = json.loads(runtime("features").stdout)
    assert (shown["ociVersionMin"], shown["ociVersionMax"]) == ("1.0.0", "1.3.0")
    assert {"idmap", "ridmap", "rro", "tmpcopyup"} <= set(shown["mountOptions"])
    linux = shown["linux"]
    assert linux["mountExtensions"] == {"idmap": {"enabled": True}}
    assert linux["netDevices"] == {"enabled": True}
    assert "MPOL_WEIGHTED_INTERLEAVE" in linux["memoryPolicy"]["modes"]
    assert "SCMP_ACT_NOTIFY" in linux["seccomp"]["actions"]
    assert "spec: 1.3.0" in runtime("--version").stdout


def test_a_rootless_configuration(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "less").mkdir()
    assert runtime("spec", "--rootless", "-b", str(tmp_path / "less")).returncode == 0
    config = json.loads((tmp_path / "less/config.json").read_text())
    kinds = [entry["type"] for entry in config["linux"]["namespaces"]]
    assert "user" in kinds and "network" not in kinds
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    assert "resources" not in config["linux"]
    assert [m["options"] for m in config["mounts"] if m["destination"] == "/sys"] == [
        ["rbind", "nosuid", "noexec", "nodev", "ro"]
    ]
    assert not any(word.startswith("gid=") for m in config["mounts"] for word in m.get("options", []))


def test_signal_0_asks_whether_it_runs(runtime: Runtime) -> None:
    runtime.start("sleep", "1000")
    assert runtime("kill", "box", "0").returncode == 0
    assert runtime.status() == "running"


def test_a_root_that_is_not_there_or_is_the_file_systems_is_said(runtime: Runtime) -> None:
    done = subprocess.run(
        [str(runtime.program), "--root", "/no/such", "list"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no such file or directory" in done.stderr) == (1, True)
    done = subprocess.run([str(runtime.program), "--root", "/", "list"], capture_output=True, text=True, check=False)
    assert "should not be set to /" in done.stderr


def test_debugging_says_what_was_made(runtime: Runtime) -> None:
    runtime.write("true")
    done = runtime("--debug", "run", "-b", str(runtime.bundle), "box")
    assert "level=debug" in done.stderr


def test_hooks_in_the_container_see_its_state_from_inside(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "created").touch()
    script = f"cat >{tmp_path}/created"
    mounts = [
        *runtime.config["mounts"],
        {"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["bind"]},
    ]
    hooks = {
        "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/out/started"]}],
    }
    runtime.start("sleep", "100", hooks=hooks, mounts=mounts)
    for name, status in (("created", "creating"), ("started", "created")):
        state = json.loads((tmp_path / name).read_text())
        assert (state["status"], state["pid"], state["id"]) == (status, 1, "box")
