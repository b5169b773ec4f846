"""One request, as the routes see it: negotiated version, name from the path, query, bounded body; and the answers they give.

**Invariants**: no body is read beyond its bound; a JSON body is accepted only as `application/json`; every answer carries the headers by which
clients recognise the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp import web

from wherry import errors
from wherry.api.errors import BodyTooLarge
from wherry.api.query import Values, as_dimension, as_filters, as_flag, as_integer, as_timestamp, parse_query
from wherry.api.version import Version
from wherry.errors import DeadlineExceeded, InvalidArgument
from wherry.wire import engine as wire

if TYPE_CHECKING:
    from wherry.api.connection import Connection

JSON_BODY_LIMIT = 16 << 20
BODY_SECONDS = 300.0
"""How long a client may take to send a JSON body."""

_Body = TypeVar("_Body", bound=wire.Body)
_FALSE_DEFAULT = [""]


class Call:
    """What a handler is given. `name` is the decoded name in the path; `headers` are those of every answer."""

    __slots__ = ("_query", "headers", "http", "name", "version")

    def __init__(self, http: web.BaseRequest, version: Version, name: str, headers: dict[str, str]) -> None:
        self.http = http
        self.version = version
        self.name = name
        self.headers = headers
        self._query: Values | None = None

    # -- query -----------------------------------------------------------------------------------------------------------------------

    @property
    def query(self) -> Values:
        if self._query is None:
            self._query = parse_query(self.http.raw_path.partition("?")[2])
        return self._query

    def text(self, key: str) -> str:
        """The first value, "" when it is missing."""
        return self.query.get(key, _FALSE_DEFAULT)[0]

    def texts(self, key: str) -> list[str]:
        return self.query.get(key, [])

    def flag(self, key: str, *, default: bool = False) -> bool:
        values = self.query.get(key)
        return default if values is None else as_flag(values[0])

    def integer(self, key: str) -> int | None:
        text = self.text(key)
        return as_integer(text) if text else None

    def dimension(self, key: str, what: str) -> int:
        return as_dimension(self.text(key), what)

    def timestamp(self, key: str) -> int | None:
        return as_timestamp(self.text(key), f'"{key}"')

    def filters(self) -> dict[str, list[str]]:
        return as_filters(self.text("filters"))

    # -- body ------------------------------------------------------------------------------------------------------------------------

    async def body(self, limit: int = JSON_BODY_LIMIT) -> bytes:
        """The whole body; BodyTooLarge beyond `limit` bytes."""
        length = self.http.content_length
        if length is not None and length > limit:
            raise BodyTooLarge(limit)
        if not self.http.can_read_body:
            return b""
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in self.stream_body():
                    size += len(piece)
                    if size > limit:
                        raise BodyTooLarge(limit)
                    pieces.append(piece)
        except TimeoutError:
            raise DeadlineExceeded(f"request body was not complete after {BODY_SECONDS:.0f} seconds") from None
        return b"".join(pieces)

    async def stream_body(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive, without bound: for archives."""
        await self._invite_body()
        content = self.http.content
        while True:
            piece = await content.readany()
            if not piece:
                return
            yield piece

    async def _invite_body(self) -> None:
        """Clients that ask first (`Expect: 100-continue`) send the body only after this."""
        if self.http.headers.get("Expect", "").lower() == "100-continue":
            transport = self.http.transport
            if transport is not None:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def json(self, body: type[_Body]) -> _Body:
        """The typed body; an empty one is all defaults. InvalidArgument; NotImplemented naming the fields that wherry does not carry out."""
        parsed = await self.optional_json(body)
        return body() if parsed is None else parsed

    async def optional_json(self, body: type[_Body]) -> _Body | None:
        """As `json`; None when there is no body, or `null`."""
        content_type = self.http.headers.get("Content-Type", "")
        data = await self.body()
        if content_type or data:
            kind = content_type.partition(";")[0].strip().lower()
            if kind != "application/json":
                raise InvalidArgument(f"unsupported Content-Type header ({content_type}): must be 'application/json'")
        if data.strip() in (b"", b"null"):
            return None
        parsed, missing = wire.parse(data, body)
        if missing:
            raise errors.NotImplemented(f"wherry does not support {', '.join(sorted(set(missing)))} yet")
        return parsed

    # -- the client's presence -------------------------------------------------------------------------------------------------------

    @contextmanager
    def cancelled_when_gone(self) -> Iterator[None]:
        """Within it, the handler is cancelled when the client disconnects. Outside of it a handler always runs to its end."""
        connection: Connection = self.http.protocol  # type: ignore[assignment]
        task = asyncio.current_task()
        assert task is not None
        connection.on_lost = task.cancel
        if connection.transport is None:
            task.cancel()
        try:
            yield
        finally:
            connection.on_lost = None

    # -- answers ---------------------------------------------------------------------------------------------------------------------

    def answer(self, value: Any, status: int = 200) -> web.Response:
        """`value` as JSON."""
        return web.Response(
            body=encode_line(value), status=status, headers={"Content-Type": "application/json", **self.headers}
        )

    def empty(self, status: int = 204) -> web.Response:
        return web.Response(status=status, headers=self.headers)

    async def stream(self, content_type: str = "application/json") -> web.StreamResponse:
        """A chunked answer whose status and headers have been sent. The handler writes to it and returns it."""
        response = web.StreamResponse(headers={"Content-Type": content_type, **self.headers})
        if self.http.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(self.http)
        return response


_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """JSON; text that is not valid Unicode (names from a hostile file system) has U+FFFD in place of what is not."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return _encoder.encode(_valid_text(value))


def encode_line(value: Any) -> bytes:
    return encode(value) + b"\n"


def _valid_text(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_valid_text(key): _valid_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid_text(item) for item in value]
    return value
