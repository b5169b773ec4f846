"""How a layer lies in its directory, as a storage driver wants it: the tree of its files, or its tar with an erofs image of metadata."""

from __future__ import annotations

from enum import StrEnum

from wherry.core.compression import Source
from wherry.core.unpack import Unpacked, unpack_layer
from wherry.spec.ids import Digest


class LayerForm(StrEnum):
    TREE = "tree"
    EROFS = "erofs"


def unpack_as(form: LayerForm, source: Source, root_fd: int, diff_id: Digest) -> Unpacked:
    """Fills the empty directory `root_fd`. Errors as `unpack_layer`."""
    if form is LayerForm.TREE:
        return unpack_layer(source, root_fd, diff_id)
    from wherry.core.tar_index import index_layer  # few need it

    return index_layer(source, root_fd, diff_id)
