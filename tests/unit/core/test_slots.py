"""Slots: never more than the limit, which may change; nobody is forgotten."""

from __future__ import annotations

import asyncio

from wherry.core.slots import Slots


class Workers:
    def __init__(self, slots: Slots, count: int) -> None:
        self.running = 0
        self.gate = asyncio.Semaphore(0)
        self.tasks = [asyncio.ensure_future(self._work(slots)) for _ in range(count)]

    async def _work(self, slots: Slots) -> None:
        async with slots:
            self.running += 1
            try:
                await self.gate.acquire()
            finally:
                self.running -= 1

    async def settled(self) -> int:
        for _ in range(20):
            await asyncio.sleep(0)
        return self.running


def test_the_limit_holds_and_can_be_changed() -> None:
    async def scenario() -> None:
        slots = Slots(2)
        workers = Workers(slots, 10)
        assert await workers.settled() == 2 and slots.locked()
        slots.limit = 4
        assert await workers.settled() == 4
        slots.limit = 1
        workers.gate.release()
        assert await workers.settled() == 3  # what has begun goes on
        for left in (2, 1, 1):
            workers.gate.release()
            assert await workers.settled() == left
        slots.limit = 0
        assert await workers.settled() == 6 and not slots.locked()
        for _ in range(10):
            workers.gate.release()
        await asyncio.gather(*workers.tasks)

    asyncio.run(scenario())


def test_a_turn_that_is_cancelled_goes_to_the_next() -> None:
    async def scenario() -> None:
        slots = Slots(1)
        workers = Workers(slots, 4)
        await workers.settled()
        workers.tasks[1].cancel()  # while it waits
        workers.gate.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        workers.tasks[2].cancel()  # when its turn has come, or just before
        assert await workers.settled() == 1
        for _ in range(4):
            workers.gate.release()
        await asyncio.wait(workers.tasks)
        assert not slots.locked()

    asyncio.run(scenario())
