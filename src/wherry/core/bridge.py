"""Lets blocking code in a thread read a stream that arrives on the event loop (a request's body, a registry's answer)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar

from wherry.core.compression import Source
from wherry.errors import Unavailable

T = TypeVar("T")


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
    work = loop.run_in_executor(None, function, bridge)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        bridge.cancel()
        await asyncio.wait([work])
        raise
