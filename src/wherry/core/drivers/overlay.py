"""Storage driver overlay2: the kernel's overlayfs. A container costs two mkdirs.

In wherryd. The base is a layer with the mount points alone.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wherry.core import init_layer
from wherry.core.diff import needs_merging
from wherry.core.drivers.driver import Prepared, Sides, backing_filesystem, unsuitable
from wherry.core.drivers.tree_layers import TreeLayers
from wherry.core.rootfs import OverlayRoot
from wherry.core.usage import tree_usage
from wherry.errors import SyscallError
from wherry.linux.mounts import open_overlay
from wherry.linux.remove import remove_tree

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLLOW: list[tuple[str, str | None]] = [("redirect_dir", "follow"), ("metacopy", "on")]


class Overlay(TreeLayers):
    name = "overlay2"
    is_instant = True

    def probe(self, directory: str) -> None:
        with tempfile.TemporaryDirectory(dir=directory, prefix="probe-") as place:
            for name in ("lower", "upper", "work"):
                os.mkdir(f"{place}/{name}")
            try:
                os.close(open_overlay([f"{place}/lower"], f"{place}/upper", f"{place}/work"))
            except SyscallError as error:
                where = f"{directory} is on {backing_filesystem(directory)}"
                hint = f"{where}; keep the data root on another file system, or use --storage-driver"
                raise unsuitable(self.name, str(error), hint) from None

    def status(self, directory: str) -> list[list[str]]:
        return [["Backing Filesystem", backing_filesystem(directory)], ["Native Overlay Diff", "true"]]

    def make_base(self, path: str, layers: Sequence[str]) -> None:
        os.mkdir(path, 0o755)
        init_layer.fill(path, layers)

    def prepare(self, new: Prepared) -> None:
        """The root gets the owner and mode that the image's root has."""
        found = os.stat(new.base)
        upper = f"{new.active}/fs"
        os.mkdir(upper, 0o700)
        if found.st_uid or found.st_gid:
            os.chown(upper, found.st_uid, found.st_gid)
        os.chmod(upper, stat.S_IMODE(found.st_mode))

    def root(self, snapshot: Prepared) -> OverlayRoot:
        return OverlayRoot(
            [snapshot.base, *snapshot.layers], f"{snapshot.active}/fs", f"{snapshot.active}/{snapshot.work}"
        )

    @contextmanager
    def merged(self, snapshot: Prepared) -> Iterator[int]:
        with self._merged([f"{snapshot.active}/fs", snapshot.base, *snapshot.layers], follow=True) as root:
            yield root

    @contextmanager
    def view(self, base: str, layers: Sequence[str]) -> Iterator[int]:
        with self._merged([base, *layers]) as root:
            yield root

    @contextmanager
    def sides(self, snapshot: Prepared) -> Iterator[Sides]:
        with ExitStack() as stack:
            upper = os.open(f"{snapshot.active}/fs", OPEN_DIRECTORY)
            stack.callback(os.close, upper)
            old = stack.enter_context(self.view(snapshot.base, snapshot.layers))
            new = upper
            if self._needs_merging(upper):
                new = stack.enter_context(self.merged(snapshot))
            yield Sides(upper, new, old)

    def usage(self, snapshot: Prepared) -> tuple[int, int]:
        return tree_usage(f"{snapshot.active}/fs")

    def remove(self, path: str) -> None:
        remove_tree(path)

    def _needs_merging(self, upper: int) -> bool:
        """Whether what the container's own directory holds can be read through a merged view only."""
        return needs_merging(upper)

    @contextmanager
    def _merged(self, lower: Sequence[str], *, follow: bool = False) -> Iterator[int]:
        """A descriptor of a read-only view of the stack of directories, topmost first. Nobody else sees the mount.

        `follow`: also what the kernel has recorded as renamed directories and as changes of metadata alone.
        """
        # The kernel wants two layers; whoever looks through a single one looks at the directory itself.
        mount = (
            open_overlay(list(lower), options=_FOLLOW if follow else [])
            if len(lower) > 1
            else os.open(lower[0], os.O_PATH | os.O_CLOEXEC)
        )
        try:
            fd = os.open(f"/proc/self/fd/{mount}", OPEN_DIRECTORY)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            os.close(mount)
