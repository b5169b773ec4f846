"""What is left of interrupted downloads: never believed, never somebody else's file, never for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.core.content import Content, Resumed
from wherry.core.partials import LIFETIME, MOST
from wherry.errors import DataLoss, InvalidArgument
from wherry.spec.ids import Digest
from wherry.spec.image import digest_of

DATA = b"a blob of some size" * 100
DIGEST = digest_of(DATA)


@pytest.fixture
def content(tmp_path: Path) -> Content:
    opened = Content(str(tmp_path))
    opened.open()
    return opened


def taken_in(file: Resumed) -> Resumed:
    while file.take_in():
        pass
    return file


def leave(content: Content, data: bytes, digest: Digest = DIGEST) -> Path:
    with content.resume(digest) as file:
        file.write(data)
    return Path(content.root, "partial", digest)


def test_what_was_written_is_there_the_next_time_also_after_a_restart(content: Content, tmp_path: Path) -> None:
    leave(content, DATA[:700])
    again = Content(str(tmp_path))
    again.open()
    with again.resume(DIGEST) as file:
        assert taken_in(file).size == file.found == 700
        file.write(DATA[700:])
        assert file.commit() == DIGEST
    assert again.read(DIGEST, len(DATA)) == DATA
    assert os.listdir(tmp_path / "partial") == []


def test_a_partial_that_is_damaged_becomes_no_blob(content: Content) -> None:
    leave(content, bytes(700))
    with content.resume(DIGEST) as file:
        taken_in(file).write(DATA[700:])
        with pytest.raises(DataLoss):
            file.commit()
        file.restart()
        file.write(DATA)
        file.commit()
    assert content.read(DIGEST, len(DATA)) == DATA


def test_nothing_written_leaves_nothing(content: Content) -> None:
    assert not leave(content, b"").exists()


def test_a_partial_has_one_writer(content: Content) -> None:
    with content.resume(DIGEST), pytest.raises(InvalidArgument, match="is being written"), content.resume(DIGEST):
        pass


@pytest.mark.parametrize("kind", ["symlink", "hard link", "directory", "fifo"])
def test_what_is_not_a_file_of_our_own_is_replaced_and_never_followed(
    kind: str, content: Content, tmp_path: Path
) -> None:
    other, place = tmp_path / "other", tmp_path / "partial" / DIGEST
    other.write_bytes(b"theirs")
    match kind:
        case "symlink":
            place.symlink_to(other)
        case "hard link":
            place.hardlink_to(other)
        case "directory":
            (place / "sub").mkdir(parents=True)
        case "fifo":
            os.mkfifo(place)
    with content.resume(DIGEST) as file:
        assert file.found == 0
        file.write(DATA)
        file.commit()
    assert other.read_bytes() == b"theirs"
    assert content.read(DIGEST, len(DATA)) == DATA


def test_opening_removes_what_is_foreign_or_old_and_keeps_the_rest(content: Content, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"theirs")
    kept = leave(content, b"new")
    old = leave(content, b"old", digest_of(b"1"))
    os.utime(old, (1, os.stat(kept).st_mtime - LIFETIME - 1))
    for name in (digest_of(b"2"), "x"):
        (tmp_path / "partial" / name).symlink_to(other)
    (tmp_path / "partial/y/z").mkdir(parents=True)
    Content(str(tmp_path)).open()
    assert os.listdir(tmp_path / "partial") == [kept.name]
    assert other.read_bytes() == b"theirs"


def test_a_link_in_place_of_the_directory_is_replaced(content: Content, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").touch()
    (tmp_path / "partial").rmdir()
    (tmp_path / "partial").symlink_to(tmp_path / "elsewhere")
    Content(str(tmp_path)).open()
    assert not (tmp_path / "partial").is_symlink()
    assert (tmp_path / "elsewhere/file").exists()


def test_the_latest_are_kept_and_those_that_are_being_written(content: Content) -> None:
    for n in range(MOST + 3):
        path = leave(content, b"x", digest_of(b"%d" % n))
        moment = os.stat(path).st_mtime - 1000 + n
        os.utime(path, (moment, moment))
    first, second = (digest_of(b"%d" % n) for n in (0, 1))
    with content.resume(first):
        assert content.partials.remove_old() > 0
        left = set(os.listdir(path.parent))
        assert len(left) == MOST + 1
        assert first in left and second not in left
        content.partials.remove([first, path.name])
        assert content.partials.remove_old(lifetime=0) > 0
        assert os.listdir(path.parent) == [first]
