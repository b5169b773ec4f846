"""Layers so small that the start of a worker would take longer than their unpacking: a thread of wherryd unpacks them.

What is small is found out before anything is unpacked, from the whole tar. So a hostile one takes of the engine no more than the bounds below: some
milliseconds of its interpreter, some descriptors, a MiB. What is malformed counts as not small: a worker says what is wrong with it.
"""

from __future__ import annotations

from wherry.core.compression import Source, decompressed
from wherry.core.layer_form import LayerForm, unpack_blob
from wherry.core.tar import Reader
from wherry.core.unpack import Unpacked
from wherry.errors import Internal, InvalidArgument, SyscallError, WherryError
from wherry.spec.ids import Digest

MAX_BLOB = 256 << 10
"""Bytes of a blob that is worth looking at: a larger one is hardly ever small when it is decompressed."""
MAX_TAR = 1 << 20
MAX_ENTRIES = 512
MAX_DIRECTORIES = 64


def unpack_if_small(form: LayerForm, blob: str, target: str, diff_id: Digest) -> Unpacked | None:
    """As `layer_form.unpack_blob`; None, and `target` is as it was, when the layer is not small. InvalidArgument, DataLoss, Internal."""
    if not _is_small(blob):
        return None
    try:
        return unpack_blob(form, blob, target, diff_id)
    except (SyscallError, OSError) as error:
        raise Internal(str(error)) from None


def _is_small(blob: str) -> bool:
    directories: set[bytes] = set()
    try:
        with open(blob, "rb") as file:
            reader = Reader(_Bounded(decompressed(file)))
            for count, entry in enumerate(reader):
                directory = entry.name.rstrip(b"/").rpartition(b"/")[0]
                while directory and directory not in directories:
                    directories.add(directory)
                    directory = directory.rpartition(b"/")[0]
                if count == MAX_ENTRIES or len(directories) > MAX_DIRECTORIES:
                    return False
            reader.drain()
    except (WherryError, OSError):
        return False
    return True


class _Bounded:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = MAX_TAR

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidArgument("tar: not small")
        return data
