"""Routes of execs: further processes in a running container."""

from __future__ import annotations

from aiohttp import web

from wherry.api.backend import ExecBackend
from wherry.api.call import Call
from wherry.api.detach import parse_keys
from wherry.api.hijack import hijack, hijack_text
from wherry.api.router import Route
from wherry.errors import InvalidArgument, StartError
from wherry.wire.engine import ExecCreate, ExecStart
from wherry.wire.stdcopy import STDOUT, frame


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
        """A process that cannot be started is, as Docker has it, the stream's only words; its exit code is the exec's."""
        request = await call.json(ExecStart)
        if call.version < (1, 42) or not request.tty:
            request.console_size = None
        try:
            stream = await self._backend.start(call.name, request)
        except StartError as error:
            if request.detach:
                raise
            text = f"{error}\r\n".encode("utf-8", "replace")
            return await hijack_text(call, text if request.tty else frame(STDOUT, text), multiplexed=not request.tty)
        if stream is None:
            return call.empty(200)
        return await hijack(call, stream, stdin=True)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.inspect(call.name))

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = call.dimension("h", "height"), call.dimension("w", "width")
        await self._backend.resize(call.name, height=height, width=width)
        return call.empty(200)
