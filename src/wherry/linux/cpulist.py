"""Lists of CPUs and memory nodes, "0-3,7", as the kernel and the OCI configuration write them.

Pure. A list becomes one integer, bit n for member n; `words` lays it out as the kernel's masks. Source: cpuset(7),
"List format".
"""

from __future__ import annotations

import struct

from wherry.errors import InvalidArgument

HIGHEST = 64 * 1024
"""No machine has more, and a mask is no way to ask for memory."""


def parse(text: str, field: str) -> int:
    """The mask of a list; 0 for an empty one. Blanks and surplus commas are allowed, as the kernel does.

    InvalidArgument naming `field` for anything that is no list.
    """
    mask = 0
    for part in text.split(","):
        part = part.strip()
        if not part:
            continue
        first, dash, last = part.partition("-")
        low, high = _number(first, part, field), _number(last if dash else first, part, field)
        if low > high:
            raise InvalidArgument(f"{field}: {part!r} is not a range")
        mask |= (1 << (high + 1)) - (1 << low)
    return mask


def _number(text: str, part: str, field: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= HIGHEST):
        raise InvalidArgument(f"{field}: {part!r} is not a number or a range of numbers up to {HIGHEST}")
    return int(text)


def words(mask: int) -> bytes:
    """The mask as an array of C longs, for sched_setaffinity(2) and set_mempolicy(2)."""
    count = max(1, (mask.bit_length() + 63) // 64)
    return struct.pack(f"{count}Q", *(mask >> 64 * index & 0xFFFFFFFFFFFFFFFF for index in range(count)))
