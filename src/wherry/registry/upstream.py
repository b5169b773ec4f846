"""The registry behind a cache, as its client: manifests, blobs and lists of one registry, with credentials.

Source: distribution-spec 1.1, "Pull". Credentials, redirects and stalled connections are `distribution.connection`'s.
**Invariant**: what is read whole is bounded.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from wherry.distribution.connection import Connection, new_session
from wherry.distribution.endpoint import Endpoint
from wherry.distribution.errors import RegistryError
from wherry.errors import InvalidArgument, PermissionDenied, Unavailable, WherryError
from wherry.registry.errors import Code, Refused
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import INDEX_TYPES, MANIFEST_TYPES

MAX_CONNECTIONS = 256
ATTEMPTS = 4
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))


@dataclass(frozen=True, slots=True)
class Fetched:
    content: bytes
    headers: dict[str, str]
    """In lower case."""


_AUTHORITY = re.compile(r"[A-Za-z0-9._\[\]:-]+\Z")


def check_url(url: str) -> str:
    """Without a slash at its end. InvalidArgument unless it is a registry's."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not _AUTHORITY.match(parts.netloc)
        or parts.path.strip("/")
        or parts.query
    ):
        raise InvalidArgument(f'"{url}" is not the URL of a registry: https://HOST[:PORT]')
    return f"{parts.scheme}://{parts.netloc}"


class Upstream:
    """`url`: https://HOST[:PORT]. Created on the event loop; `close` it."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        self._endpoint = Endpoint(check_url(url), tls=True)
        self.host = urlsplit(url).netloc
        self._auth = RegistryAuth(username=username, password=password)
        self._session = new_session()
        self._connections: OrderedDict[str, Connection] = OrderedDict()

    async def close(self) -> None:
        await self._session.close()

    async def digest(self, repository: str, reference: str) -> str:
        """What a tag points to now; "" when the registry does not say."""
        path = f"/v2/{repository}/manifests/{reference}"
        async with self._ask("HEAD", repository, path, {"Accept": _ACCEPT}) as answer:
            return answer.headers.get("Docker-Content-Digest", "")

    async def has_blob(self, repository: str, digest: Digest) -> int | None:
        """Its size; None when it is not there or the registry does not say."""
        try:
            async with self._ask("HEAD", repository, f"/v2/{repository}/blobs/{digest}", {}) as answer:
                return answer.content_length
        except Refused:
            return None

    async def fetch(self, repository: str, path: str, limit: int) -> Fetched:
        """A manifest or a list, whole. Refused as the registry refuses it."""
        async with self._ask("GET", repository, path, {"Accept": f"{_ACCEPT}, */*"}) as answer:
            content = bytearray()
            async for piece in answer.content.iter_any():
                content += piece
                if len(content) > limit:
                    raise Unavailable(f"{self.host}: {path[:200]} is larger than {limit} bytes")
            return Fetched(bytes(content), {name.lower(): value for name, value in answer.headers.items()})

    @asynccontextmanager
    async def blob(
        self, repository: str, digest: Digest, position: int = 0
    ) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]]]:
        """(bytes of the whole blob if they are known, its bytes from `position`)."""
        headers = {"Range": f"bytes={position}-"} if position else {}
        async with self._ask("GET", repository, f"/v2/{repository}/blobs/{digest}", headers) as answer:
            size = answer.content_length
            if answer.status == 206:
                matched = re.match(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
                if matched is None or int(matched[1]) != position:
                    raise Unavailable(f"{self.host}: another range than was asked for")
                size = int(matched[2])
            elif position:
                raise Unavailable(f"{self.host}: the connection broke, and ranges are not supported")
            yield size, answer.content.iter_any()

    @asynccontextmanager
    async def _ask(
        self, method: str, repository: str, path: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Refused as the registry refuses it, Unavailable when it does not answer as it should."""
        connection, scope = self._connection(repository), f"repository:{repository}:pull"
        try:
            async with connection.authorized(method, self._endpoint.base + path, scope, headers) as answer:
                yield answer
        except RegistryError as error:
            raise self._refusal(error, path) from None
        except (PermissionDenied, InvalidArgument) as error:
            raise Refused(Code.DENIED, f"{self.host}: {error}", status=403) from None

    def _refusal(self, error: RegistryError, path: str) -> WherryError:
        if error.status == 404:
            code = Code.BLOB_UNKNOWN if "/blobs/" in path else Code.MANIFEST_UNKNOWN
            return Refused(code, f"unknown to {self.host}")
        if error.status in (401, 403):
            return Refused(Code.DENIED, f"{self.host} does not let this registry in", status=403)
        if error.status == 429:
            wait = {"Retry-After": error.retry_after or "60"}
            return Refused(Code.TOOMANYREQUESTS, f"{self.host}: too many requests", headers=wait)
        return Unavailable(f"{self.host} answers with status {error.status}")

    def _connection(self, repository: str) -> Connection:
        """One for each repository, for the last few: each remembers the tokens of its own."""
        connection = self._connections.pop(repository, None) or Connection(self._session, self._endpoint, self._auth)
        self._connections[repository] = connection
        if len(self._connections) > MAX_CONNECTIONS:
            self._connections.popitem(last=False)
        return connection
