"""Detach keys in what is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.streams import DetachFilter

KEYS = b"\x10\x11"


@pytest.mark.parametrize(
    ("typed", "sent", "detached"),
    [
        ([b"plain"], b"plain", False),
        ([b"ab\x10\x11cd"], b"ab", True),
        ([b"ab\x10", b"\x11"], b"ab", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
        ([b"\x10x\x10\x11"], b"\x10x", True),
    ],
)
def test_the_keys_detach_and_their_beginning_is_held_back(typed: list[bytes], sent: bytes, detached: bool) -> None:
    keys = DetachFilter(KEYS)
    out = b""
    complete = False
    for piece in typed:
        more, complete = keys.feed(piece)
        out += more
    assert (out, complete) == (sent, detached)


@given(st.lists(st.binary(max_size=5)))
def test_what_is_not_the_keys_arrives_unchanged(pieces: list[bytes]) -> None:
    keys = DetachFilter(KEYS)
    whole, out = b"".join(pieces), b""
    for piece in pieces:
        more, complete = keys.feed(piece)
        out += more
        if complete:
            assert KEYS in whole
            assert whole.startswith(out)
            return
    assert KEYS not in whole
    held = whole[len(out) :]
    assert whole == out + held
    assert held in (b"", KEYS[:1])
