"""The frames that carry stdout and stderr in one stream: a header {stream, 0, 0, 0, length big-endian 32}, then that many bytes. Reading side.

Payloads are handed on as they arrive, so that a frame of any length needs no memory. Stream 0 (stdin) is written as stdout, as Docker's clients do;
stream 3 is an error of the engine in mid-stream.
"""

from __future__ import annotations

from wherry.errors import DataLoss, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STDOUT, STDERR, SYSTEM_ERROR = 1, 2, 3


class Demultiplexer:
    """Sans I/O: `feed` bytes, get (stream, payload) pairs."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = STDOUT
        self._left = 0
        self._error = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What `data` completes. DataLoss on a header that is none; WherryError with the engine's words for an error frame."""
        found: list[tuple[int, bytes]] = []
        position = 0
        end = len(data)
        while position < end:
            if self._left == 0:
                header = self._header + data[position : position + 8 - len(self._header)]
                position += len(header) - len(self._header)
                if len(header) < 8:
                    self._header = header
                    break
                self._header = b""
                if header[0] > SYSTEM_ERROR:
                    raise DataLoss(f"unrecognized stream: {header[0]}")
                self._stream = header[0] or STDOUT
                self._left = int.from_bytes(header[4:8], "big")
                continue
            payload = data[position : position + self._left]
            position += len(payload)
            self._left -= len(payload)
            if self._stream == SYSTEM_ERROR:
                self._error += payload[: 65536 - len(self._error)]
                if self._left == 0:
                    raise WherryError(f"error from daemon in stream: {self._error.decode('utf-8', 'replace')}")
                continue
            found.append((self._stream, payload))
        return found


def demultiplex(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The (stream, payload) pairs of a stream of frames."""
    demultiplexer = Demultiplexer()
    for piece in pieces:
        yield from demultiplexer.feed(piece)
