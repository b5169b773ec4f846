"""Blobs: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.core.content import Content, hash_of
from wherry.errors import DataLoss, InvalidArgument, NotFound
from wherry.spec.ids import Digest
from wherry.spec.image import digest_of


@pytest.fixture
def content(tmp_path: Path) -> Content:
    opened = Content(str(tmp_path))
    opened.open()
    return opened


def test_the_store_is_an_oci_layout(content: Content, tmp_path: Path) -> None:
    digest = content.add(b"data")
    assert (tmp_path / "oci-layout").read_bytes() == b'{"imageLayoutVersion": "1.0.0"}'
    assert (tmp_path / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes() == b"data"
    assert list(content) == [digest]


def test_a_blob_is_read_back_verified_and_bounded(content: Content) -> None:
    digest = content.add(b"data")
    assert content.read(digest, 4) == b"data"
    assert content.size(digest) == 4
    with pytest.raises(InvalidArgument, match="larger than"):
        content.read(digest, 3)
    Path(content.path(digest)).write_bytes(b"date")
    with pytest.raises(DataLoss):
        content.read(digest, 4)


def test_what_is_not_there_is_not_found(content: Content) -> None:
    missing = digest_of(b"missing")
    assert not content.has(missing)
    for look in (lambda: content.read(missing, 9), lambda: content.size(missing)):
        with pytest.raises(NotFound):
            look()


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "A" * 64, "../x"]
)
def test_a_path_is_made_of_a_digest_only(content: Content, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        content.path(Digest(digest))


def test_an_ingest_that_is_not_committed_leaves_nothing(content: Content, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), content.ingest() as file:
        file.write(b"x")
        _ = 1 / 0
    with content.ingest() as file:
        file.write(b"x")
    assert os.listdir(tmp_path / "ingest") == list(content) == []


def test_an_ingest_with_another_digest_than_expected_is_data_loss(content: Content) -> None:
    wanted = digest_of(b"wanted")
    with (
        pytest.raises(DataLoss, match=f"filesystem layer verification failed for digest {wanted}"),
        content.ingest(wanted) as file,
    ):
        file.write(b"other")
        file.commit()
    assert list(content) == []


def test_sha512_blobs_have_their_own_place(content: Content, tmp_path: Path) -> None:
    digest = hash_of(Digest("sha512:"), b"data")
    assert content.add(b"data", digest) == digest
    assert content.read(digest, 10) == b"data"
    assert os.listdir(tmp_path / "blobs/sha512") == [digest.removeprefix("sha512:")]


def test_opening_removes_what_was_being_written(content: Content, tmp_path: Path) -> None:
    digest = content.add(b"kept")
    (tmp_path / "ingest/half").write_bytes(b"x")
    (tmp_path / "ingest/directory").mkdir()
    content.open()
    assert os.listdir(tmp_path / "ingest") == []
    assert list(content) == [digest]


def test_discarded_blobs_are_gone_at_once_and_unlinked_later(content: Content) -> None:
    digest = content.add(b"data")
    [moved] = content.discard([digest, digest_of(b"missing")])
    assert not content.has(digest) and os.path.exists(moved)


def test_what_was_not_synced_is_known_until_it_is(content: Content) -> None:
    one, two = content.add(b"one"), content.add(b"two")
    content.sync(content.unsynced([one]))
    assert content.unsynced([one, two, digest_of(b"missing")]) == {two}
    content.sync([two], done=True)
    assert content.unsynced([one, two]) == set()
    content.discard([content.add(b"one more")])
    assert content.unsynced([digest_of(b"one more")]) == set()


def test_a_blob_is_not_replaced(content: Content) -> None:
    inode = os.stat(content.path(content.add(b"data"))).st_ino
    assert os.stat(content.path(content.add(b"data"))).st_ino == inode


def test_a_file_that_is_adopted_twice_is_one_blob(content: Content, tmp_path: Path) -> None:
    directory = content.ingest_directory()
    Path(directory, "a").write_bytes(b"data")
    for _ in range(2):
        content.adopt(f"{directory}/a", digest_of(b"data"))
    assert content.read(digest_of(b"data"), 10) == b"data"
