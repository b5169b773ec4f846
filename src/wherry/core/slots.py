"""How many of one kind of work may go on at once; the number can be changed meanwhile. On the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Slots:
    """`async with slots:` waits for its turn. `limit` 0: no limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """What has begun goes on; what waits begins if it may now."""
        self._limit = limit
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def locked(self) -> bool:
        return 0 < self._limit <= self._taken

    async def __aenter__(self) -> None:
        while self.locked():
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():  # its turn had come: somebody else's now
                    self._wake()
                raise
            finally:
                self._waiting.remove(waiter)
        self._taken += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taken -= 1
        self._wake()

    def _wake(self) -> None:
        waiter = next((waiter for waiter in self._waiting if not waiter.done()), None)
        if waiter is not None and not self.locked():
            waiter.set_result(None)
