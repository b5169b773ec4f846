"""Routes of containers' file systems: what has changed, the whole as an archive, an image of it."""

from __future__ import annotations

from aiohttp import web

from wherry.api.backend import ContainerBackend
from wherry.api.call import Call
from wherry.api.downloads import send_archive
from wherry.api.router import Route
from wherry.spec.calls import CommitOptions
from wherry.wire.engine import ContainerConfig


class ContainerFileRoutes:
    def __init__(self, backend: ContainerBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/containers/{id}/changes", self.changes),
            Route("GET", "/containers/{id}/export", self.export),
            Route("POST", "/commit", self.commit),
        ]

    async def changes(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.changes(call.name))

    async def export(self, call: Call) -> web.StreamResponse:
        return await send_archive(call, await self._backend.export(call.name))

    async def commit(self, call: Call) -> web.StreamResponse:
        options = CommitOptions(
            repository=call.text("repo"),
            tag=call.text("tag"),
            comment=call.text("comment"),
            author=call.text("author"),
            pause=call.flag("pause", default=True),
            changes=tuple(call.texts("changes")),
            config=await call.optional_json(ContainerConfig),
        )
        return call.answer({"Id": await self._backend.commit(call.text("container"), options)}, 201)
