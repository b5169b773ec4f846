"""What drivers share whose layers are the trees of their files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from wherry.core.inherit import inherit_attributes
from wherry.core.layer_form import LayerForm


class TreeLayers:
    form = LayerForm.TREE

    @contextmanager
    def readable(self, layers: Sequence[str]) -> Iterator[list[str]]:
        yield list(layers)

    def inherit(self, layer: str, implied: Iterable[bytes], lower: Sequence[str]) -> None:
        inherit_attributes(layer, implied, lower)
