"""Routes of the engine itself: ping, version, info, disk usage, events."""

from __future__ import annotations

from aiohttp import web

from wherry.api import compat
from wherry.api.backend import SystemBackend
from wherry.api.call import Call, encode_line
from wherry.api.container_streams import closing
from wherry.api.router import Route
from wherry.errors import InvalidArgument

USAGE_TYPES = ("container", "image", "volume", "build-cache")


class SystemRoutes:
    def __init__(self, backend: SystemBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/_ping", self.ping),
            Route("HEAD", "/_ping", self.ping),
            Route("GET", "/version", self.engine_version),
            Route("GET", "/info", self.info),
            Route("GET", "/system/df", self.disk_usage),
            Route("GET", "/events", self.events),
        ]

    async def ping(self, call: Call) -> web.StreamResponse:
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Swarm": "inactive",
            **call.headers,
        }
        return web.Response(body=b"" if call.http.method == "HEAD" else b"OK", headers=headers)

    async def engine_version(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.version())

    async def info(self, call: Call) -> web.StreamResponse:
        return call.answer(compat.info(await self._backend.info(), call.version))

    async def disk_usage(self, call: Call) -> web.StreamResponse:
        types = call.texts("type") if call.version >= (1, 42) else []
        for kind in types:
            if kind not in USAGE_TYPES:
                raise InvalidArgument(f"unknown object type: {kind[:128]}")
        usage = await self._backend.disk_usage(types or list(USAGE_TYPES))
        return call.answer(compat.disk_usage(usage, call.version, verbose=call.flag("verbose")))

    async def events(self, call: Call) -> web.StreamResponse:
        since, until = call.timestamp("since"), call.timestamp("until")
        if until is not None and since is not None and until < since:
            raise InvalidArgument(
                f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
            )
        async with closing(self._backend.events(since_ns=since, until_ns=until, filters=call.filters())) as events:
            with call.cancelled_when_gone():
                response = await call.stream("application/json" if call.version < (1, 52) else "application/jsonl")
                async for event in events:
                    shown = compat.event(event, call.version)
                    if shown is not None:
                        await response.write(encode_line(shown))
        return response
