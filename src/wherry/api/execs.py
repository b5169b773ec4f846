"""Routes of execs: further processes in a running container."""

from __future__ import annotations

import logging

from aiohttp import web

from wherry.api.backend import ExecBackend
from wherry.api.call import Call
from wherry.api.detach import parse_keys
from wherry.api.errors import message_of
from wherry.api.hijack import upgrade
from wherry.api.router import Route
from wherry.errors import InvalidArgument, WherryError
from wherry.wire.engine import ExecCreate, ExecStart
from wherry.wire.stdcopy import STDOUT, frame

log = logging.getLogger("wherry.api")


class ExecRoutes:
    def __init__(self, backend: ExecBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("POST", "/containers/{id}/exec", self.create),
            Route("POST", "/exec/{id}/start", self.start),
            Route("POST", "/exec/{id}/resize", self.resize),
            Route("GET", "/exec/{id}/json", self.inspect),
        ]

    async def create(self, call: Call) -> web.StreamResponse:
        request = await call.json(ExecCreate)
        if not request.cmd:
            raise InvalidArgument("No exec command specified")
        parse_keys(request.detach_keys)
        if call.version < (1, 42):
            request.console_size = None
        return call.answer({"Id": await self._backend.create(call.name, request)}, 201)

    async def start(self, call: Call) -> web.StreamResponse:
        """Attached, the head is sent first, and an exec that cannot be started is, as Docker has it, the stream's only words."""
        request = await call.json(ExecStart)
        if call.version < (1, 42) or not request.tty:
            request.console_size = None
        if request.detach:
            await self._backend.start(call.name, request)
            return call.empty(200)
        await self._backend.inspect(call.name)  # NotFound
        relay = upgrade(call, multiplexed=not request.tty)
        try:
            stream = await self._backend.start(call.name, request)
        except Exception as error:
            text = f"{message_of(error)}\r\n".encode("utf-8", "replace")
            log.info("exec %s: %s", call.name[:12], message_of(error), exc_info=not isinstance(error, WherryError))
            return await relay.end_with(text if request.tty else frame(STDOUT, text))
        if stream is None:
            return await relay.end_with(b"")
        return await relay.run(stream, stdin=True)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.inspect(call.name))

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = call.dimension("h", "height"), call.dimension("w", "width")
        await self._backend.resize(call.name, height=height, width=width)
        return call.empty(200)
