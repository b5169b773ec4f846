"""Frames of stdout and stderr as a client reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.client.stdcopy import STDERR, STDOUT, Demultiplexer, demultiplex
from wherry.errors import DataLoss, WherryError
from wherry.wire.stdcopy import frame


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=50))), st.integers(1, 7))
def test_streams_arrive_whole_however_they_are_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(frame(number, payload) for number, payload in frames)
    pieces = [data[index : index + size] for index in range(0, len(data), size)]
    received = list(demultiplex(pieces))
    for number in (STDOUT, STDERR):
        assert b"".join(payload for at, payload in received if at == number) == b"".join(
            payload for at, payload in frames if at == number
        )


def test_an_echoed_stdin_is_shown_as_output() -> None:
    assert Demultiplexer().feed(frame(0, b"x")) == [(STDOUT, b"x")]


def test_an_error_frame_is_raised_in_the_engines_words() -> None:
    demultiplexer = Demultiplexer()
    data = frame(3, b"disk is gone")
    assert demultiplexer.feed(data[:12]) == []
    with pytest.raises(WherryError, match="error from daemon in stream: disk is gone"):
        demultiplexer.feed(data[12:])


def test_bytes_that_are_no_frames_are_damage() -> None:
    with pytest.raises(DataLoss):
        Demultiplexer().feed(b"HTTP/1.1 ")
