"""Storage drivers without an overlay: vfs and btrfs. A container has its image's whole tree for itself.

In wherryd. The base is the image's layers laid over each other, and the mount points, once for each image. A container is a clone of it: a copy for
vfs (on XFS and btrfs its files share their blocks), a snapshot for btrfs, which costs nothing. What a container has changed is found by comparing the
two trees, as Docker's drivers of these names do it: by owner, mode, size, time and attributes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wherry.core import init_layer
from wherry.core.diff import Differ
from wherry.core.drivers.driver import Prepared, Sides, backing_filesystem, unsuitable
from wherry.core.drivers.tree_layers import TreeLayers
from wherry.core.lay_over import lay_over
from wherry.core.rootfs import BindRoot
from wherry.errors import SyscallError
from wherry.linux import btrfs, usage
from wherry.linux.remove import remove_tree
from wherry.linux.syscalls import filesystem_type

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Vfs(TreeLayers):
    name = "vfs"
    is_instant = False

    def probe(self, directory: str) -> None:
        """Any file system will do."""

    def status(self, directory: str) -> list[list[str]]:
        return []

    def make_base(self, path: str, layers: Sequence[str]) -> None:
        mount_points = f"{path}-mount-points"
        os.mkdir(mount_points, 0o755)
        init_layer.fill(mount_points, layers)
        self._make_tree(path)
        with _opened(path) as target:
            for layer in [*reversed(layers), mount_points]:
                with _opened(layer) as source:
                    lay_over(source, target)
        remove_tree(mount_points)

    def prepare(self, new: Prepared) -> None:
        fs = f"{new.active}/fs"
        self._make_tree(fs)
        with _opened(new.base) as source, _opened(fs) as target:
            lay_over(source, target)

    def _make_tree(self, path: str) -> None:
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)

    def root(self, snapshot: Prepared) -> BindRoot:
        return BindRoot(f"{snapshot.active}/fs")

    @contextmanager
    def merged(self, snapshot: Prepared) -> Iterator[int]:
        with _opened(f"{snapshot.active}/fs") as root:
            yield root

    @contextmanager
    def view(self, base: str, layers: Sequence[str]) -> Iterator[int]:
        with _opened(base) as root:
            yield root

    @contextmanager
    def sides(self, snapshot: Prepared) -> Iterator[Sides]:
        with ExitStack() as stack:
            tree = stack.enter_context(_opened(f"{snapshot.active}/fs"))
            yield Sides(tree, tree, stack.enter_context(_opened(snapshot.base)), whole=True)

    def usage(self, snapshot: Prepared) -> tuple[int, int]:
        size = inodes = 0
        seen: set[int] = set()
        with self.sides(snapshot) as sides:
            for change in Differ(sides.upper, sides.new, sides.old, whole=True):
                found = change.found
                if found is None or (not stat.S_ISDIR(found.st_mode) and found.st_ino in seen):
                    continue
                seen.add(found.st_ino)
                inodes += 1
                size += found.st_size if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode) else 0
        return size, inodes

    def remove(self, path: str) -> None:
        remove_tree(path)


class Btrfs(Vfs):
    name = "btrfs"

    def probe(self, directory: str) -> None:
        with _opened(directory) as fd:
            kind = filesystem_type(fd)
        if kind != btrfs.MAGIC:
            why = "prerequisites for driver not satisfied (wrong filesystem?)"
            raise unsuitable(self.name, why, f"{directory} is on {backing_filesystem(directory)}, not on btrfs")
        place = f"{directory}/probe-{os.getpid()}"
        try:
            btrfs.create_subvolume(place)
            btrfs.delete_subvolume(place)
        except SyscallError as error:
            raise unsuitable(self.name, str(error)) from None

    def status(self, directory: str) -> list[list[str]]:
        return [["Btrfs", ""]]

    def _make_tree(self, path: str) -> None:
        btrfs.create_subvolume(path)

    def prepare(self, new: Prepared) -> None:
        btrfs.create_snapshot(new.base, f"{new.active}/fs")

    def remove(self, path: str) -> None:
        """Subvolumes go as a whole: the path itself, or what lies directly in it; those that a container has made in them, one by one before."""
        try:
            names = ["", *os.listdir(path)]
        except (FileNotFoundError, NotADirectoryError):
            names = []
        for name in names:
            found = f"{path}/{name}" if name else path
            if btrfs.is_subvolume(os.lstat(found)):
                _delete(found)
                if not name:
                    return
        remove_tree(path)


def _delete(path: str) -> None:
    """With the subvolumes that a container has made in it: the innermost first, since one that has others in it stays."""
    while True:
        try:
            btrfs.delete_subvolume(path)
            return
        except SyscallError as error:
            if error.errno != errno.ENOTEMPTY or not _delete_below(path):
                raise


def _delete_below(path: str) -> bool:
    """Those that have none in them. Whether there was one."""
    found = False
    for directory, name, status in usage.walk(path):
        if btrfs.is_subvolume(status):
            try:
                btrfs.delete_subvolume(f"/proc/self/fd/{directory}/{name}")
                found = True
            except SyscallError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
    return found


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _OPEN_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
