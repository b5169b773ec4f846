"""What must not be left in the middle when whoever asked for it goes away. In wherryd, on the event loop.

Cancelling an `await asyncio.to_thread(…)` stops the waiting, not the thread: a clean-up would go on behind the back of who waits for it, and a change
that is on disk already would be missing in memory. Every change of the stores therefore goes through here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """→ what `work` answers, or raises what it raises. A cancellation is raised once `work` has ended, in place of its answer."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # looked at, so that the loop does not complain of it
    raise cancelled


async def thread_to_the_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but the thread has ended when this returns, also when it is cancelled."""
    return await to_the_end(asyncio.to_thread(function, *args, **kwargs))


def completed(change: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorates a coroutine function: each call runs to its end (`to_the_end`)."""

    @functools.wraps(change)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_the_end(change(*args, **kwargs))

    return run
