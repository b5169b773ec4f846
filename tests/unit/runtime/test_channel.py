"""The socket between runtime and child."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import StartError
from wherry.runtime import channel

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(step=st.text(alphabet="abcdefghijklmnop_", min_size=1, max_size=60), message=text, number=st.integers(0, 200))
def test_a_failure_arrives_as_it_was(step: str, message: str, number: int) -> None:
    encoded = channel.failure(StartError(step, message, number))
    assert encoded[:1] == channel.FAILED
    error = channel.read_failure(encoded)
    assert (error.step, error.message, error.errno) == (step, message, number)


def test_a_message_too_long_is_cut_and_still_fits() -> None:
    ours, theirs = channel.pair()
    channel.send(theirs, channel.failure(StartError("x", "é" * 100_000, 1)))
    message, _ = channel.receive(ours)
    assert channel.read_failure(message).message.startswith("ééé")
    ours.close()
    theirs.close()


def test_a_descriptor_travels_with_a_message_and_is_not_inherited() -> None:
    ours, theirs = channel.pair()
    read, write = os.pipe()
    channel.send(theirs, channel.CONSOLE, read)
    message, fd = channel.receive(ours)
    assert message == channel.CONSOLE
    assert fd is not None
    os.write(write, b"through")
    assert os.read(fd, 10) == b"through"
    assert not os.get_inheritable(fd)
    for number in (read, write, fd):
        os.close(number)
    ours.close()
    theirs.close()


def test_the_end_is_an_empty_message_and_sending_then_is_an_error() -> None:
    ours, theirs = channel.pair()
    theirs.close()
    assert channel.receive(ours) == (b"", None)
    with pytest.raises(BrokenPipeError):
        channel.send(ours, channel.GO)
    ours.close()
