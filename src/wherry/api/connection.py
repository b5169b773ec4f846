"""One client's connection: aiohttp's protocol, and what it lacks for connections that become streams.

aiohttp knows one protocol to upgrade to, WebSocket; what a client sends behind any other request it takes for the next request. So here the request
line is looked at first: behind a request that may be hijacked (attach, exec start) the bytes are kept until the route has decided, and are then
either the stream's first input or the next request.

**Invariants**: a request that cannot be hijacked costs one comparison. What is kept is bounded: beyond `EARLY_LIMIT` the socket is not read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from aiohttp import web

from wherry.api.call import encode_line

log = logging.getLogger("wherry.api")

HEADER_LIMIT = 64 << 10
"""Bytes of the request line, and of one header: registry tokens and filters are long, but not longer."""
EARLY_LIMIT = 64 << 10

_MAY_BE_HIJACKED = re.compile(
    rb"POST (?:[a-z]+://[^/ ]*)?(?:/v[0-9.]+)?/(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)[? ]"
)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class Ended(web.StreamResponse):
    """The answer when there is nothing left to send: the handler took the connection over, or the client has gone. The connection ends."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Stage(Enum):
    REQUESTS = "every byte belongs to a request"
    HEAD = "the head of a request that may be hijacked is not complete"
    BODY = "its body is not complete"
    BEHIND = "what comes now came behind it"


class Connection(web.RequestHandler):
    """`on_lost` is called once if the client goes away while a handler has set it."""

    __slots__ = ("_early", "_early_eof", "_head", "_left", "_stage", "on_lost")

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self.on_lost: Callable[[], object] | None = None
        self._stage = _Stage.REQUESTS
        self._head = b""
        self._left = 0
        self._early = b""
        self._early_eof = False

    # -- bytes in --------------------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._stage is _Stage.REQUESTS:
            if _MAY_BE_HIJACKED.match(data) is None:
                super().data_received(data)
                return
            self._stage = _Stage.HEAD
        if self._stage is _Stage.HEAD:
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4 and len(self._head) <= HEADER_LIMIT:
                return
            head, data, self._head = self._head[:end], self._head[end:], b""
            if end < 4 or _CHUNKED.search(head):
                self._stage = _Stage.REQUESTS
                super().data_received(head + data)
                return
            length = _LENGTH.search(head)
            self._left = int(length[1]) if length else 0
            self._stage = _Stage.BODY
            super().data_received(head)
        if self._stage is _Stage.BODY:
            body, data = data[: self._left], data[self._left :]
            self._left -= len(body)
            if not self._left:
                self._stage = _Stage.BEHIND
            if body:
                super().data_received(body)
        if data:
            self._early += data
            if len(self._early) > EARLY_LIMIT and self.transport is not None:
                self.transport.pause_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The end of the input behind a request that may be hijacked is the stream's; elsewhere it ends the connection."""
        if self._stage is _Stage.BEHIND:
            self._early_eof = True
            return True
        super().eof_received()
        return None

    def take_early(self) -> tuple[bytes, bool]:
        """For who hijacks the connection: what came behind the request, and whether the input ended with it."""
        early, self._early = self._early, b""
        self._resume(early)
        return early, self._early_eof

    def release(self, response: web.StreamResponse) -> None:
        """The request was not hijacked: what came behind it is the next one."""
        if self._stage is not _Stage.BEHIND:
            return
        self._stage = _Stage.REQUESTS
        early, self._early = self._early, b""
        if self._early_eof:
            response.force_close()
        elif early:
            self.data_received(early)
            self._resume(early)

    def _resume(self, early: bytes) -> None:
        if len(early) > EARLY_LIMIT and self.transport is not None:
            self.transport.resume_reading()

    # -- the end ---------------------------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            lost, self.on_lost = self.on_lost, None
            lost()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is not HTTP. (Errors of handlers never come here: `Api.handle` answers them.)"""
        if status >= 500:
            log.error("error handling request", exc_info=exc)
        else:
            log.debug("malformed request: %s", message or exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        text = (message or "bad request").partition("\n")[0].strip(" :")
        response = web.Response(
            status=status, body=encode_line({"message": text}), headers={"Content-Type": "application/json"}
        )
        response.force_close()
        return response
