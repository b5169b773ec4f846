"""The shim's event loop: who is called, when, and what a defect costs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from wherry.shim import loop as module
from wherry.shim.loop import GONE, READ, WRITE, Loop


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of a second for each look at the clock: no deadline is passed by because the machine had no time for us."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "monotonic", lambda: next(ticks) / 1000)


def run(loop: Loop) -> list[Exception]:
    """Runs it for at most ten seconds: what handlers raised."""
    faults: list[Exception] = []
    loop.call_later(10, loop.stop)
    loop.run(faults.append)
    return faults


def test_a_handler_is_called_with_what_has_happened(pipe: tuple[int, int]) -> None:
    loop, seen = Loop(), []

    def on_read(events: int) -> None:
        seen.append((events & READ, events & GONE, os.read(pipe[0], 10)))
        if seen[-1][1]:
            loop.stop()
        else:
            os.close(pipe[1])

    loop.watch(pipe[0], READ, on_read)
    os.write(pipe[1], b"x")
    assert run(loop) == []
    assert [(bool(read), bool(gone), data) for read, gone, data in seen] == [(True, False, b"x"), (False, True, b"")]


def test_what_is_forgotten_or_not_asked_for_is_not_reported(pipe: tuple[int, int], clock: None) -> None:
    loop, seen = Loop(), []
    loop.watch(pipe[0], READ, lambda events: seen.append("read"))
    loop.watch(pipe[1], WRITE, lambda events: (seen.append("write"), loop.change(pipe[1], 0)))  # type: ignore[func-returns-value]
    os.write(pipe[1], b"x")
    loop.forget(pipe[0])
    loop.forget(pipe[0])
    loop.call_later(0.02, loop.stop)
    assert run(loop) == []
    assert seen == ["write"]


def test_deadlines_come_in_order_and_not_when_cancelled(clock: None) -> None:
    loop, seen = Loop(), []
    loop.call_later(0.03, lambda: seen.append("second"))
    loop.call_later(0.01, lambda: seen.append("first"))
    loop.call_later(0.02, lambda: seen.append("never")).cancel()
    loop.call_later(0.04, loop.stop)
    assert run(loop) == []
    assert seen == ["first", "second"]


def test_deadlines_that_have_passed_together_come_in_order() -> None:
    loop, seen = Loop(), []
    for seconds in (-1, -3, -2, -3):
        loop.call_later(seconds, lambda seconds=seconds: seen.append(seconds))  # type: ignore[misc]
    loop.call_later(0, loop.stop)
    assert run(loop) == []
    assert seen == [-3, -3, -2, -1]


def test_a_deadline_may_set_the_next() -> None:
    loop = Loop()
    loop.call_later(0, lambda: loop.call_later(0, loop.stop))
    assert run(loop) == []


def test_what_has_happened_is_told_before_a_deadline_that_has_passed_meanwhile(pipe: tuple[int, int]) -> None:
    """Else a client that has read what it was sent would be cut off because we were not let run."""
    loop, seen = Loop(), []

    def on_read(events: int) -> None:
        late.cancel()
        loop.stop()

    late = loop.call_later(0, lambda: seen.append("late"))
    loop.watch(pipe[0], READ, on_read)
    os.write(pipe[1], b"x")
    assert (run(loop), seen) == ([], [])


def test_a_handler_that_raises_loses_its_descriptor_and_the_rest_goes_on(pipe: tuple[int, int], clock: None) -> None:
    loop = Loop()

    def broken(events: int) -> None:
        raise ValueError("a defect")

    loop.watch(pipe[0], READ, broken)
    os.write(pipe[1], b"x")
    loop.call_later(0.01, lambda: 1 // 0)
    loop.call_later(0.02, loop.stop)
    assert [type(fault) for fault in run(loop)] == [ValueError, ZeroDivisionError]
