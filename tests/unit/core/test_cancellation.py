import asyncio
import threading

import pytest

from wherry.core.cancellation import completed, thread_to_the_end, to_the_end


def test_what_was_begun_ends_before_the_cancellation_is_raised() -> None:
    may_go_on, steps = threading.Event(), []

    def work() -> None:
        may_go_on.wait()
        steps.append("done")

    async def run() -> None:
        task = asyncio.ensure_future(thread_to_the_end(work))
        for _ in range(3):  # also when it is cancelled again and again
            await asyncio.sleep(0)
            task.cancel()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["done"]

    asyncio.run(run())


def test_answers_and_errors_go_through() -> None:
    @completed
    async def halve(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    async def run() -> None:
        assert await halve(4) == 2
        with pytest.raises(ValueError, match="3"):
            await halve(3)

    asyncio.run(run())


def test_a_work_that_cancels_itself_is_cancelled() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            await to_the_end(give_up())

    asyncio.run(run())
