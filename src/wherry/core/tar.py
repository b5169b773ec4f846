"""A tar reader for hostile input: ustar, pax and GNU, as a stream, with every size bounded.

Runs in unpack workers and in threads. Names, link targets and extended attributes are bytes: a tar does not say which encoding they have.
Sources: POSIX.1-2001 pax; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files" (formats old GNU, 0.0, 0.1, 1.0).

**Invariants**: memory is bounded whatever the headers say (extension headers and sparse maps have limits); what is malformed is
InvalidArgument, what ends too early DataLoss; an entry's data is read by `Reader.data`, and what was not read is skipped before the next entry.
Deliberately absent: writing (nothing here makes tars), seeking, and global pax headers (Docker does not apply them either).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from wherry.core.compression import Source
from wherry.errors import DataLoss, InvalidArgument

BLOCK = 512
MAX_EXTENSION = 1 << 20  # bytes of one pax header, GNU long name, or sparse map
MAX_SPARSE = 1 << 16  # pieces of data in one sparse file
MAX_NAME = 4096  # PATH_MAX
MAX_SIZE = 1 << 62
CHUNK = 1 << 20

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZERO = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."


@dataclass(slots=True)
class Entry:
    """One member. `kind` is one of the constants above. `size` is that of the file; its stored data may be shorter if it is `sparse`:
    then it lists (offset, length) of the pieces that the data holds, ascending; the rest is zeros."""

    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None


@dataclass(slots=True)
class _Extended:
    """What extension headers say of the entry that follows them."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[bytes, bytes]] = field(default_factory=list)
    name: bytes | None = None
    link: bytes | None = None


class Reader:
    """Iterate for the entries; `data()` gives the pieces of the present one's stored data."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._position = 0
        self._data_left = 0
        self._padding = 0

    # --- bytes

    @property
    def buffered(self) -> int:
        """How much of what was read of the source was not used yet."""
        return len(self._buffer) - self._position

    def _exactly(self, size: int) -> bytes:
        end = self._position + size
        if end <= len(self._buffer):
            piece = self._buffer[self._position : end]
            self._position = end
            return piece
        pieces = [self._buffer[self._position :]]
        missing = size - len(pieces[0])
        self._buffer, self._position = b"", 0
        while missing:
            more = self._source.read(max(missing, CHUNK))
            if not more:
                raise DataLoss("tar: unexpected end of the archive")
            if len(more) > missing:
                self._buffer, self._position = more, missing
                more = more[:missing]
            pieces.append(more)
            missing -= len(more)
        return b"".join(pieces)

    def _some(self, size: int) -> bytes:
        """At least one byte, at most `size`."""
        if self._position >= len(self._buffer):
            self._buffer, self._position = self._source.read(CHUNK), 0
            if not self._buffer:
                raise DataLoss("tar: unexpected end of the archive")
        piece = self._buffer[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(size))

    def _block(self) -> bytes:
        """The next header block; b"" at the end of the stream."""
        if self._position >= len(self._buffer):
            self._buffer, self._position = self._source.read(CHUNK), 0
            if not self._buffer:
                return b""
        return self._exactly(BLOCK)

    def drain(self) -> None:
        """Reads what follows the archive to the end of the stream (padding, which a digest of the stream counts)."""
        self._buffer, self._position = b"", 0
        while self._source.read(CHUNK):
            pass

    # --- entries

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self.next()) is not None:
            yield entry

    def next(self) -> Entry | None:
        if self._data_left or self._padding:
            self._skip(self._data_left + self._padding)
            self._data_left = self._padding = 0
        extended = _Extended()
        while True:
            block = self._block()
            if not block or block == _ZERO:
                return None
            fields = _HEADER.unpack(block)
            if _number(fields[6]) != _checksum(block):
                _check_signed(block, fields[6])
            kind = fields[7]
            match kind:
                case b"x" | b"X":
                    extended.pax, extended.sparse = _parse_pax(self._extension(fields[4]))
                case b"g":
                    self._extension(fields[4])
                case b"L":
                    extended.name = self._extension(fields[4]).rstrip(b"\0")
                case b"K":
                    extended.link = self._extension(fields[4]).rstrip(b"\0")
                case _:
                    return self._entry(block, fields, extended)

    def _extension(self, size_field: bytes) -> bytes:
        size = _number(size_field)
        if not 0 <= size <= MAX_EXTENSION:
            raise InvalidArgument(f"tar: an extension header of {size} bytes")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        return data

    def _entry(self, block: bytes, fields: tuple[bytes, ...], extended: _Extended) -> Entry:
        name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix = fields
        name = name.partition(b"\0")[0]
        if magic == b"ustar\x0000" and prefix[0]:
            name = prefix.partition(b"\0")[0] + b"/" + name
        entry = Entry(
            extended.name if extended.name is not None else name,
            kind,
            _number(mode) & 0o7777,
            _number(uid),
            _number(gid),
            _number(size),
            _number(mtime) * 1_000_000_000,
            extended.link if extended.link is not None else link.partition(b"\0")[0],
        )
        pax = extended.pax
        if pax:
            _apply_pax(entry, pax)
        if kind in (b"\0", b"7", b"0"):
            entry.kind = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        elif kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (_number(major), _number(minor))
        elif kind not in (HARD_LINK, SYMLINK, DIRECTORY, FIFO, b"S"):
            raise InvalidArgument(f"tar: unhandled type {kind!r} of {shown(entry.name)}")
        if not 0 <= entry.size <= MAX_SIZE:
            raise InvalidArgument(f"tar: {shown(entry.name)} has an impossible size")
        has_data = entry.kind == REGULAR or kind == b"S"
        self._data_left = entry.size if has_data else 0
        self._padding = -self._data_left % BLOCK
        if not has_data:
            entry.size = 0
        if kind == b"S":
            self._old_gnu_sparse(entry, block)
        elif extended.sparse or (pax and any(key.startswith(b"GNU.sparse.") for key in pax)):
            self._pax_sparse(entry, pax, extended.sparse)
        if not entry.name or len(entry.name) > MAX_NAME or len(entry.link) > MAX_NAME:
            raise InvalidArgument(f"tar: the name {shown(entry.name)} is empty or too long")
        if b"\0" in entry.name or b"\0" in entry.link:
            raise InvalidArgument(f"tar: the name {shown(entry.name)} contains a NUL")
        if kind in (HARD_LINK, SYMLINK) and not entry.link:
            raise InvalidArgument(f"tar: {shown(entry.name)} links to nothing")
        return entry

    def data(self) -> Iterator[bytes]:
        """The stored data of the present entry, in pieces of at most a MiB."""
        while self._data_left:
            piece = self._some(self._data_left)
            self._data_left -= len(piece)
            yield piece

    def whole(self, size: int) -> bytes:
        """The stored data of an entry known to be that short."""
        self._data_left -= size
        return self._exactly(size)

    # --- sparse files

    def _old_gnu_sparse(self, entry: Entry, block: bytes) -> None:
        pieces = _sparse_structs(block[386:482])
        more = block[482]
        real = _number(block[483:495])
        while more:
            block = self._exactly(BLOCK)
            pieces += _sparse_structs(block[:504])
            more = block[504]
            if len(pieces) > MAX_SPARSE:
                raise InvalidArgument(f"tar: {shown(entry.name)} is in too many pieces")
        entry.kind = REGULAR
        self._set_sparse(entry, pieces, real)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], records: list[tuple[bytes, bytes]]) -> None:
        if entry.kind != REGULAR:
            raise InvalidArgument(f"tar: {shown(entry.name)} is sparse, but not a file")
        if b"GNU.sparse.name" in pax:
            entry.name = pax[b"GNU.sparse.name"]
        version = (pax.get(b"GNU.sparse.major"), pax.get(b"GNU.sparse.minor"))
        if version == (b"1", b"0"):
            pieces = self._sparse_1_0(entry)
        elif b"GNU.sparse.map" in pax:
            numbers = [_decimal(item) for item in pax[b"GNU.sparse.map"].split(b",")] if pax[b"GNU.sparse.map"] else []
            pieces = _pairs(numbers)
        elif version in ((None, None), (b"0", b"0"), (b"0", b"1")):
            pieces = _pairs([_decimal(value) for _, value in records])
        else:
            raise InvalidArgument(f"tar: {shown(entry.name)} has an unknown sparse format")
        real = pax.get(b"GNU.sparse.realsize", pax.get(b"GNU.sparse.size"))
        if real is None:
            raise InvalidArgument(f"tar: {shown(entry.name)} is sparse and does not say how large it is")
        self._set_sparse(entry, pieces, _decimal(real))

    def _sparse_1_0(self, entry: Entry) -> list[tuple[int, int]]:
        """The map stands before the data: decimal numbers in lines (their count first), padded to a block."""
        text = b""
        numbers: list[int] = []
        wanted = 1
        consumed = 0
        while len(numbers) < wanted:
            line, newline, rest = text.partition(b"\n")
            if newline:
                numbers.append(_decimal(line))
                text = rest
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
                    if numbers[0] > MAX_SPARSE:
                        raise InvalidArgument(f"tar: {shown(entry.name)} is in too many pieces")
                continue
            if consumed + BLOCK > self._data_left or len(text) > 64:
                raise InvalidArgument(f"tar: the sparse map of {shown(entry.name)} is malformed")
            text += self._exactly(BLOCK)
            consumed += BLOCK
        self._data_left -= consumed
        return _pairs(numbers[1:])

    def _set_sparse(self, entry: Entry, pieces: list[tuple[int, int]], real: int) -> None:
        end = stored = 0
        for offset, length in pieces:
            if offset < end or length < 0:
                raise InvalidArgument(f"tar: the sparse map of {shown(entry.name)} is out of order")
            end = offset + length
            stored += length
        if end > real or stored != self._data_left or not 0 <= real <= MAX_SIZE:
            raise InvalidArgument(f"tar: the sparse map of {shown(entry.name)} does not fit its size")
        entry.sparse = [piece for piece in pieces if piece[1]]
        entry.size = real


# --- fields --------------------------------------------------------------------------------------------------------------------------


def _checksum(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * 32


def _check_signed(block: bytes, stored: bytes) -> None:
    """Some old tars summed signed bytes."""
    signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * 32
    if _number(stored) != signed:
        raise InvalidArgument("tar: invalid header (wrong checksum)")


def _number(text: bytes) -> int:
    """Octal text, or GNU's base-256 for what does not fit."""
    if text[0] & 0x80:
        value = int.from_bytes(text, "big") & ((1 << (8 * len(text) - 1)) - 1)
        return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value
    digits = text.strip(b" \0")
    if not digits.isdigit():
        digits = digits.partition(b"\0")[0].rstrip(b" ") or b"0"
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass  # an 8 or a 9
    raise InvalidArgument("tar: invalid header (a number is malformed)")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise InvalidArgument("tar: a number in an extended header is malformed")
    return int(text)


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE:
        raise InvalidArgument("tar: a sparse map is malformed")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _sparse_structs(data: bytes) -> list[tuple[int, int]]:
    pieces = []
    for start in range(0, len(data), 24):
        if not data[start]:
            break
        pieces.append((_number(data[start : start + 12]), _number(data[start + 12 : start + 24])))
    return pieces


def _parse_pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """→ the records (the last of a key counts), and those of sparse format 0.0, whose keys repeat, in their order."""
    records: dict[bytes, bytes] = {}
    repeated: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 12)
        length_text = data[position:space] if space > 0 else b""
        if not length_text.isdigit():
            raise InvalidArgument("tar: a pax record is malformed")
        end = position + int(length_text)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not equals or not key or b"\0" in key:
            raise InvalidArgument("tar: a pax record is malformed")
        position = end
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(repeated) % 2 == 0):
                raise InvalidArgument("tar: a sparse map is malformed")
            repeated.append((key, value))
            if len(repeated) > 2 * MAX_SPARSE:
                raise InvalidArgument("tar: a file is in too many pieces")
        else:
            records[key] = value
    return records, repeated


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
            continue
        if not value:
            continue  # an empty value takes a global header's back, and those are not applied
        match key:
            case b"path":
                entry.name = value
            case b"linkpath":
                entry.link = value
            case b"size":
                entry.size = _decimal(value)
            case b"uid":
                entry.uid = _decimal(value)
            case b"gid":
                entry.gid = _decimal(value)
            case b"mtime":
                entry.mtime_ns = _time(value)


def _time(text: bytes) -> int:
    """Nanoseconds of "1234567890.123456789" (or negative). Digits beyond nanoseconds are dropped."""
    sign = -1 if text.startswith(b"-") else 1
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if not seconds.isdigit() or (fraction and not fraction.isdigit()) or len(text) > 64:
        raise InvalidArgument("tar: a time is malformed")
    return sign * (int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")))


def shown(name: bytes) -> str:
    """A name as it may stand in a message: bounded, printable."""
    text = name[:200].decode("utf-8", "backslashreplace")
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) + '"'
