"""How a layer lies in its directory, as a storage driver wants it: the tree of its files, or its tar with an erofs image of metadata."""

from __future__ import annotations

import os
from enum import StrEnum

from wherry.core.compression import Source
from wherry.core.unpack import Unpacked, unpack_layer
from wherry.spec.ids import Digest


class LayerForm(StrEnum):
    TREE = "tree"
    EROFS = "erofs"


def unpack_blob(form: LayerForm, blob: str, target: str, diff_id: Digest) -> Unpacked:
    """Without a worker: fills the empty directory `target` from the file `blob`."""
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(blob, "rb") as file:
            return unpack_as(form, file, fd, diff_id)
    finally:
        os.close(fd)


def unpack_as(form: LayerForm, source: Source, root_fd: int, diff_id: Digest) -> Unpacked:
    """Fills the empty directory `root_fd`. Errors as `unpack_layer`."""
    if form is LayerForm.TREE:
        return unpack_layer(source, root_fd, diff_id)
    from wherry.core.tar_index import index_layer  # few need it

    return index_layer(source, root_fd, diff_id)
