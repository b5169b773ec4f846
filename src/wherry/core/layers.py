"""Layers that are being made at this moment: each once, whoever wants it, several at the same time.

In wherryd, on the event loop. A pull and a load that need the same layer share the work; when the one that does it fails or is cancelled, the other
does it itself. Nothing here is permanent: `snapshots.commit` is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wherry.core.cancellation import to_the_end
from wherry.core.snapshots import Snapshots, Staged
from wherry.core.unpack import Unpacked
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import ChainId, Digest

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A layer that an image needs. `make` unpacks it into the staged directory and tells the sink how far it is; `exists` is called instead
    when it is there already."""

    chain_id: ChainId
    parent: ChainId | None
    diff_id: Digest
    make: Callable[[Staged, ProgressSink], Awaitable[Unpacked]]
    progress: ProgressSink
    exists: Callable[[], None] = lambda: None


@dataclass(slots=True, eq=False)
class _Job:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    staged: Staged | None = None
    listeners: list[ProgressSink] = field(default_factory=list)

    def tell(self, message: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener(message)


class LayerWork:
    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._jobs: dict[ChainId, _Job] = {}

    @asynccontextmanager
    async def unpacked(self, wanted: Sequence[Wanted]) -> AsyncIterator[list[Staged]]:
        """All those layers, unpacked; those that exist already are left out. What was not committed at the end is thrown away, unless
        somebody else uses it. The caller holds leases on them. Raises the first error; then all other work for this caller has ended."""
        jobs = {layer.chain_id: self._jobs.setdefault(layer.chain_id, _Job()) for layer in wanted}
        for job in jobs.values():
            job.users += 1
        try:
            made = await all_of([self._make(jobs[layer.chain_id], layer) for layer in wanted])
            yield [staged for staged in made if staged is not None]
        finally:
            unwanted = []
            for chain_id, job in jobs.items():
                job.users -= 1
                if not job.users:
                    del self._jobs[chain_id]
                    if job.staged is not None:
                        unwanted.append(job.staged)
            await to_the_end(self._abandon(unwanted))

    async def _abandon(self, unwanted: Sequence[Staged]) -> None:
        for staged in unwanted:
            await self._snapshots.abandon(staged)

    async def _make(self, job: _Job, layer: Wanted) -> Staged | None:
        job.listeners.append(layer.progress)
        try:
            async with job.lock:
                if self._snapshots.layer(layer.chain_id) is not None:
                    layer.exists()
                    return None
                if job.staged is None:
                    staged = self._snapshots.stage(layer.chain_id, layer.parent, layer.diff_id)
                    try:
                        staged.unpacked = await layer.make(staged, job.tell)
                    except BaseException:
                        await self._snapshots.abandon(staged)
                        raise
                    job.staged = staged
                return job.staged
        finally:
            job.listeners.remove(layer.progress)


async def all_of(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Runs all at the same time. → their results in order. The first error cancels the rest and is raised as it is, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


async def both(first: Coroutine[Any, Any, T], second: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """As `all_of`, for two of different kinds."""
    try:
        async with asyncio.TaskGroup() as group:
            one, other = group.create_task(first), group.create_task(second)
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return one.result(), other.result()


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
