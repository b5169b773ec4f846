"""Storage driver fuse-overlayfs: overlayfs in user space, for kernels that give an ordinary user no overlay mount (before 5.11).

In wherryd. On disk as overlay2, but for what fuse-overlayfs leaves beside an opaque directory's mark: so the container's side is always read through
a view of it. The shim starts the program for its container; for its own views the engine does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wherry.core.drivers.driver import Prepared, unsuitable
from wherry.core.drivers.overlay import OPEN_DIRECTORY, Overlay
from wherry.core.rootfs import FuseOverlayRoot
from wherry.errors import SyscallError
from wherry.linux import fuse


class FuseOverlayfs(Overlay):
    name = "fuse-overlayfs"

    def probe(self, directory: str) -> None:
        if shutil.which(fuse.PROGRAM) is None:
            raise unsuitable(
                self.name, f"there is no program {fuse.PROGRAM}", "install Debian's package fuse-overlayfs"
            )
        with tempfile.TemporaryDirectory(dir=directory, prefix="probe-") as place:
            try:
                with self._merged([place]):
                    pass
            except (SyscallError, OSError) as error:
                raise unsuitable(self.name, str(error)) from None

    def status(self, directory: str) -> list[list[str]]:
        return []

    def root(self, snapshot: Prepared) -> FuseOverlayRoot:  # type: ignore[override]
        found = super().root(snapshot)
        return FuseOverlayRoot(found.lower, found.upper, found.work)

    def _needs_merging(self, upper: int) -> bool:
        return True

    @contextmanager
    def _merged(self, lower: Sequence[str], *, follow: bool = False) -> Iterator[int]:
        mount, pid = fuse.open_overlay(list(lower))
        try:
            try:
                fd = os.open(f"/proc/self/fd/{mount}", OPEN_DIRECTORY)
            finally:
                os.close(mount)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            os.waitpid(pid, 0)  # it ends with the mount
