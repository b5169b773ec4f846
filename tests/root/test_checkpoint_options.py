"""What `checkpoint` and `restore` are asked of criu, each option with what needs it: refused without, whole again with it.

Runs where tests/root/test_checkpoint.py does.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.root.test_checkpoint import Saver, netns, program, rootfs, saver, wait_until

__all__ = ["netns", "program", "rootfs", "saver"]

pytestmark = [pytest.mark.requires("root", "busybox", "criu"), pytest.mark.timeout(900)]

EVERY = bool(os.environ.get("WHERRY_CRIU_EVERY"))
"""Each option left out in turn, each way with cgroups: minutes in an emulated machine."""
PYTHON = os.path.realpath(sys.executable)
HOLDER = """
import fcntl, os, socket, sys
lock = open('/tmp/lock', 'w')
fcntl.flock(lock, fcntl.LOCK_EX)
open('/tmp/first', 'w').write('of a file without this name')
os.link('/tmp/first', '/tmp/second')
linked = open('/tmp/first')
os.unlink('/tmp/first')
server = socket.create_server(('127.0.0.1', 7000))
client = socket.create_connection(('127.0.0.1', 7000))
peer, _ = server.accept()
full = socket.create_server(('127.0.0.1', 7001))
outside = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
outside.connect(sys.argv[1])
print('ready', flush=True)
for line in sys.stdin:
    client.send(line.encode())
    outside.send(line.encode())
    print(peer.recv(99).decode().strip(), os.pread(linked.fileno(), 99, 0).decode(), flush=True)
"""
"""Holds a lock, an open file that has lost the name it was opened by, both ends of a connection, a listener, a socket to the outside."""
MEMORY = "import sys; held = bytearray(b'x' * (8 << 20)); print(1, flush=True)\nfor line in sys.stdin:\n"
OUTSIDE = """
import socket, sys
mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
mine.bind(sys.argv[1])
sys.stdin.readline()
waiting = socket.create_connection(('127.0.0.1', 7001))
print('connected', flush=True)
while True: print(mine.recv(99).decode().strip(), flush=True)
"""
"""In the same network, but not of the container: has a socket, and a connection that the container has not accepted."""
NEEDED = {
    "--tcp-established": "tcp-established",
    "--tcp-skip-in-flight": "In-flight connection",
    "--ext-unix-sk": "ext-unix-sk",
    "--file-locks": "file-locks",
    "--link-remap": "link-remap",
}
"""What criu says without."""


def with_python(
    saver: Saver, code: str, *words: str, mounts: tuple[dict[str, object], ...] = (), **changes: object
) -> None:
    """The container's program is Python with `code`, the host's and as it is installed."""
    root = Path(saver.config["root"]["path"])
    for name in ("lib", "lib64"):
        if not os.path.lexists(root / name) and os.path.isdir(f"/usr/{name}"):
            (root / name).symlink_to(f"usr/{name}")
    usr = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]}
    saver.write(PYTHON, "-I", "-S", "-c", code, *words, mounts=[*saver.config["mounts"], usr, *mounts], **changes)


def line_of(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    assert select.select([client.stdout], [], [], 600)[0], "no answer"
    return client.stdout.readline()


def ask(client: subprocess.Popen[str], words: str) -> str:
    assert client.stdin is not None
    client.stdin.write(f"{words}\n")
    client.stdin.flush()
    return line_of(client)


def test_what_takes_a_word_of_the_users_is_refused_without_and_saved_with_it(
    saver: Saver, netns: str, tmp_path: Path
) -> None:
    place = tmp_path / "data"
    place.mkdir()
    path = str(place / "socket")
    enter = ["nsenter", f"--net={netns}", PYTHON, "-I", "-S", "-c", OUTSIDE, path]
    other = subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    saver.clients.append(other)
    wait_until(lambda: os.path.exists(path), "the socket")
    spaces = [
        {**space, "path": netns} if space["type"] == "network" else space
        for space in saver.config["linux"]["namespaces"]
    ]
    shared: dict[str, object] = {"destination": str(place), "type": "bind", "source": str(place), "options": ["bind"]}
    with_python(saver, HOLDER, path, mounts=(shared,), linux_namespaces=spaces)
    client = saver.launch("run")
    assert line_of(client) == "ready\n"
    assert ask(other, "") == "connected\n"
    for left_out, words in NEEDED.items() if EVERY else ():
        refused = saver.checkpoint(*(word for word in NEEDED if word != left_out))
        assert (refused.returncode, words in refused.stderr) == (1, True), (left_out, refused.stderr)
    refused = saver.checkpoint()
    assert refused.returncode == 1
    assert any(words in refused.stderr for words in NEEDED.values()), refused.stderr
    assert ask(client, "one") == "one of a file without this name\n"
    assert line_of(other) == "one\n"
    done = saver.checkpoint(*NEEDED, "--empty-ns", "network")
    assert done.returncode == 0, done.stderr
    assert client.wait(600) == 137
    again = ("--tcp-established", "--ext-unix-sk", "--file-locks", "--empty-ns", "network")
    client = saver.launch("restore", "--image-path", str(saver.images), *again)
    assert ask(client, "two") == "two of a file without this name\n", client.communicate()
    assert line_of(other) == "two\n"
    lock = "import fcntl; fcntl.flock(open('/tmp/lock'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert "BlockingIOError" in saver("exec", "box", PYTHON, "-c", lock).stderr


def test_earlier_images_lose_what_later_ones_have(saver: Saver) -> None:
    """--auto-dedup: of memory that has changed since the first image only the second keeps a copy."""
    code = MEMORY + "    held[:] = line[:1].encode() * len(held); print(held[-1], flush=True)"
    with_python(saver, code)
    client = saver.launch("run")
    assert line_of(client) == "1\n"
    before = saver.images.with_name("before")
    done = saver.checkpoint("--pre-dump", images=before)
    assert done.returncode == 0, done.stderr
    pages = next(before.glob("pages-*.img"))
    kept = pages.stat().st_blocks
    assert ask(client, "y") == f"{ord('y')}\n"
    saver.images.mkdir()
    done = saver.checkpoint("--parent-path", "../before", "--auto-dedup")
    assert done.returncode == 0, done.stderr
    assert pages.stat().st_blocks * 512 <= kept * 512 - (7 << 20)
    client = saver.launch("restore", "--auto-dedup", "--image-path", str(saver.images))
    assert ask(client, "z") == f"{ord('z')}\n", client.communicate()


@pytest.mark.parametrize("mode", ["soft", "full", "ignore"] if EVERY else ["ignore"])
def test_each_way_with_cgroups_ends_in_the_containers_own(saver: Saver, mode: str) -> None:
    saver.start("sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1", linux_resources={"pids": {"limit": 77}})
    done = saver.checkpoint("--manage-cgroups-mode", mode)
    assert done.returncode == 0, done.stderr
    refused = saver.restore("--manage-cgroups-mode", "strict", container="other")
    assert (refused.returncode, "--manage-cgroups-mode strict" in refused.stderr) == (1, True)
    done = saver.restore("--manage-cgroups-mode", mode, container="other")
    assert done.returncode == 0, done.stderr
    assert saver("exec", "other", "cat", "/proc/1/cgroup").stdout.endswith(":/\n")  # the root of its cgroup namespace
    pid = (saver.bundle / "pid").read_text()
    assert Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1].endswith("/other")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_memory_goes_to_a_page_server(saver: Saver) -> None:
    saver.start("sh", "-c", "exec sleep 1000 </dev/null >/dev/null 2>&1")
    there = saver.images.with_name("there")
    there.mkdir(mode=0o700)
    port = free_port()
    server = subprocess.Popen(
        ["criu", "page-server", "-D", str(there), "--address", "127.0.0.1", "--port", str(port), "-v0"]
    )
    wait_until(lambda: listens(port), "the page server")
    done = saver.checkpoint("--page-server", f"127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert server.wait(600) == 0
    assert not list(saver.images.glob("pages-*.img"))
    assert saver.restore().returncode != 0
    for path in there.glob("page*.img"):
        shutil.copy(path, saver.images)
    done = saver.restore()
    assert done.returncode == 0, done.stderr
    assert saver("exec", "box", "cat", "/proc/1/comm").stdout == "sleep\n"


def listens(port: int) -> bool:
    """Without connecting: a page server serves one."""
    return any(line.split()[1].endswith(f":{port:04X}") for line in Path("/proc/net/tcp").read_text().splitlines()[1:])


def test_memory_is_fetched_when_it_is_used(saver: Saver) -> None:
    """--lazy-pages, --page-server and --status-fd: the container moves, and its memory follows."""
    code = MEMORY + "    print(line.strip(), held.count(b'x'), flush=True)"
    with_python(saver, code)
    first = saver.launch("run")
    assert line_of(first) == "1\n"
    port = free_port()
    reading, writing = os.pipe()
    words = ("--lazy-pages", "--page-server", f"127.0.0.1:{port}", "--status-fd", str(writing))
    source = subprocess.Popen(
        saver.command("checkpoint", "--image-path", str(saver.images), *words, "box"),
        pass_fds=[writing], stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert os.read(reading, 1) == b"\0", source.communicate()
    os.close(reading)
    fetcher = subprocess.Popen(
        ["criu", "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", str(port), "-D", str(saver.images),
         "-W", str(saver.images), "-v0"]
    )  # fmt: skip
    try:
        second = saver.launch("restore", "--lazy-pages", "--image-path", str(saver.images), container="moved")
        assert ask(second, "here") == f"here {8 << 20}\n", second.communicate()
        assert fetcher.wait(600) == 0
        assert source.wait(600) == 0, source.communicate()
    finally:
        for child in (fetcher, source):
            child.send_signal(signal.SIGKILL)
            child.communicate()
    assert first.wait(600) == 137
    assert saver("list", "-q").stdout == "moved\n"
