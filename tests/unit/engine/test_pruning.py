"""What all prunes share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from wherry.engine import pruning
from wherry.errors import Conflict
from wherry.spec.calls import Json, Names


class Pruned:
    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    @pruning.one_at_a_time
    async def prune(self, filters: Mapping[str, Names]) -> Json:
        await self.may_end.wait()
        if filters:
            raise ValueError
        return {"pruned": True}


def test_of_each_kind_there_is_one_prune_at_a_time() -> None:
    async def scenario() -> None:
        images, volumes = Pruned(), Pruned()
        async with asyncio.TaskGroup() as group:
            first, other = group.create_task(images.prune({})), group.create_task(volumes.prune({}))
            await asyncio.sleep(0)
            with pytest.raises(Conflict, match=r"^a prune operation is already running$"):
                await images.prune({})
            images.may_end.set()
            volumes.may_end.set()
        assert first.result() == other.result() == {"pruned": True}
        assert await images.prune({}) == {"pruned": True}

    asyncio.run(scenario())


def test_a_prune_that_fails_or_is_given_up_lets_the_next_one_begin() -> None:
    async def scenario() -> None:
        images = Pruned()
        task = asyncio.create_task(images.prune({}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        images.may_end.set()
        with pytest.raises(ValueError):
            await images.prune({"until": []})
        assert await images.prune({}) == {"pruned": True}

    asyncio.run(scenario())
