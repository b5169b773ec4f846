"""Tars that are written are what Python's tarfile, and wherry's own reader, read."""

from __future__ import annotations

import io
import tarfile

import pytest

from wherry.core.tar import CHARACTER, DIRECTORY, HARD_LINK, REGULAR, SYMLINK, Entry, Reader
from wherry.core.tar_writer import TarWriter

ENTRIES = (
    (Entry(b"d/", DIRECTORY, 0o1777, 5, 6, mtime_ns=1_700_000_000 * 10**9), b""),
    (Entry(b"d/file", REGULAR, 0o4755, 0, 0, 5), b"hello"),
    (Entry(b"n" * 99, REGULAR, size=512), b"x" * 512),
    (Entry(b"n" * 101, REGULAR, size=1), b"y"),
    (Entry(b"/".join([b"deep" * 20] * 10), REGULAR), b""),
    (Entry("ümläut".encode(), REGULAR), b""),
    (Entry(b"raw\xff\xfe", REGULAR), b""),
    (Entry(b"link", SYMLINK, 0o777, link=b"t" * 300), b""),
    (Entry(b"hard", HARD_LINK, link=b"d/file"), b""),
    (Entry(b"null", CHARACTER, device=(1, 3)), b""),
    (Entry(b"ids", REGULAR, uid=2**32 - 2, gid=3_000_000), b""),
    (Entry(b"old", REGULAR, mtime_ns=-5 * 10**9), b""),
    (Entry(b"attributes", REGULAR, xattrs={b"user.a": b"=\n\0", b"security.capability": bytes(range(20))}), b""),
    (Entry(b"sparse", REGULAR, size=1 << 33, sparse=[(0, 3), (1 << 32, 4)]), b"abcdefg"),
    (Entry(b"hole", REGULAR, size=1 << 20, sparse=[]), b""),
)


def written() -> bytes:
    out = io.BytesIO()
    tar = TarWriter(out.write)
    for entry, data in ENTRIES:
        tar.add(entry, [data] if data else [])
    tar.finish()
    return out.getvalue()


def test_wherrys_reader_gives_back_what_was_written() -> None:
    reader = Reader(io.BytesIO(written()))
    found = [(entry, b"".join(reader.data())) for entry in reader]
    assert found == list(ENTRIES)


@pytest.mark.parametrize("mode", ["r:", "r|"])
def test_tarfile_reads_it(mode: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(written()), mode=mode, encoding="utf-8", errors="surrogateescape") as archive:  # type: ignore[call-overload]
        found = {member.name.encode("utf-8", "surrogateescape"): member for member in archive}
    for entry, _ in ENTRIES:
        member = found[entry.name.rstrip(b"/")]
        assert (member.type, member.mode, member.uid, member.gid, member.size) == (
            entry.kind,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
        )
        assert member.linkname.encode() == entry.link
