"""Between blocking code in a thread and streams on the event loop: a thread reads a request (`in_thread`), or writes an answer (`produced`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from wherry.core.cancellation import to_the_end
from wherry.core.compression import Source
from wherry.errors import Unavailable

T = TypeVar("T")

PIECE = 1 << 20
"""About how much `produced` gives at once."""
STREAMS = 128
_threads = ThreadPoolExecutor(STREAMS, thread_name_prefix="stream")
"""Of their own, since they wait for clients, who may stop for ever: whatever else is done in threads is not to wait for these."""


class _Bridge:
    """`read` runs in the thread; it waits for the loop to fetch the next piece."""

    def __init__(self, pieces: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._pieces = pieces
        self._loop = loop
        self._rest = b""
        self._pending: Future[bytes] | None = None
        self._cancelled = False

    def read(self, size: int) -> bytes:
        while not self._rest:
            pending = self._pending = asyncio.run_coroutine_threadsafe(self._next(), self._loop)
            if self._cancelled:
                pending.cancel()
            try:
                piece = pending.result()
            except CancelledError:
                raise Unavailable("the stream was cancelled") from None
            self._rest = piece
            if not piece:
                return b""
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    async def _next(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return bytes(piece)
        return b""

    def cancel(self) -> None:
        self._cancelled = True
        if self._pending is not None:
            self._pending.cancel()


async def in_thread(function: Callable[[Source], T], pieces: AsyncIterator[bytes]) -> T:
    """`function(source)` in a thread, where `source` gives what `pieces` yields.

    When this is cancelled, the source fails, and the thread's end is awaited.
    """
    loop = asyncio.get_running_loop()
    bridge = _Bridge(pieces, loop)
    job = _threads.submit(function, bridge)
    work = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        bridge.cancel()
        if not job.cancel():
            await to_the_end(_ended(work))
        raise


class _Gone(Exception):
    """Nobody reads any more."""


class _Outlet:
    """`write` runs in the thread: it gathers small pieces, and waits while the reader is busy."""

    def __init__(self, queue: asyncio.Queue[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = loop
        self._pieces: list[bytes] = []
        self._size = 0
        self._pending: Future[None] | None = None
        self._gone = False

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= PIECE:
            self.flush()

    def flush(self) -> None:
        if not self._pieces:
            return
        data = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        pending = self._pending = asyncio.run_coroutine_threadsafe(self._queue.put(data), self._loop)
        if self._gone:
            pending.cancel()
        try:
            pending.result()
        except CancelledError:
            raise _Gone from None

    def close(self) -> None:
        self._gone = True
        if self._pending is not None:
            self._pending.cancel()


async def produced(function: Callable[[Callable[[bytes], object]], object]) -> AsyncIterator[bytes]:
    """What `function(write)` writes in a thread, in pieces of about a MiB. What it raises is raised here.

    Closing the iterator makes `write` fail, and waits for the thread's end.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue(2)
    outlet = _Outlet(queue, loop)

    def work() -> None:
        function(outlet.write)
        outlet.flush()

    job = _threads.submit(work)
    done = asyncio.wrap_future(job)
    try:
        while True:
            getting = asyncio.ensure_future(queue.get())
            either: list[asyncio.Future[Any]] = [getting, done]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                is_late = getting.cancel()  # also when this is cancelled itself; what is done already stays done
            if not is_late:
                yield getting.result()
                continue
            while not queue.empty():
                yield queue.get_nowait()
            done.result()
            return
    finally:
        outlet.close()
        if not job.cancel():
            await to_the_end(_ended(done))


async def _ended(done: asyncio.Future[Any]) -> None:
    await asyncio.wait([done])
    done.exception()  # looked at: who wanted it has it, or has gone
