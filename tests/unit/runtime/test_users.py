from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.runtime.users import resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n# comment\nbob:x:1001:50\nbad:x:4294967296:0::/:\n1002:x:7:7::/odd:\n"
GROUP = "root:x:0:\nstaff:x:50:ann,bob\nwheel:x:10:root,ann\n51:x:0:\nhuge:x:99999999999:\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, [0, 10])),
        ("root", (0, 0, [0, 10])),
        ("ann", (1000, 1000, [1000, 50, 10])),
        ("1000", (1000, 1000, [1000, 50, 10])),
        ("ann:staff", (1000, 50, [50])),
        ("ann:7", (1000, 7, [7])),
        ("4000", (4000, 0, [0])),
        ("4000:staff", (4000, 50, [50])),
        ("bob", (1001, 50, [50])),
        ("1002", (1002, 0, [0])),  # not the user whom the image calls so
        ("1002:51", (1002, 51, [51])),
    ],
)
def test_names_and_numbers(root: int, user: str, expected: tuple[int, int, list[int]]) -> None:
    who = resolve(root, user, [])
    assert (who.uid, who.gid, who.groups) == expected


def test_added_groups_follow(root: int) -> None:
    assert resolve(root, "ann", ["wheel", "77"]).groups == [1000, 50, 10, 77]


@pytest.mark.parametrize(
    "user", ["nobody-here", "ann:nogroup", "-1", "2147483648", "4294967296", "bad", "ann:huge", "ann:-1", "٣"]
)
def test_unknown_names_and_numbers_out_of_range_are_never_root(root: int, user: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve(root, user, [])


def test_files_that_are_missing_have_no_rows(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve(fd, "5:6", []).uid == 5
        with pytest.raises(InvalidArgument, match="no matching entries in passwd file"):
            resolve(fd, "ann", [])
    finally:
        os.close(fd)


def test_a_fifo_in_place_of_passwd_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve(fd, "", []).uid == 0
    finally:
        os.close(fd)


def test_a_symlink_stays_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/../../../../etc/shadow-of-passwd")
    (tmp_path / "etc/shadow-of-passwd").write_text("inside:x:42:42::/:\n")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert resolve(fd, "inside", []).uid == 42
    finally:
        os.close(fd)


@given(user=st.text(max_size=30), passwd=st.binary(max_size=200))
def test_any_file_and_any_user_gives_an_identity_or_a_refusal(
    user: str, passwd: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("root")
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_bytes(passwd)
    fd = os.open(folder, os.O_PATH)
    try:
        who = resolve(fd, user, [])
        assert 0 <= who.uid < 2**31 and 0 <= who.gid < 2**31
    except InvalidArgument:
        pass
    finally:
        os.close(fd)
