"""Routes of containers: their life, from create to remove, and what can be asked about them.

The streams (attach, logs, wait, stats) are in `container_streams`.
"""

from __future__ import annotations

from aiohttp import web

from wherry.api import compat
from wherry.api.backend import ContainerBackend
from wherry.api.call import Call
from wherry.api.router import Route
from wherry.errors import InvalidArgument
from wherry.wire.engine import ContainerCreate

_LONGEST_NULL_BODY = 7
"""Clients of old send `null` or `{}` with a start; anything longer would be the host configuration that start no longer takes."""


class ContainerRoutes:
    def __init__(self, backend: ContainerBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/containers/json", self.list),
            Route("POST", "/containers/create", self.create),
            Route("POST", "/containers/prune", self.prune),
            Route("GET", "/containers/{id}/json", self.inspect),
            Route("GET", "/containers/{id}/top", self.top),
            Route("POST", "/containers/{id}/start", self.start),
            Route("POST", "/containers/{id}/stop", self.stop),
            Route("POST", "/containers/{id}/restart", self.restart),
            Route("POST", "/containers/{id}/kill", self.kill),
            Route("POST", "/containers/{id}/pause", self.pause),
            Route("POST", "/containers/{id}/unpause", self.unpause),
            Route("POST", "/containers/{id}/rename", self.rename),
            Route("POST", "/containers/{id}/resize", self.resize),
            Route("DELETE", "/containers/{id}", self.remove),
        ]

    async def list(self, call: Call) -> web.StreamResponse:
        limit = call.integer("limit")
        containers = await self._backend.list(
            all=call.flag("all"),
            limit=limit if limit is not None and limit > 0 else None,
            size=call.flag("size"),
            filters=call.filters(),
        )
        return call.answer(compat.container_list(containers, call.version))

    async def create(self, call: Call) -> web.StreamResponse:
        request = await call.json(ContainerCreate)
        if not request.image and not request.host_config and request == ContainerCreate():
            raise InvalidArgument("config cannot be empty in order to create a container")
        compat.adapt_create(request, call.version)
        platform = (call.text("platform") or None) if call.version >= (1, 41) else None
        container_id, warnings = await self._backend.create(call.text("name") or None, request, platform=platform)
        return call.answer({"Id": container_id, "Warnings": warnings}, 201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.inspect(call.name, size=call.flag("size"), api_version=call.version))

    async def top(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.top(call.name, call.text("ps_args")))

    async def start(self, call: Call) -> web.StreamResponse:
        length = call.http.content_length
        if call.http.can_read_body and (length is None or length > _LONGEST_NULL_BODY):
            raise InvalidArgument(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )
        if call.text("checkpoint"):
            raise compat.unsupported_parameter("checkpoint")
        await self._backend.start(call.name)
        return call.empty()

    async def stop(self, call: Call) -> web.StreamResponse:
        await self._backend.stop(call.name, timeout=call.integer("t"), signal=_signal(call))
        return call.empty()

    async def restart(self, call: Call) -> web.StreamResponse:
        await self._backend.restart(call.name, timeout=call.integer("t"), signal=_signal(call))
        return call.empty()

    async def kill(self, call: Call) -> web.StreamResponse:
        await self._backend.kill(call.name, signal=call.text("signal") or None)
        return call.empty()

    async def pause(self, call: Call) -> web.StreamResponse:
        await self._backend.pause(call.name)
        return call.empty()

    async def unpause(self, call: Call) -> web.StreamResponse:
        await self._backend.unpause(call.name)
        return call.empty()

    async def rename(self, call: Call) -> web.StreamResponse:
        await self._backend.rename(call.name, call.text("name"))
        return call.empty()

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = call.dimension("h", "height"), call.dimension("w", "width")
        await self._backend.resize(call.name, height=height, width=width)
        return call.empty(200)

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._backend.remove(call.name, force=call.flag("force"), volumes=call.flag("v"), link=call.flag("link"))
        return call.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.prune(call.filters()))


def _signal(call: Call) -> str | None:
    return (call.text("signal") or None) if call.version >= (1, 42) else None
