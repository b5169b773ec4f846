"""Decompression of layers and archives as a stream with bounded memory: gzip (isal), zstd, bzip2, xz, or none.

Runs in unpack workers and in threads, never on the event loop. How a stream is compressed is read from its first bytes, as Docker does; what
the media type says does not count.

**Invariants**: no more than a few MiB are held, however well the input compresses; a stream that is damaged, or is followed by something that
is not its own format, is DataLoss. So is one that ends in the middle, except for zstd, whose reader does not tell: a layer's diff id or the tar
inside shows that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from wherry.errors import DataLoss

CHUNK = 256 << 10
"""How much is read of the input at once, and about how much a decompressor gives at once."""

ZSTD_WINDOW = 128 << 20
"""The largest zstd window that is accepted (`zstd --long`)."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, at least one unless the stream has ended (then b"")."""
        ...


def detect(head: bytes) -> str:
    """ "gzip", "zstd", "bzip2", "xz" or "" (none known) of a stream that begins with `head` (10 bytes are enough)."""
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head[:3] == b"BZh":
        return "bzip2"
    if head[:6] == b"\xfd7zXZ\x00":
        return "xz"
    return ""


def decompressed(source: Source) -> Source:
    """What `source` holds, decompressed."""
    head = b""
    while len(head) < 10:
        more = source.read(10 - len(head))
        if not more:
            break
        head += more
    replayed = _Replayed(head, source)
    match detect(head):
        case "gzip":
            return _Members(replayed, _gzip, b"\x1f\x8b", "gzip")
        case "bzip2":
            return _Members(replayed, _bzip2, b"BZh", "bzip2")
        case "xz":
            return _Members(replayed, _xz, b"\xfd7zXZ\x00", "xz")
        case "zstd":
            return _Zstd(replayed)
    return replayed


class _Replayed:
    """A stream whose first bytes have been read already."""

    def __init__(self, head: bytes, source: Source) -> None:
        self._head = head
        self._source = source

    def read(self, size: int) -> bytes:
        if self._head:
            taken, self._head = self._head[:size], self._head[size:]
            return taken
        return self._source.read(size)


class _Gzip:
    """isal's decompressor with the interface of bz2's and lzma's: input that was not used yet is kept inside."""

    def __init__(self) -> None:
        from isal import isal_zlib

        self._inflater: Any = isal_zlib.decompressobj(wbits=31)
        self._error: Any = isal_zlib.error
        self._tail = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inflater.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            out: bytes = self._inflater.decompress(self._tail + data if self._tail else data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from None
        self._tail = self._inflater.unconsumed_tail
        # A full answer may mean that more is waiting inside, even with no input left over.
        self.needs_input = not self._tail and len(out) < max_length
        return out


def _gzip() -> Any:
    return _Gzip()


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return _Xz(lzma.LZMADecompressor(memlimit=256 << 20), lzma.LZMAError)


class _Xz:
    """lzma's decompressor, with its errors as ValueError."""

    def __init__(self, inflater: Any, error: type[Exception]) -> None:
        self._inflater = inflater
        self._error = error

    @property
    def eof(self) -> bool:
        return bool(self._inflater.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._inflater.needs_input)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inflater.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return bytes(self._inflater.decompress(data, max_length))
        except self._error as error:
            raise ValueError(str(error)) from None


class _Members:
    """One or more compressed members after each other; zero bytes may pad the end."""

    def __init__(self, source: Source, make: Callable[[], Any], magic: bytes, name: str) -> None:
        self._source = source
        self._make = make
        self._magic = magic
        self._name = name
        self._inflater: Any = make()
        self._done = False

    def read(self, size: int) -> bytes:
        while not self._done:
            inflater = self._inflater
            if inflater.eof:
                self._next_member(inflater.unused_data)
                continue
            data = b""
            if inflater.needs_input:
                data = self._source.read(CHUNK)
                if not data:
                    raise DataLoss(f"{self._name}: the stream ends in the middle")
            out = self._decompress(data, size)
            if out:
                return out
        return b""

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            out: bytes = self._inflater.decompress(data, max(size, CHUNK))
        except (ValueError, OSError, EOFError) as error:
            raise DataLoss(f"{self._name}: {error}") from None
        return out

    def _next_member(self, rest: bytes) -> None:
        while len(rest) < len(self._magic):
            more = self._source.read(CHUNK)
            if not more:
                break
            rest += more
        if rest.startswith(self._magic):
            self._inflater = self._make()
            self._source = _Replayed(rest, self._source)
            return
        while rest:
            if rest.strip(b"\0"):
                raise DataLoss(f"{self._name}: something that is not {self._name} follows the stream")
            rest = self._source.read(CHUNK)
        self._done = True


class _Zstd:
    def __init__(self, source: Source) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        decompressor: Any = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._reader = decompressor.stream_reader(_Readable(source), read_size=CHUNK, read_across_frames=True)

    def read(self, size: int) -> bytes:
        try:
            out: bytes = self._reader.read(max(size, CHUNK))
        except self._error as error:
            raise DataLoss(f"zstd: {error}") from None
        return out


class _Readable:
    """A source as zstandard's reader wants it: `read` without an argument works too."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, size: int = CHUNK) -> bytes:
        return self._source.read(size)
