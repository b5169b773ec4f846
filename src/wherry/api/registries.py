"""Routes that ask a registry on a client's behalf: the check of a login, what a name stands for there, its search."""

from __future__ import annotations

from aiohttp import web

from wherry.api.auth import HEADER, parse_auth, parse_login
from wherry.api.backend import RegistryBackend
from wherry.api.call import Call
from wherry.api.router import Route
from wherry.errors import InvalidArgument


class RegistryRoutes:
    def __init__(self, backend: RegistryBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("POST", "/auth", self.authenticate),
            Route("GET", "/distribution/{name}/json", self.distribution),
            Route("GET", "/images/search", self.search),
        ]

    async def authenticate(self, call: Call) -> web.StreamResponse:
        auth = parse_login(await call.body())
        with call.cancelled_when_gone():
            return call.answer(await self._backend.authenticate(auth))

    async def distribution(self, call: Call) -> web.StreamResponse:
        auth = parse_auth(call.http.headers.get(HEADER, ""))
        with call.cancelled_when_gone():
            return call.answer(await self._backend.distribution(call.name, auth))

    async def search(self, call: Call) -> web.StreamResponse:
        auth = parse_auth(call.http.headers.get(HEADER, ""))
        term = call.text("term")
        if not term:
            raise InvalidArgument("a term to search for must be given")
        with call.cancelled_when_gone():
            found = await self._backend.search(term, limit=call.integer("limit"), filters=call.filters(), auth=auth)
        return call.answer(found)
