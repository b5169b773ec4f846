"""Storage driver erofs: a layer is its tar and an erofs image of metadata that the kernel mounts over it; a container stands on an overlay of them.

In wherryd. What a container writes is as overlay2 has it, and so is the base. Chosen by name only: layers of this form are no other driver's.
Who mounts holds a descriptor, and the mount goes with it. Needs Linux 6.15 (images in plain files 6.12, detached mounts as layers 6.15).
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from wherry.core.drivers.driver import Prepared, backing_filesystem, unsuitable
from wherry.core.drivers.overlay import Overlay
from wherry.core.erofs_image import Node, patch_inode, write_image
from wherry.core.inherit import inherited
from wherry.core.layer_form import LayerForm
from wherry.core.rootfs import ErofsRoot
from wherry.core.tar_index import IMAGE, TAR
from wherry.errors import SyscallError
from wherry.linux.mounts import open_erofs, open_erofs_overlay


class Erofs(Overlay):
    name = "erofs"
    form = LayerForm.EROFS

    def probe(self, directory: str) -> None:
        super().probe(directory)
        with tempfile.TemporaryDirectory(dir=directory, prefix="probe-") as place:
            for name in ("base", "layer", "upper", "work"):
                os.mkdir(f"{place}/{name}")
            file = Node(stat.S_IFREG | 0o644, size=1, chunks=[0])
            with open(f"{place}/layer/{TAR}", "wb") as tar, open(f"{place}/layer/{IMAGE}", "wb") as image:
                tar.write(b"x".ljust(512, b"\0"))
                write_image(Node(stat.S_IFDIR | 0o755, children={b"x": file}), 512, image)
            try:
                fd = open_erofs_overlay([f"{place}/base", f"{place}/layer"], f"{place}/upper", f"{place}/work")
                try:
                    with open(f"/proc/self/fd/{fd}/x", "rb") as read:
                        read.read()
                finally:
                    os.close(fd)
            except (SyscallError, OSError) as error:
                hint = "it needs Linux 6.15 with erofs, for images in plain files and detached layers"
                raise unsuitable(self.name, str(error), hint) from None

    def status(self, directory: str) -> list[list[str]]:
        return [["Backing Filesystem", backing_filesystem(directory)]]

    @contextmanager
    def readable(self, layers: Sequence[str]) -> Iterator[list[str]]:
        with ExitStack() as stack:
            paths = []
            for layer in layers:
                fd = open_erofs(layer)
                stack.callback(os.close, fd)
                paths.append(f"/proc/self/fd/{fd}/.")  # not the link itself, for those who follow none
            yield paths

    def inherit(self, layer: str, implied: Iterable[bytes], lower: Sequence[str]) -> None:
        with self.readable([layer, *lower]) as (here, *below):
            found = [(os.fstat(fd).st_ino, wanted) for fd, wanted in inherited(here, implied, below)]
        # An inode's number is its place.
        with open(f"{layer}/{IMAGE}", "r+b") as image:
            for number, wanted in found:
                patch_inode(image, number, wanted.st_mode, wanted.st_uid, wanted.st_gid, wanted.st_mtime_ns)

    def make_base(self, path: str, layers: Sequence[str]) -> None:
        with self.readable(layers) as below:
            super().make_base(path, below)

    def root(self, snapshot: Prepared) -> ErofsRoot:  # type: ignore[override]
        found = super().root(snapshot)
        return ErofsRoot(found.lower, found.upper, found.work)

    @contextmanager
    def merged(self, snapshot: Prepared) -> Iterator[int]:
        with self.readable(snapshot.layers) as layers, super().merged(replace(snapshot, layers=layers)) as root:
            yield root

    @contextmanager
    def view(self, base: str, layers: Sequence[str]) -> Iterator[int]:
        with self.readable(layers) as below, super().view(base, below) as root:
            yield root
