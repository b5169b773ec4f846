"""Data between holes: all of it is told, in order, and nothing beyond the size that was asked for."""

from __future__ import annotations

import os
from pathlib import Path

from wherry.linux.sparse import data_ranges

BLOCK = 64 << 10


def ranges(path: Path, size: int) -> list[tuple[int, int]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(data_ranges(fd, size))
    finally:
        os.close(fd)


def test_each_piece_of_data_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for offset in (BLOCK, 3 * BLOCK):
            file.seek(offset)
            file.write(b"x" * BLOCK)
        file.truncate(6 * BLOCK)
    assert ranges(path, 6 * BLOCK) == [(BLOCK, 2 * BLOCK), (3 * BLOCK, 4 * BLOCK)]
    assert ranges(path, 3 * BLOCK + 5) == [(BLOCK, 2 * BLOCK), (3 * BLOCK, 3 * BLOCK + 5)]
    assert ranges(path, BLOCK) == []


def test_holes_alone_and_files_that_shrank_end_the_telling(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert ranges(path, 100) == []
    os.truncate(path, 4 * BLOCK)
    assert ranges(path, 4 * BLOCK) == []
