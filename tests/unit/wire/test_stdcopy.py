"""stdcopy frames survive any cutting of the byte stream."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import DataLoss
from wherry.wire import stdcopy

frames = st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=200)), max_size=20)


def _joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    joined: list[tuple[int, bytes]] = []
    for stream, data in pieces:
        if joined and joined[-1][0] == stream:
            joined[-1] = (stream, joined[-1][1] + data)
        elif data:
            joined.append((stream, data))
    return joined


@given(frames, st.lists(st.integers(0, 4000)))
def test_a_stream_cut_anywhere_decodes_to_the_same_output(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    wire = b"".join(stdcopy.frame(stream, payload) for stream, payload in sent)
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    decoder = stdcopy.Decoder()
    received = [piece for start, end in itertools.pairwise(bounds) for piece in decoder.feed(wire[start:end])]
    assert _joined(received) == _joined(sent)
    assert decoder.at_boundary


@given(st.binary(min_size=1, max_size=50), st.data())
def test_a_stream_that_ends_within_a_frame_is_noticed(payload: bytes, data: st.DataObject) -> None:
    wire = stdcopy.frame(stdcopy.STDOUT, payload)
    decoder = stdcopy.Decoder()
    decoder.feed(wire[: data.draw(st.integers(1, len(wire) - 1))])
    assert not decoder.at_boundary


def test_the_header_is_that_of_the_engine_api() -> None:
    assert stdcopy.frame(stdcopy.STDERR, b"ab") == b"\x02\x00\x00\x00\x00\x00\x00\x02ab"
    assert stdcopy.header(stdcopy.STDOUT, 0x01020304) == b"\x01\x00\x00\x00\x01\x02\x03\x04"


def test_a_payload_is_handed_on_before_the_frame_is_complete() -> None:
    decoder = stdcopy.Decoder()
    assert decoder.feed(stdcopy.header(stdcopy.STDOUT, 2**32 - 1) + b"first") == [(stdcopy.STDOUT, b"first")]


@pytest.mark.parametrize("wire", [b"\x04\0\0\0\0\0\0\0", b"\x01\x01\0\0\0\0\0\0", b"HTTP/1.1 200 OK"])
def test_bytes_that_are_not_stdcopy_are_refused(wire: bytes) -> None:
    with pytest.raises(DataLoss):
        stdcopy.Decoder().feed(wire)
