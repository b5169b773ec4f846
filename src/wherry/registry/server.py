"""The registry's HTTP server: who is asking, which handler answers, what an error looks like, the line in the log.

Runs on the event loop, on aiohttp's low-level server. `ROUTES` is the whole API.

**Invariants**: nobody's body is read before they were let in. Nothing that a client sends ends in a traceback: what is not foreseen is logged and is
500 without details. What a client wrote is escaped in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import re
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TextIO

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from wherry.errors import DataLoss, DeadlineExceeded, Unavailable
from wherry.registry import blobs, lists, manifests
from wherry.registry.call import API_VERSION, PIECE, Call
from wherry.registry.errors import Code, Refused
from wherry.registry.gate import Access, Anybody, Gate, Visitor
from wherry.registry.listener import Listener
from wherry.registry.names import Kind, Target, parse_path
from wherry.registry.repositories import Repositories

log = logging.getLogger("wherry.registry")

Handler = Callable[[Call], Awaitable[web.StreamResponse]]
Observer = Callable[[str, str, int, int, float], None]
"""(method, kind of resource, status, bytes sent, seconds) of each request that was answered."""

_HOST = re.compile(r"[A-Za-z0-9._\[\]:%-]+\Z")
_protocol_log = logging.getLogger("wherry.registry.http")
"""aiohttp's own: of what it refuses before there is a request."""


def _briefly(record: logging.LogRecord) -> bool:
    """What is no HTTP is a client's fault: a line, which it cannot write itself, and no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info, record.exc_text = None, None
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", None
    return True


_protocol_log.addFilter(_briefly)

READING = ("GET", "HEAD")
ROUTES: dict[Kind, dict[str, Handler]] = {
    Kind.BASE: {"GET": lists.base, "HEAD": lists.base},
    Kind.CATALOG: {"GET": lists.catalog},
    Kind.TAGS: {"GET": lists.tags},
    Kind.REFERRERS: {"GET": lists.referrers},
    Kind.MANIFEST: {
        "GET": manifests.get,
        "HEAD": manifests.get,
        "PUT": manifests.put,
        "DELETE": manifests.delete,
    },
    Kind.BLOB: {"GET": blobs.get, "HEAD": blobs.head, "DELETE": blobs.delete},
    Kind.UPLOADS: {"POST": blobs.start},
    Kind.UPLOAD: {"GET": blobs.status, "PATCH": blobs.append, "PUT": blobs.finish, "DELETE": blobs.cancel},
}
LINGER_SECONDS = 2.0
"""How long a refused body is read on, so that the client sees the answer."""


class RegistryServer:
    """`http()` gives what a socket is served with. `routes`: `ROUTES`, or what a cache makes of them."""

    def __init__(
        self,
        repositories: Repositories,
        gate: Gate,
        *,
        routes: dict[Kind, dict[str, Handler]] = ROUTES,
        read_only: bool = False,
        source: str = "",
        extra: dict[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]] | None = None,
        observe: Observer | None = None,
        access_log: TextIO | None = sys.stdout,
    ) -> None:
        self._repositories = repositories
        self._gate = gate
        self._routes = routes
        self._read_only = read_only
        self._source = source
        self._extra = extra or {}
        self._observe = observe
        self._access_log = access_log
        self._active = 0
        self._draining = False
        self._idle = asyncio.Event()

    def http(self) -> web.Server:
        return Listener(
            self.handle,
            access_log=None,
            logger=_protocol_log,
            read_bufsize=PIECE,
            auto_decompress=False,  # a blob is what was sent, whatever it is called; and nothing can swell
            lingering_time=LINGER_SECONDS,
            keepalive_timeout=120.0,
        )

    async def drain(self, seconds: float) -> None:
        """Waits until nothing is under way, for at most so long; connections are then used no more."""
        self._draining = True
        if self._active:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """One request to its answer. Raises nothing but cancellation."""
        self._active += 1
        try:
            return await self._handle(http)
        finally:
            self._active -= 1
            if self._draining and not self._active:
                self._idle.set()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        begun = time.monotonic()
        path = http.raw_path.partition("?")[0]
        kind = "other"
        visitor: Visitor = Anybody()
        response: web.StreamResponse
        try:
            if path in self._extra:
                kind = path.strip("/")
                response = await self._extra[path](http)
            else:
                target = parse_path(path)
                if target is None:
                    raise Refused(Code.UNSUPPORTED, "there is no such resource", status=404)
                kind = target.kind
                visitor, call, handler = await self._admit(http, target)
                response = await handler(call)
        except Exception as error:
            response = self._failed(http, error)
        if self._draining and not response.prepared:
            response.force_close()
        sent = await self._end(http, response)
        self._record(http, kind, visitor.name, response.status, sent, time.monotonic() - begun)
        return response

    async def _admit(self, http: web.BaseRequest, target: Target) -> tuple[Visitor, Call, Handler]:
        methods = self._routes[target.kind]
        handler = methods.get(http.method)
        wanted = _wanted(target, http.method)
        if not _HOST.match(http.host):  # it becomes a part of challenges
            raise Refused(Code.UNSUPPORTED, "the Host header is malformed", status=400)
        visitor = await self._gate.admit(http.headers, wanted, f"{http.scheme}://{http.host}")
        allowed = [method for method in methods if method in READING or not self._read_only]
        if handler is None or http.method not in allowed:
            why = "this registry is read-only" if handler is not None else "the operation is unsupported"
            raise Refused(Code.UNSUPPORTED, why, headers={"Allow": ", ".join(allowed)})
        return visitor, Call(http, target, visitor, self._repositories, self._source), handler

    @staticmethod
    async def _end(http: web.BaseRequest, response: web.StreamResponse) -> int:
        """Sends what is not sent yet, so that the log tells what was sent: the bytes of the body."""
        try:
            if not response.prepared:
                await response.prepare(http)
                await response.write_eof()
        except ConnectionError:
            return 0
        without_body = isinstance(response, _Gone) or http.method == "HEAD" or response.status in (204, 304)
        return 0 if without_body else response.content_length or 0

    def _failed(self, http: web.BaseRequest, error: Exception) -> web.StreamResponse:
        began = http.writer.output_size > 0
        if isinstance(error, ConnectionError) or (began and isinstance(error, DeadlineExceeded)):
            log.debug("%s %s: %s", http.method, http.raw_path[:500], error)
            return _Gone(http)
        refused = _as_refused(error)
        if refused.status >= 500:
            log.error(
                "%s %s: %s", http.method, http.raw_path[:500], error or type(error).__name__, exc_info=_defect(error)
            )
        if began:
            return _Gone(http)
        headers = {**API_VERSION, "Content-Type": "application/json", **refused.headers}
        response = web.Response(status=refused.status, body=json.dumps(refused.document()).encode(), headers=headers)
        if http.can_read_body and not http.content.is_eof():
            response.force_close()
        return response

    def _record(self, http: web.BaseRequest, kind: str, user: str, status: int, sent: int, seconds: float) -> None:
        if self._observe is not None:
            self._observe(http.method, kind, status, sent, seconds)
        if self._access_log is not None:
            self._access_log.write(log_line(http, user, status, sent, seconds))


class _Gone(web.StreamResponse):
    """The end of a request that has no answer, or no whole one: all that can still be said is that the connection breaks."""

    def __init__(self, http: web.BaseRequest) -> None:
        super().__init__(status=499)
        if http.transport is not None:
            http.transport.abort()

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def _wanted(target: Target, method: str) -> list[Access]:
    match target.kind:
        case Kind.BASE:
            return []
        case Kind.CATALOG:
            return [Access("registry", "catalog", "*")]
        case Kind.UPLOADS | Kind.UPLOAD:
            return [Access("repository", target.name, "pull"), Access("repository", target.name, "push")]
    if method in READING:
        return [Access("repository", target.name, "pull")]
    action = "delete" if method == "DELETE" else "push"
    return [Access("repository", target.name, action)]


def _as_refused(error: Exception) -> Refused:
    match error:
        case Refused():
            return error
        case DeadlineExceeded():
            return Refused(Code.UNSUPPORTED, str(error), status=408)
        case DataLoss():
            return Refused(Code.UNSUPPORTED, str(error), status=502)
        case Unavailable():
            return Refused(Code.UNSUPPORTED, str(error), status=503, headers={"Retry-After": "10"})
        case web.RequestPayloadError():
            return Refused(Code.BLOB_UPLOAD_INVALID, f"the body is malformed: {error}")
        case web.HTTPException():  # aiohttp's own: a request that is no HTTP, headers that are too large
            return Refused(Code.UNSUPPORTED, error.reason, status=error.status)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Refused(Code.UNSUPPORTED, "the registry has no space left", status=507)
        case sqlite3.OperationalError() if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return Refused(Code.UNSUPPORTED, "the registry has no space left", status=507)
    return Refused(Code.UNSUPPORTED, "internal error", status=500)


def _defect(error: Exception) -> Exception | None:
    """What deserves a traceback in the log."""
    return error if _as_refused(error).message == "internal error" else None


def log_line(http: web.BaseRequest, user: str, status: int, sent: int, seconds: float) -> str:
    """The "combined" format of web servers, and the seconds that it took."""
    version = f"HTTP/{http.version.major}.{http.version.minor}"
    request = _escaped(f"{http.method} {http.raw_path} {version}")
    referer, agent = (_escaped(http.headers.get(name, "-")) for name in ("Referer", "User-Agent"))
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    return f'{http.remote or "-"} - {_escaped(user) or "-"} [{moment}] "{request}" {status} {sent} "{referer}" "{agent}" {seconds:.3f}\n'


def _escaped(text: str) -> str:
    text = text[:1000]
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c not in '"\\' else f"\\x{ord(c):02x}" for c in text)
