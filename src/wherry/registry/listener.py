"""The connections of the registry's HTTP server: those on which no request comes are closed. On the event loop.

aiohttp closes what is idle between two requests, and nothing before the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

FIRST_REQUEST_SECONDS = 60.0
"""From the connection, after TLS, to the end of the first request's headers."""


class Listener(web.Server):
    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **options: Any) -> None:
        super().__init__(self._heard, **options)
        self._handle = handle
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        self._silent[handler] = loop.call_later(FIRST_REQUEST_SECONDS, transport.abort)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._hear(handler)
        super().connection_lost(handler, exc)

    async def _heard(self, http: web.BaseRequest) -> web.StreamResponse:
        self._hear(http.protocol)
        return await self._handle(http)

    def _hear(self, handler: web.RequestHandler) -> None:
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()
