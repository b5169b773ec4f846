"""The write side of the json-file log driver: what Docker writes, byte for byte.

One JSON object a line: `{"log":"…\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}`. A line of output above 16 KiB becomes
several records, of which only the last ends in `\\n`; so does a last line without an end. Bytes that are not UTF-8 become U+FFFD, one each.
Source: what dockerd writes (the unit test's table was taken from a real one), Go's RFC3339Nano (no trailing zeros).

Runs in the shim. **Invariants**: output is written before the shim reads more of it, so a full disk or a slow one holds the container up
and memory stays bounded; a write is whole records, so that a reader never meets half a line for longer than the write; all records of one
call bear one time, the records of one cut line the time of its first. Rotation happens between records, when the file has reached
`max_size`, as Docker does it. When the disk is full the records are lost and counted, and the file ends with a whole line.

Deliberately absent: reading, other drivers, compression of rotated files.
"""

from __future__ import annotations

import os
from _codecs import register_error
from time import gmtime, time_ns

from wherry.errors import SyscallError
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINE = 16 * 1024
"""Docker's limit on one record's bytes of output."""

STREAM_NAMES = (b"stdin", b"stdout", b"stderr")

_ESCAPES = [(b"\\", b"\\\\"), (b'"', b'\\"'), (b"\r", b"\\r")]
_ESCAPES += [(bytes([code]), b"\\u%04x" % code) for code in (*range(32), *b"<>&") if code not in b"\r\n"]
_LINE_SEPARATORS = [("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029")]
_DENSE = 8
"""Of this many bytes one is NUL or not UTF-8: binary output."""
_LARGE = 4096


def _escape_surrogates(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "\\ufffd" * (error.end - error.start), error.end


register_error("wherry.log", _escape_surrogates)


def encode_lines(lines: bytes, between: bytes) -> bytes:
    """`lines` as the inside of JSON strings, each newline replaced by `between`.

    Escapes what Go's encoder does: controls, quote, backslash, `<`, `>`, `&`, U+2028, U+2029, and each byte that is not UTF-8 as U+FFFD.
    Much binary output takes a faster way, whose escapes differ from Go's (an U+FFFD may stand for several bytes) though never in validity.
    """
    large = len(lines) > _LARGE
    if large and lines.count(b"\0") * _DENSE > len(lines):
        return _encode_binary(lines, between)
    text = lines
    for plain, escaped in _ESCAPES:
        if plain in text:
            text = text.replace(plain, escaped)
    if not text.isascii():
        if b"\xe2\x80" in text:
            for plain, escaped in _LINE_SEPARATORS:
                text = text.replace(plain, escaped)
        try:
            text.decode()
        except UnicodeDecodeError:
            decoded = text.decode("utf-8", "surrogateescape")
            if large and (len(text) - len(decoded.encode("utf-8", "ignore"))) * _DENSE > len(text):
                return _encode_binary(lines, between)
            text = decoded.encode("utf-8", "wherry.log")
    return text.replace(b"\n", between)


def _encode_binary(lines: bytes, between: bytes) -> bytes:
    text = lines.decode("utf-8", "replace")
    return between.join([fastjson.quote(line)[1:-1].encode() for line in text.split("\n")])


class _Stream:
    """What is known of one stream's unfinished line."""

    __slots__ = ("cut_at", "name", "pending")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.pending = b""
        self.cut_at = b""
        """The time of the line's first record, when part of the line has been written already."""


class JsonFileLog:
    """`JsonFileLog(path, max_size=None, max_file=1, attrs={…})`: opens (creates, 0640) the file for appending.

    `max_size`: bytes, None for no rotation. `max_file`: how many files there may be, this one counted. `attrs`: Docker's `attrs` member,
    from the log options labels, env and tag.
    """

    def __init__(
        self, path: str, *, max_size: int | None = None, max_file: int = 1, attrs: dict[str, str] | None = None
    ) -> None:
        self._path = path
        self._max_size = max_size
        self._max_file = max_file
        self._middle = b',"attrs":' + fastjson.dumps(attrs) if attrs else b""
        self._streams = [_Stream(name) for name in STREAM_NAMES]
        self._second = -1
        self._second_text = b""
        self.lost = 0
        """How many records could not be written."""
        self._fd, self._size = self._open()

    def _open(self) -> tuple[int, int]:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise SyscallError("open", self._path, error.errno or 0) from error
        return fd, os.fstat(fd).st_size

    def write(self, stream: int, data: bytes) -> None:
        """Output of stream 1 or 2, as it was read. An unfinished line is kept until its end, or 16 KiB of it, arrives."""
        state = self._streams[stream]
        if state.pending:
            data = state.pending + data
        now = self._now()
        end = data.rfind(b"\n") + 1
        parts = list(self._records(state, data, end, now)) if end else []
        rest = data[end:]
        while len(rest) >= MAX_LINE:
            parts.append(self._cut(state, rest[:MAX_LINE], now))
            rest = rest[MAX_LINE:]
        state.pending = rest
        if parts:
            self._append(b"".join(parts))

    def finish(self) -> None:
        """Writes the unfinished lines: the streams have ended. The file stays open for `close`."""
        parts = [self._cut(state, state.pending, self._now()) for state in self._streams if state.pending]
        for state in self._streams:
            state.pending = state.cut_at = b""
        if parts:
            self._append(b"".join(parts))

    def close(self) -> None:
        os.close(self._fd)

    def _records(self, state: _Stream, data: bytes, end: int, now: bytes) -> Iterator[bytes]:
        """`data[:end]`, whole lines, as records. Runs of lines that need no cutting go through in one piece."""
        start = 0
        if state.cut_at:
            stop = data.index(b"\n") + 1
            if stop <= MAX_LINE:
                yield self._lines(state, data[:stop], state.cut_at)
                state.cut_at = b""
                start = stop
        while start < end:
            if end - start <= MAX_LINE:
                yield self._lines(state, data[start:end], now)
                return
            stop = start
            while (found := data.rfind(b"\n", stop, min(stop + MAX_LINE, end))) >= 0:
                stop = found + 1
            if stop > start:
                yield self._lines(state, data[start:stop], now)
            if stop == end:
                return
            line_end = data.index(b"\n", stop) + 1
            while line_end - stop > MAX_LINE:
                yield self._cut(state, data[stop : stop + MAX_LINE], now)
                stop += MAX_LINE
            yield self._lines(state, data[stop:line_end], state.cut_at or now)
            state.cut_at = b""
            start = line_end

    def _lines(self, state: _Stream, lines: bytes, time: bytes) -> bytes:
        """Records of `lines`, which end in a newline."""
        tail = self._tail(state, time)
        return b'{"log":"' + encode_lines(lines[:-1], b"\\n" + tail + b'{"log":"') + b"\\n" + tail

    def _cut(self, state: _Stream, piece: bytes, now: bytes) -> bytes:
        """The record of a piece of a line whose end has not come."""
        state.cut_at = state.cut_at or now
        return b'{"log":"' + encode_lines(piece, b"") + self._tail(state, state.cut_at)

    def _tail(self, state: _Stream, time: bytes) -> bytes:
        return b'","stream":"' + state.name + b'"' + self._middle + b',"time":"' + time + b'"}\n'

    def _now(self) -> bytes:
        second, nanoseconds = divmod(time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = b"%04d-%02d-%02dT%02d:%02d:%02d" % gmtime(second)[:6]
        if not nanoseconds:
            return self._second_text + b"Z"
        return (b"%s.%09d" % (self._second_text, nanoseconds)).rstrip(b"0") + b"Z"

    def _append(self, records: bytes) -> None:
        """Writes whole records, rotating between them where the file has reached its size."""
        if self._max_size is None:
            self._write(records)
            return
        while records:
            if self._size >= self._max_size:
                self._rotate()
            room = max(self._max_size - self._size, 1)
            end = len(records) if len(records) <= room else records.index(b"\n", room - 1) + 1
            self._write(records[:end])
            records = records[end:]

    def _write(self, records: bytes) -> None:
        view = memoryview(records)
        start = self._size
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            # The disk is full or has failed. What was written of the last record is taken back, so that what comes later is readable.
            done = records[: self._size - start]
            self.lost += records.count(b"\n") - done.count(b"\n")
            self._size = start + done.rfind(b"\n") + 1
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                pass  # then a reader meets one damaged line

    def _rotate(self) -> None:
        """`path` → `path.1` → … `path.<max_file - 1>`, and a new file. A failure is left for later: the log goes on where it is."""
        try:
            if self._max_file > 1:
                for number in range(self._max_file - 1, 1, -1):
                    if os.access(f"{self._path}.{number - 1}", os.F_OK):
                        os.rename(f"{self._path}.{number - 1}", f"{self._path}.{number}")
                os.rename(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
            fd, size = self._open()
        except (OSError, SyscallError):
            self._size = 0
            return
        os.close(self._fd)
        self._fd, self._size = fd, size
