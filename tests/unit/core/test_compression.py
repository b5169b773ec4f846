"""Decompression with bounded memory; damage is an error."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable

import pytest
import zstandard

from wherry.core.compression import CHUNK, Source, decompressed, detect
from wherry.errors import DataLoss

DATA = os.urandom(300_000) + bytes(3_000_000) + b"end"
FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


class Trickle:
    """Gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._step))


def everything(source: Source, size: int = CHUNK) -> tuple[bytes, int]:
    """→ all of it, and the largest piece."""
    pieces = []
    while piece := source.read(size):
        pieces.append(piece)
    return b"".join(pieces), max(map(len, pieces), default=0)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("step", [1 << 20, 4099])
def test_every_format_is_recognised_and_read(name: str, step: int) -> None:
    packed = FORMATS[name](DATA)
    assert detect(packed[:10]) == name
    assert everything(decompressed(Trickle(packed, step)))[0] == DATA


@pytest.mark.parametrize("name", FORMATS)
def test_members_after_each_other_are_one_stream(name: str) -> None:
    compress = FORMATS[name]
    packed = compress(DATA[:1000]) + compress(b"") + compress(DATA[1000:])
    assert everything(decompressed(io.BytesIO(packed)))[0] == DATA


@pytest.mark.parametrize("data", [b"", b"x", b"plain text, longer than a magic number", bytes(5000)])
def test_what_is_not_compressed_stays_as_it_is(data: bytes) -> None:
    assert everything(decompressed(io.BytesIO(data)))[0] == data


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_a_stream_that_ends_in_the_middle_is_data_loss(name: str) -> None:
    packed = FORMATS[name](DATA)
    for cut in (15, len(packed) // 2, len(packed) - 1):
        with pytest.raises(DataLoss):
            everything(decompressed(io.BytesIO(packed[:cut])))


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_data_loss(name: str) -> None:
    packed = bytearray(FORMATS[name](os.urandom(50_000)))
    packed[20_000:20_100] = bytes(100)
    with pytest.raises(DataLoss):
        everything(decompressed(io.BytesIO(bytes(packed))))


def test_zeros_may_pad_gzip_and_nothing_else_may_follow() -> None:
    assert everything(decompressed(io.BytesIO(gzip.compress(DATA) + bytes(10_000))))[0] == DATA
    with pytest.raises(DataLoss):
        everything(decompressed(io.BytesIO(gzip.compress(DATA) + b"something else")))


@pytest.mark.parametrize("name", FORMATS)
def test_a_bomb_comes_in_small_pieces(name: str) -> None:
    packed = FORMATS[name](bytes(200 << 20))
    assert len(packed) < 1 << 20
    source = decompressed(io.BytesIO(packed))
    total = largest = 0
    while piece := source.read(CHUNK):
        total += len(piece)
        largest = max(largest, len(piece))
    assert total == 200 << 20
    assert largest <= 2 * CHUNK
