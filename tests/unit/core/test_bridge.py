"""A stream that ends early, and the thread that reads it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from wherry.core.bridge import in_thread


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
