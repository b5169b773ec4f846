"""Frames and descriptors between wherryd and the shims survive any cutting; what is not of the protocol is refused."""

from __future__ import annotations

import array
import itertools
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import errors
from wherry.wire import shim

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.text().filter(lambda key: key != "fds"), values, max_size=4)


@given(st.lists(st.tuples(bodies, st.integers(0, 4)), max_size=6), st.lists(st.integers(0, 5000)))
def test_messages_come_out_whole_with_their_descriptors(
    sent: list[tuple[dict[str, Any], int]], cuts: list[int]
) -> None:
    wire, first_bytes, next_fd = b"", {}, 100
    expected = []
    for body, count in sent:
        message = {**body, "fds": count} if count else dict(body)
        fds = list(range(next_fd, next_fd + count))
        next_fd += count
        first_bytes[len(wire)] = fds
        wire += shim.encode(message)
        expected.append((message, fds))
    # A piece never holds two messages' descriptors: the kernel ends a read where descriptors were attached.
    starts = [at for at, fds in first_bytes.items() if fds]
    bounds = sorted({0, len(wire), *starts, *(min(cut, len(wire)) for cut in cuts)})
    decoder, received = shim.Decoder(), []
    for start, end in itertools.pairwise(bounds):
        decoder.receive(wire[start:end], first_bytes.get(start, []))
        while (frame := decoder.next_frame()) is not None:
            received.append(frame)
    assert received == expected
    assert decoder.abandon() == []


def test_a_kernel_socket_delivers_descriptors_with_their_message() -> None:
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs:
        ours.sendall(shim.encode({"n": 1}))
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))]
        ours.sendmsg([shim.encode({"n": 2, "fds": 1})], attached)
        ours.sendall(shim.encode({"n": 3}))
        os.close(writing)
        decoder, received = shim.Decoder(), []
        while len(received) < 3:
            data, fds, _, _ = socket.recv_fds(theirs, 7, shim.MAX_FDS)
            decoder.receive(data, fds)
            while (frame := decoder.next_frame()) is not None:
                received.append(frame)
    assert [message["n"] for message, _ in received] == [1, 2, 3]
    assert [len(fds) for _, fds in received] == [0, 1, 0]
    os.write(received[1][1][0], b"x")
    assert os.read(reading, 1) == b"x"
    os.close(received[1][1][0])
    os.close(reading)


@pytest.mark.parametrize(
    "wire, fds",
    [
        ((shim.MAX_FRAME + 1).to_bytes(4, "big"), []),
        (shim.frame(b"[]"), []),
        (shim.frame(b"{"), []),
        (shim.frame(b""), []),
        (shim.frame(b"\xff\xfe"), []),
        (shim.frame(b"[" * 100_000), []),
        (shim.encode({"fds": -1}), []),
        (shim.encode({"fds": shim.MAX_FDS + 1}), []),
        (shim.encode({"fds": True}), []),
        (shim.encode({"fds": "1"}), [7]),
        (shim.encode({"fds": 1}), []),
        (shim.encode({"fds": 1}), [7, 8]),
        (shim.encode({}), [7]),
        (b"\0", list(range(shim.MAX_FDS + 1))),
    ],
)
def test_what_is_not_of_the_protocol_is_refused_and_no_descriptor_is_lost(wire: bytes, fds: list[int]) -> None:
    decoder = shim.Decoder()
    decoder.receive(wire, fds)
    with pytest.raises(shim.FrameError):
        decoder.next_frame()
    assert decoder.abandon() == fds


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_frame_error(data: bytes) -> None:
    decoder = shim.Decoder()
    decoder.receive(data)
    try:
        while decoder.next_frame() is not None:
            pass
    except shim.FrameError:
        pass


def test_a_message_above_the_limit_is_not_sent() -> None:
    with pytest.raises(shim.FrameError):
        shim.encode({"a": "x" * shim.MAX_FRAME})


@pytest.mark.parametrize(
    "kind",
    [errors.NotFound, errors.InvalidArgument, errors.Conflict, errors.FailedPrecondition, errors.NotImplemented, errors.Internal],
)  # fmt: skip
def test_an_error_keeps_its_kind_and_text_on_the_way(kind: type[errors.WherryError]) -> None:
    received = shim.error_from_message(shim.error_to_message(kind("no such thing")))
    assert type(received) is kind
    assert str(received) == "no such thing"


def test_a_start_error_keeps_its_step_and_errno() -> None:
    received = shim.error_from_message(shim.error_to_message(errors.StartError("exec", "exec: nope", 2)))
    assert isinstance(received, errors.StartError)
    assert (received.step, received.message, received.errno) == ("exec", "exec: nope", 2)


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(2, "gone"), errors.SyscallError("mount", "overlay", 22), KeyError("k")]
)
def test_an_exception_of_no_kind_is_internal(error: Exception) -> None:
    message = shim.error_to_message(error)
    assert message["kind"] == "Internal"
    shim.encode(message)


@given(values)
def test_a_malformed_error_is_still_an_error(value: object) -> None:
    assert isinstance(shim.error_from_message(value), errors.WherryError)
