"""Routes that ask a registry on a client's behalf: the check of a login."""

from __future__ import annotations

from aiohttp import web

from wherry.api.auth import parse_login
from wherry.api.backend import RegistryBackend
from wherry.api.call import Call
from wherry.api.router import Route


class RegistryRoutes:
    def __init__(self, backend: RegistryBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [Route("POST", "/auth", self.authenticate)]

    async def authenticate(self, call: Call) -> web.StreamResponse:
        auth = parse_login(await call.body())
        with call.cancelled_when_gone():
            return call.answer(await self._backend.authenticate(auth))
