"""Copying a tree by descriptors: everything arrives, nothing is followed."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from wherry.errors import SyscallError
from wherry.linux import trees


def copy(source: Path, target: Path) -> None:
    fds = [os.open(path, os.O_PATH) for path in (source, target)]
    try:
        trees.copy_contents(*fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    (made / "dir/empty").mkdir(parents=True)
    (made / "file").write_text("content")
    (made / "file").chmod(0o4751)
    os.utime(made / "file", ns=(1_000_000_000, 2_000_000_001))
    os.link(made / "file", made / "dir/twin")
    (made / "link").symlink_to("/etc/passwd")
    os.mkfifo(made / "pipe", 0o640)
    os.utime(made / "dir", ns=(3_000_000_000, 4_000_000_000))
    made.chmod(0o1775)
    return made


def test_modes_times_links_and_kinds_arrive(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    copy(source, target)
    file = (target / "file").stat()
    assert (stat.S_IMODE(file.st_mode), file.st_mtime_ns, file.st_nlink) == (0o4751, 2_000_000_001, 2)
    assert (target / "dir/twin").stat().st_ino == file.st_ino
    assert os.readlink(target / "link") == "/etc/passwd"
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "dir").stat().st_mtime_ns == 4_000_000_000
    assert stat.S_IMODE(target.stat().st_mode) == 0o1775
    assert (target / "dir/empty").is_dir()


def test_holes_stay_holes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with open(tmp_path / "a/sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    copy(tmp_path / "a", tmp_path / "b")
    status = (tmp_path / "b/sparse").stat()
    assert status.st_size == (64 << 20) + 3
    assert status.st_blocks * 512 < 1 << 20


def test_extended_attributes_arrive(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/file").touch()
    try:
        os.setxattr(tmp_path / "a/file", "user.note", b"value")
    except OSError:
        pytest.skip("needs user_xattr")
    copy(tmp_path / "a", tmp_path / "b")
    assert os.getxattr(tmp_path / "b/file", "user.note") == b"value"


def test_what_is_there_already_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("mine")
    with pytest.raises(SyscallError):
        copy(source, target)
    assert (target / "file").read_text() == "mine"


def test_descriptors_do_not_leak(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    before = set(os.listdir("/proc/self/fd"))
    copy(source, target)
    with pytest.raises(SyscallError):
        copy(source, target)
    assert set(os.listdir("/proc/self/fd")) == before


def test_files_with_several_names_need_no_descriptor_each(tmp_path: Path) -> None:
    for number in range(300):
        directory = tmp_path / f"from/deep/{number}"
        directory.mkdir(parents=True)
        (directory / "one").write_text(str(number))
        other = tmp_path / f"from/other/{number}"
        other.mkdir(parents=True)
        os.link(directory / "one", other / "two")
    (tmp_path / "to").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        copy(tmp_path / "from", tmp_path / "to")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for number in range(300):
        assert (tmp_path / f"to/deep/{number}/one").samefile(tmp_path / f"to/other/{number}/two")
