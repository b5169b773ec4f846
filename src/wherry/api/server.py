"""The HTTP server of the Engine API: connections, version negotiation, dispatch, errors.

Runs on wherryd's event loop. aiohttp's low-level server carries HTTP; above it there is no application object, no middleware and no access log,
because every layer would cost each of the four or five requests of a `docker run`.

**Invariants**: nothing a client sends ends in a traceback: what is malformed is 400 with a message, and what is not foreseen is logged and is 500.
An error is a JSON object with `message`, except to clients older than version 1.24, which expect text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from aiohttp import web

from wherry import __version__
from wherry.api.backend import Backends
from wherry.api.call import Call, encode_line
from wherry.api.connection import HEADER_LIMIT, Connection, Ended
from wherry.api.errors import MethodNotAllowed, message_of, status_of
from wherry.api.router import Route, Router
from wherry.api.version import UnsupportedVersion, Versions, parse_version

log = logging.getLogger("wherry.api")

KEEPALIVE_SECONDS = 3600.0
"""How long a connection may be idle: clients keep theirs between two commands of a user."""


class HttpServer(web.Server):
    """aiohttp's low-level server with `Connection` as its protocol; an instance is a protocol factory for `loop.create_server`."""

    def __init__(self, handler: Callable[[web.BaseRequest], Any]) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "logger": log,
            "max_line_size": HEADER_LIMIT,
            "max_field_size": HEADER_LIMIT,
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_SECONDS,
            "lingering_time": 1.0,
        }
        super().__init__(handler, **self._options)

    def __call__(self) -> Connection:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)


class Api:
    """The engine's HTTP application: `Api(backends, routes).server()` gives what a socket is served with."""

    def __init__(self, backends: Backends, routes: Iterable[Route]) -> None:
        lowest, highest = backends.api_versions
        self._versions = Versions(parse_version(lowest), parse_version(highest))
        self._router = Router(routes)
        self._headers = {
            "Api-Version": highest,
            "Docker-Experimental": "false",
            "Ostype": "linux",
            "Server": f"wherry/{__version__} (linux)",
        }

    def server(self) -> HttpServer:
        return HttpServer(self.handle)

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """One request to its answer. Raises nothing but cancellation."""
        path = _target(http.raw_path).partition("?")[0]
        try:
            version, path = self._versions.negotiate(path)
            handler, name = self._router.resolve(http.method, path)
            response = await handler(Call(http, version, name, self._headers))
        except ConnectionError as gone:
            log.debug("%s %s: the client has gone: %s", http.method, path, gone)
            return Ended()
        except Exception as error:
            response = self._failed(http, path, error)
        if not isinstance(response, Ended):
            cast(Connection, http.protocol).release(response)
        return response

    def _failed(self, http: web.BaseRequest, path: str, error: Exception) -> web.StreamResponse:
        status, message = status_of(error), message_of(error)
        if status >= 500 and status != 501:
            defect = error if status_of(error) == 500 and message.startswith("internal error") else None
            log.error("handler for %s %s returned error: %s", http.method, path, message, exc_info=defect)
        if http.writer.output_size > 0:
            return Ended()  # the answer had begun: all that can still be said is that it is not complete
        headers = dict(self._headers)
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(error.allowed)
        if status == 304:
            return web.Response(status=304, headers=headers)
        plain = isinstance(error, UnsupportedVersion) and error.plain
        headers["Content-Type"] = "text/plain; charset=utf-8" if plain else "application/json"
        body = (message + "\n").encode() if plain else encode_line({"message": message})
        response = web.Response(status=status, body=body, headers=headers)
        if http.can_read_body:
            response.force_close()  # rather than reading the rest of a body that nobody wants
        return response


def _target(raw: str) -> str:
    """The request target without scheme and authority, which some clients send ("absolute form")."""
    if raw.startswith("/"):
        return raw
    _, separator, rest = raw.partition("://")
    return "/" + rest.partition("/")[2] if separator else raw
