"""The signals that ask for the end while `wherry-runc` makes a container: heeded where it waits, and when it is done.

An exception out of a handler at any other place could come between a step and the note of how it is undone. So `heed` has the signals noted,
and they are raised, as KeyboardInterrupt with the signal's number, in `waiting` and by `check`. What waits for another program (a hook, the
container's init, who listens at a socket) does it in `waiting`; everything else ends by itself. Where nobody has called `heed`, as in the shim,
this does nothing.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, which would import enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], None]

_SIGNALS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)


class _Waiting:
    """`with waiting:` around a call that waits and has nothing to lose. Not nested."""

    __slots__ = ("active", "noted")

    def __init__(self) -> None:
        self.active = False
        self.noted = 0

    def __enter__(self) -> None:
        self.active = True  # first: a signal before `check` is noted, one after it raises
        check()

    def __exit__(self, *_: object) -> None:
        self.active = False


waiting = _Waiting()


def heed() -> None:
    """From now on. Signals that the caller ignores stay ignored."""
    for number in _SIGNALS:
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, note)


def check() -> None:
    """KeyboardInterrupt if a signal has come."""
    number, waiting.noted = waiting.noted, 0
    if number:
        waiting.active = False
        raise KeyboardInterrupt(number)


def disregard() -> None:
    """From now on, so that what is being undone is undone to its end."""
    for number in _SIGNALS:
        if _signal.getsignal(number) is note:
            _signal.signal(number, lambda *_: None)  # not SIG_IGN, which hooks would inherit
    waiting.noted = 0


def hand_over(handler: Handler) -> None:
    """The signals go to `handler`, and so does one that has come already."""
    for number in _SIGNALS:
        if _signal.getsignal(number) is note:
            _signal.signal(number, handler)
    if number := waiting.noted:
        waiting.noted = 0
        handler(number, None)


def note(number: int, _frame: FrameType | None) -> None:
    """The handler."""
    waiting.noted = waiting.noted or number
    if waiting.active:
        check()
