"""stdcopy: Docker's framing of a process's output streams on one connection (attach, exec, logs without a terminal).

A frame is one byte of stream number, three zero bytes, the payload's length as 32-bit big-endian, the payload. Stream 0 is stdin (echoed,
never sent by engines), 1 stdout, 2 stderr, 3 an error of the engine itself, after which the stream ends.
Source: Docker Engine API, "Attach to a container", stream format.

Used by the shim (encoding), the API and the clients. **Invariants**: the decoder holds at most one header; payloads are handed on as they
arrive, so the length that a peer claims costs no memory. Deliberately absent: I/O.
"""

from __future__ import annotations

from wherry.errors import DataLoss

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
HEADER_SIZE = 8


def header(stream: int, length: int) -> bytes:
    """The eight bytes that go before a payload of `length` bytes (< 2**32)."""
    return bytes((stream, 0, 0, 0)) + length.to_bytes(4, "big")


def frame(stream: int, payload: bytes) -> bytes:
    """One whole frame."""
    return header(stream, len(payload)) + payload


class Decoder:
    """Bytes in, `(stream, piece of payload)` out; a frame may come out in several pieces, in order, none of them empty."""

    __slots__ = ("_header", "_remaining", "_stream")

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._remaining = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the input may end here: no frame is incomplete."""
        return not self._header and not self._remaining

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The pieces that `data` completes. DataLoss when the bytes are not stdcopy."""
        pieces: list[tuple[int, bytes]] = []
        position = 0
        while position < len(data):
            if self._remaining:
                piece = data[position : position + self._remaining]
                position += len(piece)
                self._remaining -= len(piece)
                pieces.append((self._stream, piece))
                continue
            missing = HEADER_SIZE - len(self._header)
            self._header += data[position : position + missing]
            position += missing
            if len(self._header) == HEADER_SIZE:
                if self._header[0] > SYSTEM_ERROR or self._header[1:4] != b"\0\0\0":
                    raise DataLoss(f"unrecognized input header: {self._header[0]}")
                self._stream = self._header[0]
                self._remaining = int.from_bytes(self._header[4:], "big")
                self._header = b""
        return pieces
