"""Routes of plugins: there are none, and clients that look for one (`docker inspect NAME` looks everywhere) are told so."""

from __future__ import annotations

from aiohttp import web

from wherry.api.call import Call
from wherry.api.router import Route
from wherry.errors import NotFound


class PluginRoutes:
    def table(self) -> list[Route]:
        return [
            Route("GET", "/plugins", self.list),
            Route("GET", "/plugins/{name}/json", self.inspect),
        ]

    async def list(self, call: Call) -> web.StreamResponse:
        call.filters()
        return call.answer([])

    async def inspect(self, call: Call) -> web.StreamResponse:
        raise NotFound(f'plugin "{call.name}" not found')
