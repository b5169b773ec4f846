"""Writes tars, as a stream: ustar headers, and pax headers for what does not fit into them.

Runs in threads of wherryd. Sparse files are written in GNU's sparse format 1.0, which GNU tar, libarchive, Go's and Python's readers know.
Sources: POSIX.1-2001 pax; GNU tar manual, "Storing Sparse Files".

Deliberately absent: user and group names (numbers are what counts in an image), and times finer than a second, as in Docker's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wherry.core.tar import BLOCK, HARD_LINK, SYMLINK, Entry

_MAX_OCTAL_ID = 0o7777777
_MAX_OCTAL_SIZE = 0o77777777777
_PAX = b"x"


class TarWriter:
    """`write` takes the pieces of the tar in their order."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def add(self, entry: Entry, data: Iterable[bytes] = ()) -> None:
        """`data`: exactly what the entry stores: `size` bytes of a file, or only the pieces that its `sparse` lists."""
        pax: dict[bytes, bytes] = {}
        stored, name = entry.size, entry.name
        sparse_map = b""
        if entry.sparse is not None:
            sparse_map = _sparse_map(entry.sparse)
            stored = len(sparse_map) + sum(length for _, length in entry.sparse)
            pax |= {
                b"GNU.sparse.major": b"1",
                b"GNU.sparse.minor": b"0",
                b"GNU.sparse.name": name,
                b"GNU.sparse.realsize": b"%d" % entry.size,
            }
            name = b"GNUSparseFile.0/" + name.rpartition(b"/")[2][:80]
        if len(name) > 100:
            pax[b"path"] = name
        if len(entry.link) > 100:
            pax[b"linkpath"] = entry.link
        seconds = entry.mtime_ns // 1_000_000_000
        if not 0 <= seconds <= _MAX_OCTAL_SIZE:
            pax[b"mtime"] = b"%d" % seconds
        for key, number, limit in (
            (b"uid", entry.uid, _MAX_OCTAL_ID),
            (b"gid", entry.gid, _MAX_OCTAL_ID),
            (b"size", stored, _MAX_OCTAL_SIZE),
        ):
            if number > limit:
                pax[key] = b"%d" % number
        pax |= {b"SCHILY.xattr." + key: value for key, value in entry.xattrs.items()}
        if pax:
            records = b"".join(_record(key, value) for key, value in pax.items())
            extension = Entry(b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80], _PAX, size=len(records))
            self._write(_header(extension, extension.name, len(records)) + records + bytes(-len(records) % BLOCK))
        self._write(_header(entry, name, stored) + sparse_map)
        for piece in data:
            self._write(piece)
        if stored % BLOCK:
            self._write(bytes(-stored % BLOCK))

    def finish(self) -> None:
        """The two empty blocks that end an archive."""
        self._write(bytes(2 * BLOCK))


def _header(entry: Entry, name: bytes, stored: int) -> bytes:
    major, minor = entry.device
    seconds = entry.mtime_ns // 1_000_000_000
    link = entry.link if entry.kind in (HARD_LINK, SYMLINK) else b""
    block = bytearray(BLOCK)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108] = b"%07o\0" % entry.mode
    block[108:116] = b"%07o\0" % (entry.uid if entry.uid <= _MAX_OCTAL_ID else 0)
    block[116:124] = b"%07o\0" % (entry.gid if entry.gid <= _MAX_OCTAL_ID else 0)
    block[124:136] = b"%011o\0" % (stored if stored <= _MAX_OCTAL_SIZE else 0)
    block[136:148] = b"%011o\0" % (seconds if 0 <= seconds <= _MAX_OCTAL_SIZE else 0)
    block[148:156] = b" " * 8
    block[156:157] = entry.kind
    block[157:257] = link[:100].ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[329:337] = b"%07o\0" % major
    block[337:345] = b"%07o\0" % minor
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(key: bytes, value: bytes) -> bytes:
    """ "LENGTH KEY=VALUE\\n", where LENGTH counts itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%s" % (length, rest)


def _sparse_map(pieces: list[tuple[int, int]]) -> bytes:
    numbers = [len(pieces), *(number for piece in pieces for number in piece)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + bytes(-len(text) % BLOCK)
