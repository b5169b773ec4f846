"""What a container has changed, read from overlay upper directories that the kernel wrote, with all that the kernel may record in them."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.core.diff import Differ, needs_merging
from wherry.core.tar import Reader
from wherry.core.tree_tar import export_tree, layer_tar
from wherry.core.unpack import unpack
from wherry.errors import FailedPrecondition
from wherry.linux.mounts import open_overlay

pytestmark = pytest.mark.requires("root", "overlay")

LOWER = """
mkdir -p dir/sub opaque/x renamed/inner gone keep
echo 1 > dir/a; echo 2 > dir/sub/b; echo 3 > opaque/x/c; echo 4 > renamed/inner/d; echo 5 > renamed/e; echo 6 > gone/f
echo 7 > keep/same; echo 8 > meta; dd if=/dev/urandom of=big bs=64k count=4 2>/dev/null; ln -s target link; echo 9 > file-to-dir
mkdir dir-to-file; echo 10 > dir-to-file/g
"""
UPPER = """
echo new > dir/n; rm dir/a; rm -r opaque; mkdir opaque; echo o > opaque/o; rm -r gone
chmod 600 meta; chown 5:6 big; touch -d @0 keep
rm file-to-dir; mkdir file-to-dir; echo h > file-to-dir/h; rm -r dir-to-file; echo i > dir-to-file
ln dir/n hard; ln -sfn other link; mkdir -p a/b/c; truncate -s 4M sparse; mkfifo pipe
"""
EXPECTED = {
    *("C /dir", "A /dir/n", "D /dir/a", "C /opaque", "D /opaque/x", "A /opaque/o", "D /gone"),
    *("C /meta", "C /big", "C /file-to-dir", "A /file-to-dir/h", "C /dir-to-file", "C /link"),
    *("A /hard", "A /a", "A /a/b", "A /a/b/c", "A /sparse", "A /pipe"),
}
RENAMED = {"D /renamed", "A /moved", "A /moved/inner", "A /moved/inner/d", "A /moved/inner/z", "A /moved/e"}


class Stack:
    """Two lower directories and an upper one; `change` runs a script in the mounted overlay."""

    def __init__(self, root: Path, options: list[tuple[str, str | None]]) -> None:
        self.root = root
        self.options = options
        for name in ("lower", "empty", "upper", "work", "mnt", "out"):
            (root / name).mkdir(parents=True)
        subprocess.run(["bash", "-ec", LOWER], cwd=root / "lower", check=True)
        self.lower = [str(root / "empty"), str(root / "lower")]

    def change(self, script: str) -> None:
        fd = open_overlay(self.lower, str(self.root / "upper"), str(self.root / "work"), self.options)
        try:
            subprocess.run(["bash", "-ec", script], cwd=f"/proc/self/fd/{fd}", pass_fds=[fd], check=True)
            os.setxattr(f"/proc/self/fd/{fd}/keep/same", "user.k", b"v")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{fd}/sock")
        finally:
            os.close(fd)


@pytest.fixture(params=["plain", "redirect_dir and metacopy"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    options: list[tuple[str, str | None]] = []
    if request.param != "plain":
        options = [("redirect_dir", "on"), ("metacopy", "on")]
    yield Stack(tmp_path / "stack", options)


def sides(stack: Stack) -> tuple[int, int, int]:
    upper = os.open(stack.root / "upper", os.O_RDONLY | os.O_DIRECTORY)
    old = root_of(open_overlay(stack.lower))
    if not needs_merging(upper):
        return upper, os.dup(upper), old
    options: list[tuple[str, str | None]] = [("redirect_dir", "follow"), ("metacopy", "on")]
    return upper, root_of(open_overlay([str(stack.root / "upper"), *stack.lower], options=options)), old


def root_of(mount: int) -> int:
    try:
        return os.open(f"/proc/self/fd/{mount}", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(mount)


def listed(differ: Differ) -> list[str]:
    return [f"{'CAD'[change.kind]} /{os.fsdecode(change.path)}" for change in differ]


def content(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory: kind, mode, owner, size, content or target, links."""
    found: dict[str, tuple[object, ...]] = {}
    for top, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = os.path.join(top, name)
            info = os.lstat(path)
            data: object = None
            if os.path.islink(path):
                data = os.readlink(path)
            elif os.path.isfile(path):
                data = (info.st_size, info.st_nlink, Path(path).read_bytes(), os.listxattr(path))
            found[os.path.relpath(path, directory)] = (info.st_mode, info.st_uid, info.st_gid, data)
    return found


def test_changes_and_the_layer_made_of_them(stack: Stack) -> None:
    redirects = bool(stack.options)
    stack.change(UPPER + ("mv renamed moved; echo z > moved/inner/z" if redirects else ""))
    upper, new, old = sides(stack)
    try:
        assert needs_merging(upper) == redirects
        found = listed(Differ(upper, new, old))
        assert set(found) - {"A /sock"} == EXPECTED | (RENAMED if redirects else set())
        order = {line[2:]: n for n, line in enumerate(found)}
        assert all(order.get(os.path.dirname(path), -1) < n for path, n in order.items())
        tar = io.BytesIO()
        layer_tar(upper, new, old, tar.write)
    finally:
        for fd in (upper, new, old):
            os.close(fd)
    out = os.open(stack.root / "out", os.O_RDONLY | os.O_DIRECTORY)
    unpack(Reader(io.BytesIO(tar.getvalue())), out)
    os.close(out)
    assert len(tar.getvalue()) < 2 << 20  # the hole of 4 MiB is none of it
    mounted = [
        ([str(stack.root / "out"), *stack.lower], []),
        (
            [str(stack.root / "upper"), *stack.lower],
            [("redirect_dir", "follow"), ("metacopy", "on")] if redirects else [],
        ),
    ]
    trees = []
    for lower, options in mounted:
        fd = open_overlay(lower, options=options)
        root = root_of(fd)
        trees.append(content(Path(f"/proc/self/fd/{root}")))
        os.close(root)
    trees[1].pop("sock", None)
    assert trees[0] == trees[1]


def test_export_writes_the_tree_once(stack: Stack) -> None:
    root = os.open(stack.root / "lower", os.O_RDONLY | os.O_DIRECTORY)
    tar = io.BytesIO()
    export_tree(root, tar.write)
    os.close(root)
    out = os.open(stack.root / "out", os.O_RDONLY | os.O_DIRECTORY)
    unpack(Reader(io.BytesIO(tar.getvalue())), out)
    os.close(out)
    assert content(stack.root / "out") == content(stack.root / "lower")


@pytest.mark.parametrize("last", ["directory", "file"])
def test_a_tree_that_is_deeper_than_a_path_is_refused_in_a_line(last: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path, [])
    fd = os.open(stack.root / "upper", os.O_RDONLY)
    name = "d" * 200
    for _ in range(20):  # 4019 bytes
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    if last == "directory":
        os.mkdir(name, dir_fd=fd)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    roots = [os.open(stack.root / where, os.O_RDONLY | os.O_DIRECTORY) for where in ("upper", "lower")]
    try:
        upper, old = roots
        with pytest.raises(FailedPrecondition) as raised:
            layer_tar(upper, upper, old, lambda _: None)
        assert str(raised.value).endswith("…: file name too long (4221 bytes, and a path has at most 4095)")
        assert len(str(raised.value)) < 200
        written: list[bytes] = []
        with pytest.raises(FailedPrecondition, match="file name too long"):
            export_tree(upper, written.append)
        assert not written
        if last == "directory":
            with pytest.raises(FailedPrecondition, match="file name too long"):
                list(Differ(upper, upper, old))
        else:
            assert len(list(Differ(upper, upper, old))) == 21
    finally:
        for root in roots:
            os.close(root)
