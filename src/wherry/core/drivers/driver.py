"""What a storage driver is: how a container's root file system is made of the layers that lie in the store.

In wherryd; all methods block. A layer is a directory, filled by the unpacker in the `form` that the driver wants: for all but erofs the files
themselves, with whiteouts as overlayfs reads them, so that their layers are alike.
A driver decides what stands on them:

    base    once for each image: at least the mount points that every container has (`init_layer`), at most the image's whole tree
    active  for each container: what it writes to

**Invariants**: a driver mounts nothing that is seen by others: `root` is data, which the shim applies in its own mount namespace; what the engine
looks at itself are detached mounts. Base and active directories are removed by `remove` alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from wherry.core.layer_form import LayerForm
from wherry.core.rootfs import Root
from wherry.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Prepared:
    """A container's snapshot. `active`: its directory, whose `work` (a name in it) is the driver's; `layers`: topmost first."""

    active: str
    work: str
    base: str
    layers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sides:
    """Descriptors for `Differ`, and whether `upper` is the whole tree (what is not in it is gone), not only what has changed."""

    upper: int
    new: int
    old: int
    whole: bool = False


class Driver(Protocol):
    name: str
    """As Docker calls it."""
    form: LayerForm
    """How it wants layers unpacked."""
    is_instant: bool
    """Whether `make_base` and `prepare` take less than going to a thread does."""

    def probe(self, directory: str) -> None:
        """FailedPrecondition unless snapshots can live in that directory; it is left as it was."""

    def status(self, directory: str) -> list[list[str]]:
        """`docker info` shows it: pairs of name and value."""

    def readable(self, layers: Sequence[str]) -> AbstractContextManager[list[str]]:
        """Paths, for this process alone, at which the trees of those layers can be read meanwhile."""

    def inherit(self, layer: str, implied: Iterable[bytes], lower: Sequence[str]) -> None:
        """Gives directories that a layer's tar did not mention the owner, mode and time that they have in the layers below (`lower`: topmost first).

        overlayfs shows the attributes of the topmost directory, so an invented one would change what the image says.
        """

    def make_base(self, path: str, layers: Sequence[str]) -> None:
        """Makes at `path`, where nothing is, the base of the image with those layers (topmost first)."""

    def prepare(self, new: Prepared) -> None:
        """Fills the active directory, which exists and is empty."""

    def root(self, snapshot: Prepared) -> Root:
        """What the shim is to mount."""

    def merged(self, snapshot: Prepared) -> AbstractContextManager[int]:
        """A descriptor of what the container sees, to read from."""

    def view(self, base: str, layers: Sequence[str]) -> AbstractContextManager[int]:
        """A descriptor of what a container that has written nothing would see."""

    def sides(self, snapshot: Prepared) -> AbstractContextManager[Sides]:
        """What the container has changed."""

    def usage(self, snapshot: Prepared) -> tuple[int, int]:
        """(bytes, inodes) that the container itself takes; hard-linked files count once."""

    def remove(self, path: str) -> None:
        """Removes what this driver has made, or any other tree. Nothing happens if there is nothing."""


def unsuitable(name: str, why: str, hint: str = "") -> FailedPrecondition:
    """In dockerd's words."""
    return FailedPrecondition(
        f"error initializing graphdriver: driver not supported: {name}: {why}" + (f" ({hint})" if hint else "")
    )


def backing_filesystem(path: str) -> str:
    """The type of the file system that holds `path`, as mountinfo has it."""
    path = os.path.realpath(path)
    best, kind = "", "unknown"
    with open("/proc/self/mountinfo", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            point = left.split()[4]
            if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, right.split()[0]
    return kind
