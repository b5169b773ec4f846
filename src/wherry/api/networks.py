"""Routes of networks: the predefined ones can be looked at."""

from __future__ import annotations

from aiohttp import web

from wherry.api.backend import NetworkBackend
from wherry.api.call import Call
from wherry.api.router import Route


class NetworkRoutes:
    def __init__(self, backend: NetworkBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/networks", self.list),
            Route("GET", "/networks/{id}", self.inspect),
            Route("POST", "/networks/prune", self.prune),
        ]

    async def list(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.list(call.filters()))

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.inspect(call.name))

    async def prune(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.prune(call.filters()))
