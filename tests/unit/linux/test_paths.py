"""Resolution inside a root: nothing is opened or made outside of it. Needs no privilege."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.errors import SyscallError
from wherry.linux import paths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/ is the root; beside it lies outside/, which nobody may reach."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/file").write_text("x")
    (tmp_path / "outside").mkdir()
    return tmp_path


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    fd = os.open(tree / "root", os.O_PATH)
    yield fd
    os.close(fd)


def where(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


@pytest.mark.parametrize("path", ["a/b", "/a/b", "/a/../a/b", "/../../a/b", "a//b/.", "/loop/../a/b"])
def test_every_spelling_ends_inside(tree: Path, root: int, path: str) -> None:
    (tree / "root/loop").mkdir()
    assert where(paths.open_in_root(root, path)) == str(tree / "root/a/b")
    assert where(paths.make_directory(root, path)) == str(tree / "root/a/b")


@pytest.mark.parametrize("target", ["/", "/outside", "../outside", "../../../../../../../outside"])
def test_a_symlink_to_the_outside_is_a_path_inside(tree: Path, root: int, target: str) -> None:
    (tree / "root/link").symlink_to(target)
    made = where(paths.make_directory(root, "link/new"))
    assert made.startswith(str(tree / "root"))
    assert os.listdir(tree / "outside") == []


def test_a_dangling_symlink_is_made_where_it_points_inside(tree: Path, root: int) -> None:
    (tree / "root/dangling").symlink_to("/deep/er")
    assert where(paths.make_directory(root, "dangling/x")) == str(tree / "root/deep/er/x")
    (tree / "root/lost").symlink_to("/somewhere/file")
    assert where(paths.make_file(root, "/lost")) == str(tree / "root/somewhere/file")
    assert (tree / "root/somewhere/file").is_file()


def test_symlinks_that_go_in_circles_are_an_error(tree: Path, root: int) -> None:
    (tree / "root/one").symlink_to("two")
    (tree / "root/two").symlink_to("one")
    for make in (paths.make_directory, paths.make_file):
        with pytest.raises(SyscallError) as caught:
            os.close(make(root, "one/x"))
        assert caught.value.errno == 40  # ELOOP


def test_an_existing_file_is_kept_and_a_missing_one_is_empty(tree: Path, root: int) -> None:
    os.close(paths.make_file(root, "/file"))
    assert (tree / "root/file").read_text() == "x"
    os.close(paths.make_file(root, "/new/dir/file", 0o600))
    assert (tree / "root/new/dir/file").read_text() == ""


def test_directories_above_a_new_file_can_be_entered_by_all(tree: Path, root: int) -> None:
    os.close(paths.make_file(root, "/above/below/file", 0o600))
    assert [(tree / "root" / path).stat().st_mode & 0o777 for path in ("above", "above/below", "above/below/file")] == [
        0o755,
        0o755,
        0o600,
    ]


def test_a_file_in_the_way_of_a_directory_is_an_error(root: int) -> None:
    for path in ("/file", "/file/below"):
        with pytest.raises(SyscallError) as caught:
            os.close(paths.make_directory(root, path))
        assert caught.value.errno == 20  # ENOTDIR


def test_a_magic_link_is_refused(root: int) -> None:
    machine = os.open("/", os.O_PATH)
    try:
        with pytest.raises(SyscallError) as caught:
            os.close(paths.open_in_root(machine, f"/proc/self/fd/{root}"))
        assert caught.value.errno == 40
    finally:
        os.close(machine)


def test_no_follow_refuses_any_symlink_on_the_way(tree: Path, root: int) -> None:
    (tree / "root/link").symlink_to("a")
    with pytest.raises(SyscallError):
        os.close(paths.open_in_root(root, "link/b", follow=False))
    os.close(paths.open_in_root(root, "a/b", follow=False))


def test_a_nul_byte_is_an_error_and_not_an_end(root: int) -> None:
    for make in (paths.open_in_root, paths.make_directory, paths.make_file):
        with pytest.raises(SyscallError):
            os.close(make(root, "a\0b"))


def test_the_error_names_the_path(root: int) -> None:
    with pytest.raises(SyscallError, match=r"open missing: no such file or directory"):
        paths.open_in_root(root, "missing")


def test_descriptors_do_not_leak(tree: Path, root: int) -> None:
    (tree / "root/one").symlink_to("/one")
    before = set(os.listdir("/proc/self/fd"))
    for path in ("/x/y/z", "/one/two", "/file/x", "../../..", ""):
        try:
            os.close(paths.make_directory(root, path))
        except SyscallError:
            pass
    assert set(os.listdir("/proc/self/fd")) == before


names = st.sampled_from(["a", "b", "c", "..", ".", "", "link", "up", "abs"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(path=st.lists(names, min_size=1, max_size=7).map("/".join), file=st.booleans())
def test_no_path_at_all_leads_out(tree: Path, root: int, path: str, file: bool) -> None:
    for name, target in (("link", "a/c"), ("up", "../../outside"), ("abs", f"{tree}/outside")):
        if not (tree / "root" / name).is_symlink():
            (tree / "root" / name).symlink_to(target)
    try:
        fd = (paths.make_file if file else paths.make_directory)(root, path)
    except SyscallError:
        return
    assert (where(fd) + "/").startswith(f"{tree}/root/")
    assert os.listdir(tree / "outside") == []
    assert sorted(os.listdir(tree)) == ["outside", "root"]


@pytest.mark.parametrize(
    ("path", "parts"), [("/dev/null", (b"/dev", b"null")), ("/x", (b"/", b"x")), ("/a/b/", (b"/a", b"b"))]
)
def test_split(path: str, parts: tuple[bytes, bytes]) -> None:
    assert paths.split(path) == parts


@pytest.mark.parametrize("path", ["/", "", "/a/..", "/a/."])
def test_split_refuses_what_is_no_name(path: str) -> None:
    with pytest.raises(SyscallError):
        paths.split(path)
