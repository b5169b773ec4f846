"""wherry-runc checkpoint and restore by the real CRIU. Runs where CRIU can: `criu check` says so (Debian 12's does not know the vDSO
of Linux 6.13 and later), else in the virtual machine of tests/vm (`make test-vm`; a part of `make test`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.root.test_wherry_runc import Runtime, reap, rootfs

__all__ = ["rootfs"]

pytestmark = [pytest.mark.requires("root", "busybox", "criu"), pytest.mark.timeout(900)]

TREE = """
exec 7>>/log
(i=0; while :; do i=$((i+1)); echo $i; sleep 0.3; done) | while read n; do echo count $n >&7; done &
nc -l -l -p 7000 -e echo hello &
while read line; do echo "heard $line"; [ "$line" = end ] && exit 7; done
"""
"""A process tree with an open file, a pipe between two of it, a TCP listener, and pipes to the outside as 0 and 1."""


def wait_until(ready: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 600
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Saver(Runtime):
    """A runtime, and one container with pipes for 0 and 1."""

    def __init__(self, program: Path, place: Path, rootfs: Path) -> None:
        super().__init__(program, place, rootfs)
        self.images = place / "images"
        self.log = place / "criu-root-log"
        self.config["root"]["readonly"] = False
        del self.config["linux"]["cgroupsPath"]
        self.clients: list[subprocess.Popen[str]] = []

    def launch(self, *words: str, container: str = "box") -> subprocess.Popen[str]:
        """`words` (run or restore with their options) in the foreground, with pipes."""
        command = self.command(*words, "-b", str(self.bundle), container)
        client = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.clients.append(client)
        return client

    def checkpoint(self, *words: str, images: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self("checkpoint", "--image-path", str(images or self.images), *words, "box")

    def restore(self, *words: str, container: str = "box") -> subprocess.CompletedProcess[str]:
        """Detached, without pipes."""
        places = ("-b", str(self.bundle), "--image-path", str(self.images), "--pid-file", str(self.bundle / "pid"))
        command = self.command("restore", "-d", *places, *words, container)
        with open(self.bundle / "error", "w+") as error:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=error, check=False, timeout=600)  # fmt: skip
        return subprocess.CompletedProcess(command, done.returncode, "", (self.bundle / "error").read_text())

    def is_running(self, container: str = "box") -> bool:
        found = self("state", container)
        return found.returncode == 0 and json.loads(found.stdout)["status"] == "running"


@pytest.fixture(scope="module")
def program() -> Path:
    """As it is installed: compiled."""
    return Path(sys.executable).with_name("wherry-runc")


@pytest.fixture
def saver(program: Path, rootfs: Path, tmp_path: Path) -> Iterator[Saver]:
    (rootfs / "log").unlink(missing_ok=True)
    made = Saver(program, tmp_path, rootfs)
    yield made
    for name in made("list", "-q").stdout.split():
        done = made("delete", "-f", name)
        assert done.returncode == 0, done.stderr
    for client in made.clients:
        client.kill()
        client.communicate()
    reap()
    (rootfs / "log").unlink(missing_ok=True)


def test_a_process_tree_runs_on_under_another_id(saver: Saver, rootfs: Path) -> None:
    log = rootfs / "log"
    saver.write("sh", "-c", TREE)
    first = saver.launch("run")
    wait_until(lambda: log.exists() and "count 3\n" in log.read_text(), "the tree runs")
    done = saver.checkpoint()
    assert done.returncode == 0, done.stderr
    assert first.wait(600) == 137
    assert saver("list", "-q").stdout == ""
    size = log.stat().st_size

    second = saver.launch("restore", "--image-path", str(saver.images), container="other")
    wait_until(lambda: log.stat().st_size > size + 40, "the count goes on")
    assert saver.is_running("other")
    assert saver("exec", "other", "nc", "127.0.0.1", "7000").stdout == "hello\n"
    assert saver("exec", "other", "sh", "-c", "cat /proc/keys /proc/kcore; ls /sys/firmware").stdout == ""
    assert second.stdin is not None
    second.stdin.write("end\n")
    second.stdin.flush()
    out, error = second.communicate(timeout=600)
    assert (second.returncode, out) == (7, "heard end\n"), error
    counts = [int(line.split()[1]) for line in log.read_text().splitlines()]
    assert counts == list(range(1, len(counts) + 1))
    assert saver("list", "-q").stdout == ""


def test_memory_first_then_the_rest_while_it_goes_on_running(saver: Saver) -> None:
    saver.write("sh", "-c", "exec sleep 1000")
    saver.start("sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1")
    before, after = saver.images.with_name("before"), saver.images
    done = saver.checkpoint("--pre-dump", images=before)
    assert done.returncode == 0, done.stderr
    after.mkdir()
    done = saver.checkpoint(
        "--parent-path", "../before", "--leave-running", "--work-path", str(after.with_name("work"))
    )
    assert done.returncode == 0, done.stderr
    assert os.readlink(after / "parent") == "../before"
    assert (after.with_name("work") / "dump.log").exists()
    assert saver.is_running()
    assert saver.restore().returncode == 1  # the id is taken
    done = saver.restore(container="copy")
    assert done.returncode == 0, done.stderr
    assert saver("exec", "copy", "cat", "/proc/1/comm").stdout == "sleep\n"
    saver("delete", "-f", "copy")
    for wrong in (
        ["--parent-path", "/before"],
        ["--parent-path", "../nothing"],
        ["--manage-cgroups-mode", "x"],
        ["--empty-ns", "pid"],
    ):
        refused = saver.checkpoint(*wrong)
        assert refused.returncode == 1, wrong
        assert "Traceback" not in refused.stderr
    assert saver.is_running()


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"wherry-criu-{os.getpid():x}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "delete", name], check=True)


def test_what_is_not_the_containers_own_is_given_again(saver: Saver, netns: str, tmp_path: Path) -> None:
    """Bind mounts, a network namespace by path, hooks."""
    (tmp_path / "volume/part").mkdir(parents=True)
    shown = {"/one": "volume", "/same": "volume", "/part": "volume/part"}  # criu gives the first of them its flags only
    spaces = [
        {**space, "path": netns} if space["type"] == "network" else space
        for space in saver.config["linux"]["namespaces"]
    ]
    mounts = [
        *saver.config["mounts"],
        {"destination": "/data", "type": "bind", "source": str(tmp_path / "volume"), "options": ["bind", "nosuid"]},
        *(
            {"destination": point, "type": "bind", "source": str(tmp_path / place), "options": ["rbind", "ro"]}
            for point, place in shown.items()
        ),
    ]
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >>{tmp_path}/hooks; echo >>{tmp_path}/hooks"]}
    pid = saver.start(
        "sh", "-c", "exec </dev/null >/dev/null 2>&1; nc -l -l -p 7001 -e echo again & exec sleep 1000",
        linux_namespaces=spaces, mounts=mounts, hooks={"createRuntime": [hook], "poststop": [hook]},
    )  # fmt: skip
    space = os.readlink(f"/proc/{pid}/ns/net")
    listening = (Path(f"/proc/{pid}/net/tcp"), Path(f"/proc/{pid}/net/tcp6"))
    wait_until(lambda: any(f":{7001:04X} " in path.read_text() for path in listening), "the listener")
    done = saver.checkpoint()
    assert done.returncode == 0, done.stderr
    (tmp_path / "volume/new").write_text("of the host")
    done = saver.restore()
    assert done.returncode == 0, done.stderr
    pid = int((saver.bundle / "pid").read_text())
    assert os.readlink(f"/proc/{pid}/ns/net") == space
    assert saver("exec", "box", "cat", "/data/new").stdout == "of the host"
    written = saver("exec", "box", "sh", "-c", "for i in one same part data; do touch /$i/x 2>&1; done").stdout
    assert [line.rpartition(": ")[2] for line in written.splitlines()] == ["Read-only file system"] * 3
    asked = subprocess.run(
        ["nsenter", f"--net={netns}", "busybox", "nc", "127.0.0.1", "7001"], stdout=subprocess.PIPE, check=False
    )
    assert asked.stdout == b"again\n"
    saver("delete", "-f", "box")
    told = [json.loads(line) for line in (tmp_path / "hooks").read_text().splitlines()]
    assert [(state["status"], state.get("pid")) for state in told][2:] == [("creating", pid), ("stopped", None)]


def rewrite(saver: Saver, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((saver.bundle / "config.json").read_text())
    change(config)
    (saver.bundle / "config.json").write_text(json.dumps(config))


def assert_refused(saver: Saver, words: str) -> None:
    refused = saver.restore()
    assert refused.returncode == 1
    assert words in refused.stderr, refused.stderr
    assert saver("list", "-q").stdout == ""
    assert not os.path.exists(saver.root / "box")


def test_an_image_that_is_more_than_its_bundle_gives_does_not_run(saver: Saver, rootfs: Path) -> None:
    """Cases 86 to 89: a checkpoint is hostile input."""
    saver.start("sh", "-c", "exec </dev/null >/dev/null 2>&1; while :; do echo x >>/log; sleep 0.1; done")
    wait_until((rootfs / "log").exists, "it writes")
    done = saver.checkpoint()
    assert done.returncode == 0, done.stderr
    written = (rootfs / "log").read_bytes()
    good = (saver.bundle / "config.json").read_text()

    rewrite(saver, lambda config: config["process"]["capabilities"].update(bounding=[], permitted=[], effective=[]))
    assert_refused(saver, "has capabilities beyond process.capabilities")
    (saver.bundle / "config.json").write_text(good)
    rewrite(saver, lambda config: config["mounts"].pop())
    assert_refused(saver, "/sys/fs/cgroup")
    (saver.bundle / "config.json").write_text(good)
    rewrite(saver, lambda config: config["linux"]["maskedPaths"].append("/proc/version"))
    assert_refused(saver, "/proc/version is not masked")
    (saver.bundle / "config.json").write_text(good)
    rewrite(saver, lambda config: config.update(annotations={"org.criu.config": "/tmp/evil.conf"}))
    assert_refused(saver, "org.criu.config")
    (saver.bundle / "config.json").write_text(good)

    target = saver.images.with_name("host-file")
    target.write_text("of the host")
    for name in ("restore.log", "parent"):
        (saver.images / name).unlink(missing_ok=True)
        (saver.images / name).symlink_to(target)
        assert_refused(saver, "plain file" if name != "parent" else "absolute link")
        (saver.images / name).unlink()
    (saver.images / "descriptors.json").write_text('{"a": [')
    assert_refused(saver, "descriptors.json of the checkpoint is damaged")
    (saver.images / "descriptors.json").write_text("[]")
    saver.images.chmod(0o777)
    assert_refused(saver, "other users can change it")
    saver.images.chmod(0o700)
    assert target.read_text() == "of the host"
    assert (rootfs / "log").read_bytes() == written  # it never ran

    done = saver.restore()
    assert done.returncode == 0, done.stderr
    wait_until(lambda: (rootfs / "log").stat().st_size > len(written), "as it was, it is restored")


def test_devices_of_a_network_of_its_own_move_again_where_they_are(saver: Saver) -> None:
    """With the namespace a veth device ends. Under runc the container is restored without; here it gets the one that was made anew."""
    ends = f"wcr{os.getpid():x}", f"wcs{os.getpid():x}"

    def make() -> None:
        for words in (
            ("add", ends[0], "type", "veth", "peer", "name", ends[1]),
            ("set", ends[0], "address", "02:00:00:00:00:07"),
        ):
            subprocess.run(["ip", "link", *words], check=True)

    make()
    saver.config["root"]["readonly"] = True
    saver.start("sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1", linux_netDevices={ends[0]: {"name": "eth0"}})
    done = saver.checkpoint()
    assert done.returncode == 0, done.stderr
    done = saver.restore()
    assert done.returncode == 0, done.stderr
    assert f"there is no device {ends[0]}: the container is restored without" in done.stderr
    shown = saver("exec", "box", "busybox", "ip", "-o", "link").stdout.splitlines()
    assert [line.split(":")[1] for line in shown] == [" lo"]
    assert "UP" in shown[0]
    saver("delete", "-f", "box")
    make()
    done = saver.restore()
    assert (done.returncode, done.stderr) == (0, "")
    shown = saver("exec", "box", "busybox", "ip", "-o", "link").stdout.splitlines()
    assert " eth0@" in shown[1]
    assert "02:00:00:00:00:07" in shown[1]
    assert "Read-only file system" in saver("exec", "box", "touch", "/new").stderr
    saver("delete", "-f", "box")


def test_a_terminal_is_handed_over_again(saver: Saver) -> None:
    import array
    import socket

    saver.write("sh", "-c", "while read line; do echo heard $line; done", process_terminal=True)
    place = str(saver.bundle / "console")

    def take(*words: str) -> int:
        server = socket.socket(socket.AF_UNIX)
        server.bind(place)
        server.listen(1)
        server.settimeout(600)
        done = saver(*words, "-b", str(saver.bundle), "-d", "--console-socket", place, "box")
        assert done.returncode == 0, done.stderr
        peer, _ = server.accept()
        _, ancillary, _, _ = peer.recvmsg(4096, socket.CMSG_LEN(4))
        os.unlink(place)
        server.close()
        peer.close()
        return array.array("i", ancillary[0][2])[0]

    def says(master: int, line: str) -> None:
        os.write(master, line.encode() + b"\n")
        got = b""
        while f"heard {line}".encode() not in got:
            got += os.read(master, 4096)

    master = take("run")
    says(master, "one")
    done = saver.checkpoint()
    assert done.returncode == 0, done.stderr
    os.close(master)
    master = take("restore", "--image-path", str(saver.images))
    says(master, "two")
    done = saver.checkpoint("--shell-job")  # as containerd asks for a container with a terminal
    assert done.returncode == 0, done.stderr
    os.close(master)
    master = take("restore", "--shell-job", "--image-path", str(saver.images))
    says(master, "three")
    os.close(master)


def test_a_container_in_a_user_namespace(saver: Saver, rootfs: Path) -> None:
    ids = [{"containerID": 0, "hostID": 0, "size": 65536}]
    spaces = [*saver.config["linux"]["namespaces"], {"type": "user"}]
    saver.config["linux"].update(namespaces=spaces, uidMappings=ids, gidMappings=ids)
    saver.start("sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1")
    done = saver.checkpoint()
    assert done.returncode == 0, done.stderr
    good = (saver.bundle / "config.json").read_text()
    rewrite(saver, lambda config: config["linux"].update(uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}]))
    assert_refused(saver, "uid_map")
    (saver.bundle / "config.json").write_text(good)
    done = saver.restore()
    assert done.returncode == 0, done.stderr
    assert saver("exec", "box", "cat", "/proc/1/comm").stdout == "sleep\n"


def test_what_cannot_be_saved_says_so(saver: Saver) -> None:
    assert "does not exist" in saver.checkpoint().stderr
    saver.write("sleep", "1000")
    subprocess.run(
        saver.command("create", "-b", str(saver.bundle), "box"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert "cannot be checkpointed in created state" in saver.checkpoint().stderr
    saver("start", "box")
    refused = subprocess.run(saver.command("--criu", "/nowhere/criu", "checkpoint", "box"), capture_output=True, text=True, check=False)  # fmt: skip
    assert refused.returncode == 1
    assert "/nowhere/criu not found" in refused.stderr
    # its standard streams are a file of the host's: criu's own words, and it runs on
    saver("delete", "-f", "box")
    saver.start("sleep", "1000")
    refused = saver.checkpoint()
    assert refused.returncode == 1
    assert "criu failed: type" in refused.stderr and "log file: " in refused.stderr
    assert saver.is_running()
