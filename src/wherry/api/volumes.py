"""Routes of volumes."""

from __future__ import annotations

from aiohttp import web

from wherry.api.backend import VolumeBackend
from wherry.api.call import Call
from wherry.api.router import Route
from wherry.wire.engine import VolumeCreate


class VolumeRoutes:
    def __init__(self, backend: VolumeBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/volumes", self.list),
            Route("POST", "/volumes/create", self.create),
            Route("POST", "/volumes/prune", self.prune),
            Route("GET", "/volumes/{name}", self.inspect),
            Route("DELETE", "/volumes/{name}", self.remove),
        ]

    async def list(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.list(call.filters()))

    async def create(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.create(await call.json(VolumeCreate)), 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.inspect(call.name))

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._backend.remove(call.name, force=call.flag("force"))
        return call.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        """Until 1.41 a prune meant all volumes, since then only the anonymous ones unless the filter `all` says so."""
        filters = call.filters()
        if call.version < (1, 42):
            filters["all"] = ["true"]
        return call.answer(await self._backend.prune(filters))
