"""Answers that are archives: streamed as they are made, with their first piece in hand before the status is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from aiohttp import web

from wherry.api.call import Call


async def send_archive(call: Call, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """An error before the first piece has a status of its own; one after it breaks the connection off, so that nobody takes the half for
    the whole. The work ends when the client goes away. (The last piece is sent when the work is done: a client that has it may go, and
    has been served.)"""
    with call.cancelled_when_gone():
        async with aclosing(pieces) as stream:  # type: ignore[type-var]
            last = await anext(stream, b"")
            response = await call.stream("application/x-tar")
            async for piece in stream:
                await response.write(last)
                last = piece
    await response.write_eof(last)
    return response
