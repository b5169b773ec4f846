"""Roots, locks, PID files."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest

from wherry.daemon.roots import instance_of, lock_root, make_root, write_pidfile
from wherry.errors import FailedPrecondition


def test_the_default_root_has_no_tag_and_others_have_their_own(tmp_path: Path) -> None:
    assert instance_of("/var/lib/wherry") == ""
    first, second = instance_of(str(tmp_path / "a")), instance_of(str(tmp_path / "b"))
    assert first != second
    assert len(first) == 6
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert instance_of(str(tmp_path / "link")) == first


def test_a_root_is_made_private_whatever_it_was(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "root"
    make_root(str(root))
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.chmod(0o755)
    make_root(str(root))
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_directory_of_the_system_is_no_root(tmp_path: Path) -> None:
    for path in ("/", "/tmp", "/var/lib", "/etc/"):
        with pytest.raises(FailedPrecondition, match="not a directory that an engine can have for itself"):
            make_root(path)
    (tmp_path / "link").symlink_to("/tmp")
    with pytest.raises(FailedPrecondition):
        make_root(str(tmp_path / "link"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot use"):
        make_root(str(tmp_path / "file"))


def test_a_root_is_held_once(tmp_path: Path) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        lock_root(str(tmp_path), first)
        with pytest.raises(FailedPrecondition) as failure:
            lock_root(str(tmp_path), second)
        assert str(failure.value) == f"{tmp_path} is in use by another engine (process {os.getpid()})"
        first.close()
        lock_root(str(tmp_path), second)


def test_the_pidfile_is_ours_while_we_live(tmp_path: Path) -> None:
    path = tmp_path / "run" / "w.pid"
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        write_pidfile(str(path), first)
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(FailedPrecondition, match="is in use"):
            write_pidfile(str(path), second)
        first.close()
        assert not path.exists()


def test_a_stale_pidfile_is_replaced_even_if_its_number_lives(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    path.write_text("1\n")
    with contextlib.ExitStack() as stack:
        write_pidfile(str(path), stack)
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_pidfile_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / "w.pid").symlink_to(tmp_path / "precious")
    with contextlib.ExitStack() as stack, pytest.raises(FailedPrecondition):
        write_pidfile(str(tmp_path / "w.pid"), stack)
    assert (tmp_path / "precious").read_text() == "x"
