"""The tar reader: the formats that tools write, and headers that lie."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.core.tar import DIRECTORY, HARD_LINK, MAX_EXTENSION, REGULAR, SYMLINK, Entry, Reader
from wherry.errors import DataLoss, InvalidArgument


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    reader = Reader(io.BytesIO(data))
    return [(entry, b"".join(reader.data())) for entry in reader]


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(name: bytes = b"f", *, kind: bytes = b"0", size: bytes = b"00000000000\0", **fields: bytes) -> bytes:
    """A ustar header with a right checksum, whatever its fields say."""
    block = bytearray(512)
    values = {
        0: name,
        100: b"0000644\0",
        108: b"0000000\0",
        116: b"0000000\0",
        124: size,
        136: b"00000000000\0",
        156: kind,
    }
    places = {"uid": 108, "mtime": 136, "link": 157, "magic": 257, "prefix": 345, "tail": 386}
    values |= {257: b"ustar\x0000"} | {places[key]: value for key, value in fields.items()}
    for start, value in values.items():
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    return header(kind=b"x", size=b"%011o\0" % len(records)) + records + bytes(-len(records) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_gives_the_same_entries(format: int) -> None:
    file, directory, link = (
        tarfile.TarInfo("usr/bin/tool"),
        tarfile.TarInfo("usr/bin"),
        tarfile.TarInfo("usr/bin/alias"),
    )
    file.mode, file.uid, file.gid, file.mtime = 0o4755, 1000, 50, 1700000000
    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
    link.type, link.linkname = tarfile.SYMTYPE, "tool"
    entries = read(tar((directory, b""), (file, b"x" * 1000), (link, b""), format=format))
    assert [(e.name, e.kind) for e, _ in entries] == [
        (b"usr/bin/", DIRECTORY),
        (b"usr/bin/tool", REGULAR),
        (b"usr/bin/alias", SYMLINK),
    ]
    tool, data = entries[1]
    assert (tool.mode, tool.uid, tool.gid, tool.mtime_ns, tool.size) == (0o4755, 1000, 50, 1700000000 * 10**9, 1000)
    assert data == b"x" * 1000
    assert entries[2][0].link == b"tool"


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_links_arrive_whole(format: int) -> None:
    name = "/".join(["d" * 100] * 20) + "/file"
    file, link = tarfile.TarInfo(name), tarfile.TarInfo("l" * 150)
    link.type, link.linkname = tarfile.LNKTYPE, name
    (first, data), (second, _) = read(tar((file, b"content"), (link, b""), format=format))
    assert (first.name.decode(), data) == (name, b"content")
    assert (second.kind, second.link.decode()) == (HARD_LINK, name)


def test_what_does_not_fit_into_octal_is_read_from_base_256_and_pax() -> None:
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("f")
        info.uid, info.gid, info.mtime = 4_000_000_000, 3_000_000, 1 << 34
        [(entry, _)] = read(tar((info, b""), format=format))
        assert (entry.uid, entry.gid, entry.mtime_ns) == (4_000_000_000, 3_000_000, (1 << 34) * 10**9)
    info = tarfile.TarInfo("f")
    info.mtime = -3
    [(entry, _)] = read(tar((info, b""), format=tarfile.GNU_FORMAT))
    assert entry.mtime_ns == -3 * 10**9


def test_pax_times_have_nanoseconds_and_attributes_may_hold_any_byte() -> None:
    value = bytes(range(256)) + b"=\n12 a=b\n"
    records = record(b"mtime", b"1700000000.123456789123") + record(b"SCHILY.xattr.user.any", value)
    [(entry, _)] = read(pax(records) + header() + bytes(1024))
    assert entry.mtime_ns == 1700000000_123456789
    assert entry.xattrs == {b"user.any": value}


def test_a_name_that_ends_in_a_slash_is_a_directory_in_old_archives() -> None:
    [(entry, _)] = read(header(b"old/", kind=b"\0") + bytes(1024))
    assert entry.kind == DIRECTORY


def test_global_headers_are_skipped() -> None:
    records = record(b"path", b"other") + record(b"comment", b"0123")
    data = header(kind=b"g", size=b"%011o\0" % len(records)) + records + bytes(-len(records) % 512) + header(b"f")
    [(entry, _)] = read(data + bytes(1024))
    assert entry.name == b"f"


@pytest.mark.skipif(not Path("/bin/tar").exists(), reason="GNU tar")
@pytest.mark.parametrize(
    "options", [["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))]
)
@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_sparse_files_of_every_format_keep_their_content(tmp_path: Path, options: list[str], pieces: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for n in range(pieces):
            file.seek(n * 300_000 + 4096)
            file.write(bytes([n + 1]) * 5000)
        file.truncate(pieces * 300_000 + 123)
    archive = subprocess.run(
        ["/bin/tar", *options, "--sparse", "-C", str(tmp_path), "-cf", "-", "sparse"], capture_output=True, check=True
    ).stdout
    assert len(archive) < path.stat().st_size // 2
    [(entry, stored)] = read(archive)
    assert (entry.name, entry.size) == (b"sparse", path.stat().st_size)
    content = bytearray(entry.size)
    position = 0
    assert entry.sparse is not None
    for offset, length in entry.sparse:
        content[offset : offset + length] = stored[position : position + length]
        position += length
    assert bytes(content) == path.read_bytes()


# --- headers that lie


def hostile() -> dict[str, bytes]:
    big = b"%011o\0" % (MAX_EXTENSION + 1)
    sparse = [
        record(b"GNU.sparse.major", b"1"),
        record(b"GNU.sparse.minor", b"0"),
        record(b"GNU.sparse.realsize", b"9"),
    ]
    endless_map = pax(b"".join(sparse)) + header(size=b"00000002000\0") + b"1" * 1024
    too_many = pax(b"".join(sparse)) + header(size=b"00000002000\0") + b"99999999\n".ljust(1024, b"0")
    old = b"%011o\0" * 2 % (100, 5) + b"%011o\0" * 2 % (50, 5)
    return {
        "wrong checksum": header()[:148] + b"000000\0 " + header()[156:],
        "a number that is none": header(size=b"0000000000x\0"),
        "a negative size": header(size=b"\xff" * 12),
        "an impossible size": header(size=b"\x80" + b"\x7f" * 11),
        "a pax header without end": header(kind=b"x", size=big),
        "a long name without end": header(kind=b"L", size=big),
        "a pax record that is longer than the header": pax(b"99 path=x\n"),
        "a pax record without a length": pax(b"path=x\n"),
        "a pax record with a length of zero": pax(b"0 path=x\n"),
        "a pax size that is no number": pax(record(b"size", b"-1")) + header(),
        "a pax uid with a sign": pax(record(b"uid", b"+5")) + header(),
        "a pax time of a thousand digits": pax(record(b"mtime", b"1" * 1000)) + header(),
        "a name with a NUL": pax(record(b"path", b"a\0b")) + header(),
        "a name beyond PATH_MAX": pax(record(b"path", b"a/" * 3000)) + header(),
        "a link to nothing": header(kind=b"2"),
        "a kind that there is not": header(kind=b"Z"),
        "a sparse map whose number has no end": endless_map,
        "a sparse map of too many pieces": too_many,
        "a sparse map that goes backwards": header(kind=b"S", size=b"00000000012\0", magic=b"ustar  \0", tail=old),
        "a sparse map with half a pair": pax(record(b"GNU.sparse.map", b"1,2,3") + record(b"GNU.sparse.size", b"9")) + header(),
        "a sparse map beyond the size": pax(record(b"GNU.sparse.map", b"5,9") + record(b"GNU.sparse.size", b"9"))
        + header(size=b"00000000011\0"),
        "a sparse directory": pax(record(b"GNU.sparse.map", b"0,1") + record(b"GNU.sparse.size", b"9")) + header(kind=b"5"),
    }  # fmt: skip


@pytest.mark.parametrize("what", hostile())
def test_a_header_that_lies_is_an_error(what: str) -> None:
    with pytest.raises((InvalidArgument, DataLoss)):
        read(hostile()[what] + bytes(2048))


@pytest.mark.parametrize("cut", [100, 512, 700, 1500])
def test_an_archive_that_ends_in_the_middle_is_data_loss(cut: int) -> None:
    data = tar((tarfile.TarInfo("f" * 120), b"x" * 2000))
    with pytest.raises(DataLoss):
        read(data[:cut])


def test_an_archive_without_its_two_last_blocks_is_whole() -> None:
    assert len(read(header() + header(b"g"))) == 2


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_an_error_or_an_archive(data: bytes) -> None:
    with contextlib.suppress(InvalidArgument, DataLoss):
        read(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_header_with_a_right_checksum_is_an_error_or_an_archive(data: st.DataObject) -> None:
    block = bytearray(header(b"name", kind=data.draw(st.sampled_from([b"0", b"x", b"L", b"S", b"2", b"5"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, 511))
        block[position] = data.draw(st.integers(0, 255))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with contextlib.suppress(InvalidArgument, DataLoss):
        read(bytes(block) + data.draw(st.binary(max_size=2000)) + bytes(1024))
