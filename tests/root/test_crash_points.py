"""The counting of changes (`tests.crash`): each call that changes a file system is one, what changes nothing is none, what cannot be seen is told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from tests.crash.points import End, Points

pytestmark = pytest.mark.requires("root", "libseccomp")

REPOSITORY = Path(__file__).parent.parent.parent

CHANGING = {
    "open('new', 'x')": ["openat"],
    "open('file', 'wb', 0).write(b'x')": ["openat", "write"],
    "os.pwritev(fd, [b'x', b'y'], 1)": ["pwritev2"],
    "os.pwrite(fd, b'x', 2)": ["pwrite64"],
    "os.truncate('file', 3)": ["truncate"],
    "os.ftruncate(fd, 3)": ["ftruncate"],
    "os.posix_fallocate(fd, 0, 9)": ["fallocate"],
    "os.copy_file_range(fd, other, 2)": ["copy_file_range"],
    "os.sendfile(other, fd, 0, 2)": ["sendfile"],
    "os.splice(full_pipe, other, 2)": ["splice"],
    "os.mkdir('directory')": ["mkdir"],
    "os.mkdir('nested', dir_fd=root)": ["mkdirat"],
    "os.mknod('node'); os.mkfifo('fifo')": ["mknodat", "mknodat"],
    "os.link('file', 'second')": ["link"],
    "os.symlink('file', 'link')": ["symlink"],
    "os.rename('file', 'file2'); os.replace('file2', 'file')": ["rename", "rename"],
    "libc.syscall(316, -100, b'file', -100, b'other', 2)": ["renameat2"],
    "libc.syscall(437, root, b'new', struct.pack('QQQ', os.O_CREAT | os.O_RDWR, 0o600, 0), 24)": ["openat2"],
    "os.unlink('file'); os.rmdir('empty')": ["unlink", "rmdir"],
    "os.chmod('file', 0o600); os.chown(fd, 0, 0); os.utime('file')": ["chmod", "fchown", "utimensat"],
    "os.setxattr('file', 'user.a', b'1'); os.removexattr(fd, 'user.a')": ["setxattr", "fremovexattr"],
    "os.fsync(fd); os.fdatasync(fd); libc.syncfs(fd)": ["fsync", "fdatasync", "syncfs"],
    "fcntl.ioctl(other, 0x40049409, fd)": ["ioctl"],  # FICLONE, whether or not the file system can
    "socket.socket(socket.AF_UNIX).bind('socket')": ["bind"],
    "subprocess.run(['/bin/touch', 'touched'])": ["openat", "utimensat"],
    "threading.Thread(target=os.mkdir, args=['by-thread']).start()": ["mkdir"],
}
HARMLESS = """
open('file').read(); os.stat('file'); os.listdir('.'); os.getxattr('file', 'user.none') if 0 else None
os.write(writing, b'x'); os.read(full_pipe, 1); os.write(os.memfd_create('m'), b'x'); os.write(outside, b'x'); os.fsync(outside)
open('/dev/null', 'wb').write(b'x'); socket.socketpair(); mmap.mmap(fd, 1, mmap.MAP_PRIVATE); mmap.mmap(-1, 9)
fcntl.ioctl(writing, 0x5421, b'0000'); libc.syscall(437, root, b'file', struct.pack('QQQ', 0, 0, 0), 24); subprocess.run(['/bin/true'])
"""
BEGIN = """
import ctypes, fcntl, mmap, os, signal, socket, sqlite3, struct, subprocess, sys, threading
from tests.crash.engine import go_below_the_filter
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
fd, other = os.open('file', os.O_RDWR), os.open('other', os.O_RDWR)
root = os.open('.', os.O_DIRECTORY)
full_pipe, writing = os.pipe()
os.write(writing, b'full')
outside = os.open(sys.argv[2], os.O_RDWR)
go_below_the_filter()
os.kill(os.getpid(), signal.SIGSTOP)
"""


def count(tmp_path: Path, script: str, target: int = 0, end: End = End.KILL) -> tuple[int, Points]:
    """→ how the script ended, and what was counted of it."""
    root = tmp_path / "root"
    (root / "empty").mkdir(parents=True)
    for path in (root / "file", root / "other", tmp_path / "outside"):
        path.write_bytes(b"content")
    points = Points(str(root))
    words = [sys.executable, "-c", BEGIN + script, str(root), str(tmp_path / "outside")]
    process = points.launch(words, env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/src"})
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    points.arm(target, end)
    process.send_signal(signal.SIGCONT)
    return process.wait(timeout=300), points


@pytest.mark.requires("x86_64")
def test_every_change_is_a_point(tmp_path: Path) -> None:
    found = {}
    for number, script in enumerate(CHANGING):
        status, points = count(
            tmp_path / str(number), "import contextlib\nwith contextlib.suppress(OSError): " + script
        )
        found[script] = points.names
        assert (status, points.unknown) == (0, set()), script
    assert found == CHANGING


def test_what_changes_nothing_is_none(tmp_path: Path) -> None:
    status, points = count(tmp_path, HARMLESS)
    assert (status, points.disarm(), points.names, points.unknown) == (0, 0, [], set())


def test_what_the_filter_cannot_see_is_told(tmp_path: Path) -> None:
    _, points = count(tmp_path, "mmap.mmap(fd, 1); mmap.mmap(outside, 1); libc.syscall(163, None)")
    assert {text.split()[0] for text in points.unknown} == {str(tmp_path / "root/file"), "acct"}


def test_what_sqlite_writes_is_counted(tmp_path: Path) -> None:
    _, points = count(
        tmp_path,
        "c = sqlite3.connect('wherry.db'); c.execute('pragma journal_mode=wal'); c.execute('create table t (x)')",
    )
    assert {"pwrite64", "fdatasync", "openat"} <= set(points.names) and not points.unknown


def test_a_kill_comes_before_the_change_and_an_error_instead_of_it(tmp_path: Path) -> None:
    script = (
        "os.mkdir('first')\ntry: os.mkdir('second')\nexcept OSError as error: sys.exit(error.errno)\nos.mkdir('third')"
    )
    made = {}
    for end in (End.KILL, End.IO_ERROR, End.NO_SPACE):
        status, points = count(tmp_path / end.name, script, 2, end)
        made[end] = (
            status,
            {path.name for path in (tmp_path / end.name / "root").iterdir()} - {"file", "other", "empty"},
        )
        assert points.last == "mkdir(second)"
    assert made == {End.KILL: (-9, {"first"}), End.IO_ERROR: (5, {"first"}), End.NO_SPACE: (28, {"first"})}


def test_a_count_of_many_threads_and_processes_is_exact(tmp_path: Path) -> None:
    script = """
def work(name):
    for number in range(50): os.mkdir(f'{name}-{number}')
for name in 'ab':
    if not os.fork():
        threads = [threading.Thread(target=work, args=[f'{name}{part}']) for part in range(4)]
        [thread.start() for thread in threads]; [thread.join() for thread in threads]; os._exit(0)
os.wait(); os.wait()
"""
    status, points = count(tmp_path, script)
    assert (status, points.disarm()) == (0, 400)
