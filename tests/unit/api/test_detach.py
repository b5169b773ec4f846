"""The detach keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api.detach import DEFAULT, DetachScanner, parse_keys
from wherry.errors import InvalidArgument


def test_keys_are_written_as_docker_writes_them() -> None:
    assert parse_keys("") == DEFAULT == parse_keys("ctrl-p,ctrl-q")
    assert parse_keys("a,ctrl-@,ctrl-\\,ctrl-z") == b"a\x00\x1c\x1a"


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-p,", "é", "x" * 10000])
def test_malformed_keys_are_invalid(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        parse_keys(text)


def test_a_sequence_broken_off_is_delivered() -> None:
    scanner = DetachScanner(DEFAULT)
    assert scanner.feed(b"a\x10") == (b"a", False)
    assert scanner.feed(b"b") == (b"\x10b", False)
    assert scanner.feed(b"\x10\x10") == (b"\x10", False)
    assert scanner.feed(b"\x11rest") == (b"", True)


def test_what_is_held_at_the_end_of_input_is_not_lost() -> None:
    scanner = DetachScanner(DEFAULT)
    scanner.feed(b"x\x10")
    assert scanner.flush() == b"\x10"
    assert scanner.flush() == b""


@given(st.lists(st.binary(max_size=6)), st.binary(min_size=1, max_size=3))
def test_the_cut_into_pieces_does_not_matter(pieces: list[bytes], keys: bytes) -> None:
    whole = b"".join(pieces)
    scanner = DetachScanner(keys)
    delivered = b""
    detached = False
    for piece in pieces:
        passed, detached = scanner.feed(piece)
        delivered += passed
        if detached:
            break
    if not detached:
        delivered += scanner.flush()
    position = whole.find(keys)
    assert detached == (position >= 0)
    assert delivered == (whole[:position] if detached else whole)
