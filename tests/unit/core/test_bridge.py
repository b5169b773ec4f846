"""A stream that ends early, and the thread that reads or writes it."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from wherry.core.bridge import PIECE, in_thread, produced


def test_a_client_that_goes_away_is_no_error_of_ours() -> None:
    complaints: list[dict[str, Any]] = []

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        reading = asyncio.ensure_future(in_thread(lambda source: source.read(1) + source.read(1), endless()))
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        del reading
        gc.collect()

    asyncio.run(run())
    assert complaints == []


def test_a_client_that_stops_holds_no_thread_that_others_need() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    def endless(write: Callable[[bytes], object]) -> None:
        while True:
            write(bytes(PIECE))

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        pieces = produced(endless)
        await anext(pieces)  # and no more
        sending = asyncio.ensure_future(in_thread(lambda source: source.read(1), silent()))
        async with asyncio.timeout(60):
            await asyncio.to_thread(int)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await pieces.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())


def test_a_reader_that_goes_away_while_nothing_comes_leaves_nothing_behind() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(write: Callable[[bytes], object]) -> None:
        begun.set()
        go_on.wait()

    async def run() -> None:
        pieces = produced(work)
        reading = asyncio.ensure_future(anext(pieces, b""))
        await asyncio.to_thread(begun.wait)
        reading.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
