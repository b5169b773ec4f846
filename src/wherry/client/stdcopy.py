"""Streams of stdout and stderr as a client reads them: stdcopy frames taken apart, the engine's own errors raised."""

from __future__ import annotations

from wherry.errors import WherryError
from wherry.wire.stdcopy import STDERR, STDOUT, SYSTEM_ERROR, Decoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["STDERR", "STDOUT", "Demultiplexer", "demultiplex"]

_ERROR_LIMIT = 1 << 16


class Demultiplexer:
    """`feed` bytes, get (STDOUT or STDERR, payload) pairs. Sans I/O."""

    __slots__ = ("_decoder", "_error")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._error = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What `data` completes. DataLoss for bytes that are no frames; WherryError with the engine's words after its error frame."""
        found = self._decoder.feed(data)
        if all(number in (STDOUT, STDERR) for number, _ in found):
            return found
        streams = [(number or STDOUT, payload) for number, payload in found if number != SYSTEM_ERROR]
        self._error += b"".join(payload for number, payload in found if number == SYSTEM_ERROR)
        if self._error and (self._decoder.at_boundary or len(self._error) > _ERROR_LIMIT):
            text = self._error[:_ERROR_LIMIT].decode("utf-8", "replace")
            raise WherryError(f"error from daemon in stream: {text}")
        return streams


def demultiplex(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The (stream, payload) pairs of a stream of frames."""
    demultiplexer = Demultiplexer()
    for piece in pieces:
        yield from demultiplexer.feed(piece)
