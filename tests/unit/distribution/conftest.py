"""A clock of the tests' own: nobody waits, and what would have been waited for is written down."""

from __future__ import annotations

import pytest

from wherry.distribution import connection

START = 1_000_000_000.0


class Clock:
    """`waits`: seconds, in their order."""

    def __init__(self) -> None:
        self.time = START
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    async def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(connection, "pause", clock.pause)
    monkeypatch.setattr(connection, "now", clock.now)
    return clock
