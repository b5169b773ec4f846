"""Detach keys: the key sequence by which a user leaves an attached terminal without ending the process.

Sans-io: bytes in, bytes out. Source: Docker's syntax, a comma-separated list of single characters or `ctrl-x` with x of `a`-`z` or `@[\\]^_`.
Bytes that began like the sequence and then went on otherwise are delivered late, not lost.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

DEFAULT = b"\x10\x11"
"""ctrl-p, ctrl-q"""

_CONTROL = {f"ctrl-{chr(code + 96)}": code for code in range(1, 27)} | {
    "ctrl-@": 0,
    "ctrl-[": 27,
    "ctrl-\\": 28,
    "ctrl-]": 29,
    "ctrl-^": 30,
    "ctrl-_": 31,
}


def parse_keys(text: str) -> bytes:
    """The sequence as bytes, the default one for ""; InvalidArgument."""
    if not text:
        return DEFAULT
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys.append(ord(key))
        elif key in _CONTROL:
            keys.append(_CONTROL[key])
        else:
            raise InvalidArgument(f"Invalid detach keys ({text[:128]}) provided")
    return bytes(keys)


class DetachScanner:
    """`feed` gives the bytes to pass on, and whether the sequence was complete (what follows it is dropped)."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        data = self._held + data
        self._held = b""
        found = data.find(self._keys)
        if found >= 0:
            return data[:found], True
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length], False
        return data, False

    def flush(self) -> bytes:
        """The bytes still held, when no more will come."""
        held, self._held = self._held, b""
        return held
