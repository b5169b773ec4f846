"""One request as the handlers see it: what it is about, who asks, its body in bounded pieces; and answers with the headers that all have.

**Invariants**: a client that sends nothing for `IDLE_SECONDS` is given up; no body is held in memory but a manifest's, which is bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from wherry import __version__
from wherry.errors import DeadlineExceeded
from wherry.registry.errors import Code, Refused
from wherry.registry.gate import Access, Visitor
from wherry.registry.names import Target
from wherry.registry.repositories import Repositories
from wherry.spec.ids import Digest

IDLE_SECONDS = 60.0
"""How long a client may neither send nor take anything."""
PIECE = 1 << 20
MAX_PAGE = 10_000
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0", "Server": f"wherry/{__version__}"}


class Call:
    def __init__(
        self, http: web.BaseRequest, target: Target, visitor: Visitor, repositories: Repositories, source: str
    ) -> None:
        self.http = http
        self.method = http.method
        self.query = http.rel_url.query
        self.visitor = visitor
        self.repositories = repositories
        self.repository = target.name
        self.last = target.last
        self.source = source
        """The registry that this one caches (the client's `ns` parameter says so); "" if it caches none."""

    def may(self, action: str, repository: str = "") -> bool:
        return self.visitor.may(Access("repository", repository or self.repository, action))

    def number(self, name: str) -> int | None:
        """A query's parameter that is a count; None when it is not given."""
        text = self.query.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise Refused(Code.UNSUPPORTED, f"{name} must be a number", status=400, detail=text[:100])
        return int(text)

    # --- the body

    @property
    def length(self) -> int | None:
        """Content-Length; None when the body comes in chunks."""
        return self.http.content_length

    async def pieces(self) -> AsyncIterator[bytearray]:
        """The body, gathered to about a MiB, so that whoever writes it has less to do."""
        await self._say_continue()
        gathered = bytearray()
        content = self.http.content
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    piece = await content.readany()
            except TimeoutError:
                raise DeadlineExceeded("the client has stopped sending") from None
            if not piece:
                break
            gathered += piece
            if len(gathered) >= PIECE:
                yield gathered
                gathered = bytearray()
        if gathered:
            yield gathered

    async def body(self, limit: int) -> bytes:
        """All of it. Refused (413) when it is more than `limit` bytes."""
        too_large = Refused(Code.SIZE_INVALID, f"the body is larger than {limit} bytes", status=413)
        if self.length is not None and self.length > limit:
            raise too_large
        data = bytearray()
        async for piece in self.pieces():
            data += piece
            if len(data) > limit:
                raise too_large
        return bytes(data)

    async def _say_continue(self) -> None:
        if self.http.headers.get("Expect", "").lower() == "100-continue" and self.http.transport is not None:
            self.http.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # --- answers

    def headers(self, **more: str) -> dict[str, str]:
        """`Docker_Content_Digest="…"` becomes Docker-Content-Digest."""
        headers = {**API_VERSION, **{name.replace("_", "-"): value for name, value in more.items()}}
        if self.source and self.query.get("ns") == self.source:
            headers["OCI-Namespace"] = self.source
        return headers

    def empty(self, status: int, **headers: str) -> web.Response:
        return web.Response(status=status, headers=self.headers(**headers))

    def json(self, document: Mapping[str, Any], content_type: str = "application/json", **headers: str) -> web.Response:
        body = json.dumps(document, separators=(",", ":")).encode()
        return web.Response(body=body, headers=self.headers(Content_Type=content_type, **headers))

    def next_page(self, path: str, **query: object) -> str:
        """A Link header to the page that follows."""
        return f'<{path}?{urlencode({name: str(value) for name, value in query.items()})}>; rel="next"'

    def created(self, digest: Digest, location: str) -> web.Response:
        return self.empty(201, Location=location, Docker_Content_Digest=digest)

    def blob_url(self, digest: Digest) -> str:
        return f"/v2/{self.repository}/blobs/{digest}"
