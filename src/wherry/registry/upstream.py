"""The registry behind a cache, as its client: manifests, blobs and lists of one registry, with credentials.

Source: distribution-spec 1.1, "Pull". **Invariants**: credentials go to that registry's origin and its token server only; redirects lead elsewhere
without them (CVE-2020-15157), and never from HTTPS to HTTP; what is read whole is bounded; a connection on which nothing comes is given up.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from wherry.distribution.auth import Authorizer, origin
from wherry.distribution.connection import new_session, resolve
from wherry.distribution.errors import RegistryError
from wherry.errors import InvalidArgument, Unavailable, WherryError
from wherry.registry.errors import Code, Refused
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import INDEX_TYPES, MANIFEST_TYPES

MAX_REDIRECTS = 10
MAX_AUTHORIZERS = 256
ATTEMPTS = 4
_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))


@dataclass(frozen=True, slots=True)
class Fetched:
    content: bytes
    headers: dict[str, str]
    """In lower case."""


def check_url(url: str) -> str:
    """Without a slash at its end. InvalidArgument unless it is a registry's."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query:
        raise InvalidArgument(f'"{url}" is not the URL of a registry: https://HOST[:PORT]')
    return f"{parts.scheme}://{parts.netloc}"


class Upstream:
    """`url`: https://HOST[:PORT]. Created on the event loop; `close` it."""

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        self._base = check_url(url)
        self.host = urlsplit(url).netloc
        self._auth = RegistryAuth(username=username, password=password)
        self._session = new_session()
        self._authorizers: OrderedDict[str, Authorizer] = OrderedDict()

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
            yield size, _pieces(answer, self.host)

    @asynccontextmanager
    async def _ask(
        self, method: str, repository: str, path: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Refused as the registry refuses it (404, 401, 403), Unavailable when it does not answer as it should."""
        authorizer, scope = self._authorizer(repository), f"repository:{repository}:pull"
        for _ in range(3):
            try:
                header = await authorizer.header(scope)
            except RegistryError as error:
                raise Refused(Code.DENIED, f"{self.host}: {error}", status=403) from None
            own = {**headers, "Authorization": header} if header else headers
            async with await self._follow(method, self._base + path, own, headers) as answer:
                if answer.status in (200, 206):
                    yield answer
                    return
                challenge = ", ".join(answer.headers.getall("WWW-Authenticate", []))
                if answer.status != 401 or not authorizer.challenged(challenge, scope):
                    raise self._refused(answer.status, path)
        raise self._refused(401, path)

    def _refused(self, status: int, path: str) -> WherryError:
        if status == 404:
            code = Code.BLOB_UNKNOWN if "/blobs/" in path else Code.MANIFEST_UNKNOWN
            return Refused(code, f"unknown to {self.host}")
        if status in (401, 403):
            return Refused(Code.DENIED, f"{self.host} does not let this registry in", status=403)
        if status == 429:
            return Refused(Code.TOOMANYREQUESTS, f"{self.host}: too many requests", headers={"Retry-After": "60"})
        return Unavailable(f"{self.host} answers with status {status}")

    async def _follow(
        self, method: str, url: str, own: dict[str, str], foreign: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """`own` headers for the registry's origin, `foreign` for everywhere else. The caller releases the answer."""
        home = origin(url)
        for _ in range(MAX_REDIRECTS):
            headers = own if origin(url) == home else foreign
            try:
                answer = await self._session.request(method, url, headers=headers, allow_redirects=False)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Unavailable(f"{self.host}: {error or type(error).__name__}") from None
            location = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            answer.release()
            following = resolve(url, location)
            scheme = origin(following)[0]
            if scheme not in ("http", "https") or (home[0] == "https" and scheme != "https"):
                raise Unavailable(f"{self.host} redirects to an insecure place")
            url = following
        raise Unavailable(f"{self.host} redirects more than {MAX_REDIRECTS} times")

    def _authorizer(self, repository: str) -> Authorizer:
        """One for each repository, for the last few: each remembers the tokens of its own."""
        authorizer = self._authorizers.pop(repository, None)
        if authorizer is None:
            authorizer = Authorizer(self._session, self._base, self._auth, tls=True)
        self._authorizers[repository] = authorizer
        if len(self._authorizers) > MAX_AUTHORIZERS:
            self._authorizers.popitem(last=False)
        return authorizer


async def _pieces(answer: aiohttp.ClientResponse, host: str) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"{host}: {error or type(error).__name__}") from None
