"""One repository of one registry: manifests and blobs. In wherryd, on the event loop. Source: OCI distribution-spec 1.1; Docker registry v2.

**Invariants**: every manifest is bounded and has the digest that was asked for (or is said by the answer); every blob ends with the size and
digest that its descriptor says, or with an error; credentials are sent to the registry's own origin only, redirects lead elsewhere without
them (CVE-2020-15157); a redirect from HTTPS to HTTP is refused; a connection on which nothing comes for `STALL_SECONDS` is given up, and what
can be repeated is repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urljoin

import aiohttp

from wherry import __version__
from wherry.distribution.auth import Authorizer, origin
from wherry.distribution.errors import RegistryError, registry_error
from wherry.distribution.hosts import Endpoint, RegistryHosts
from wherry.errors import DataLoss, InvalidArgument, PermissionDenied, Unavailable, WherryError
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest, is_digest
from wherry.spec.image import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT, Descriptor, digest_of
from wherry.spec.reference import Reference

T = TypeVar("T")

STALL_SECONDS = 60.0
CONNECT_SECONDS = 30.0
ATTEMPTS = 5
FIRST_BACKOFF = 0.5
MAX_RETRY_AFTER = 60.0
MAX_REDIRECTS = 10
MAX_TAGS = 1 << 20  # bytes of one page
PIECE = 1 << 20

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*"))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or index as it came."""

    data: bytes
    media_type: str
    digest: Digest


def new_session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS)
    return aiohttp.ClientSession(
        timeout=timeout,
        headers={"User-Agent": f"wherry/{__version__}"},
        auto_decompress=False,
        read_bufsize=PIECE,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class Repository:
    """Use as `async with Repository.open(…)`. Remembers the endpoint that answered and the tokens, for one operation of one user."""

    def __init__(
        self, session: aiohttp.ClientSession, reference: Reference, endpoint: Endpoint, auth: RegistryAuth
    ) -> None:
        self._session = session
        self._path = reference.path
        self._endpoint = endpoint
        self._scope = f"repository:{reference.path}:pull"
        self._authorizer = Authorizer(session, endpoint.base, auth, verify=endpoint.verify)

    @classmethod
    async def open(
        cls, session: aiohttp.ClientSession, hosts: RegistryHosts, reference: Reference, auth: RegistryAuth
    ) -> Repository:
        """Finds out how the registry is reached: an insecure one is asked with TLS first, then without. Unavailable when it is not there."""
        failures: list[WherryError] = []
        for endpoint in hosts.endpoints(reference.domain):
            repository = cls(session, reference, endpoint, auth)
            try:
                await repository._ping()
            except Unavailable as error:
                failures.append(error)
                continue
            return repository
        raise failures[-1]

    async def _ping(self) -> None:
        url = f"{self._endpoint.base}/v2/"
        async with self._request("GET", url, {}) as answer:
            if answer.status == 401:
                self._authorizer.challenged(_challenges(answer), self._scope)
            elif answer.status >= 500 or answer.status == 429:
                raise registry_error(answer.status, await answer.content.read(MAX_DOCUMENT))

    # --- manifests

    async def manifest(self, reference: str, limit: int = MAX_DOCUMENT) -> Fetched:
        """By tag or digest. RegistryError; DataLoss when it has another digest than it was asked for by; InvalidArgument when too large."""

        async def attempt() -> Fetched:
            url = f"{self._endpoint.base}/v2/{self._path}/manifests/{reference}"
            async with self._authorized(url, {"Accept": _ACCEPT}) as answer:
                data = await _bounded(answer, limit, f"manifest {reference}")
                media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                said = answer.headers.get("Docker-Content-Digest", "")
            digest = digest_of(data)
            if is_digest(reference):
                digest = _verified(Digest(reference), data)
            elif is_digest(said):
                digest = _verified(Digest(said), data)
            return Fetched(data, media_type, digest)

        return await _persistently(attempt)

    async def tags(self) -> list[str]:
        """All tags of the repository."""
        found: list[str] = []
        url: str | None = f"{self._endpoint.base}/v2/{self._path}/tags/list"
        while url is not None and len(found) < 100_000:
            page = url

            async def attempt(page: str = page) -> tuple[bytes, str]:
                async with self._authorized(page, {}) as answer:
                    return await _bounded(answer, MAX_TAGS, "tags"), answer.headers.get("Link", "")

            data, link = await _persistently(attempt)
            found += _tag_names(data)
            following = re.match(r'\s*<([^>]*)>\s*;.*rel="?next"?', link)
            url = resolve(page, following[1]) if following else None
            if url is not None and origin(url) != origin(page):
                raise InvalidArgument(f"the registry's list of tags goes on at another place: {url[:200]}")
        return found

    async def blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, whole and verified."""
        if descriptor.size > limit:
            raise InvalidArgument(f"{descriptor.digest}: {descriptor.size} bytes are too many")
        async with self.blob_pieces(descriptor) as stream:
            data = b"".join([piece async for piece in stream])
        _verified(descriptor.digest, data)
        return data

    # --- blobs

    @asynccontextmanager
    async def blob_pieces(self, descriptor: Descriptor) -> AsyncIterator[AsyncIterator[bytes]]:
        """The blob in pieces of about a MiB, exactly as many bytes as the descriptor says (its digest is the reader's to check).

        A connection that breaks or stalls is made again, and goes on where it was.
        """
        pieces = self._pieces(descriptor)
        try:
            yield pieces
        finally:
            await pieces.aclose()

    async def _pieces(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        url = f"{self._endpoint.base}/v2/{self._path}/blobs/{descriptor.digest}"
        position, failures = 0, 0
        while True:
            before = position
            try:
                headers = {"Range": f"bytes={position}-"} if position else {}
                async with self._authorized(url, headers) as answer:
                    skip = _to_skip(answer, position)
                    async for piece in _read_pieces(answer):
                        if skip >= len(piece):
                            skip -= len(piece)
                            continue
                        piece, skip = piece[skip:], 0
                        position += len(piece)
                        if position > descriptor.size:
                            raise DataLoss(f"{descriptor.digest}: the registry sends more than {descriptor.size} bytes")
                        yield piece
                if position == descriptor.size:
                    return
                raise Unavailable(f"{descriptor.digest}: the registry sent {position} of {descriptor.size} bytes")
            except (Unavailable, RegistryError) as error:
                failures = 1 if position > before else failures + 1
                if failures >= ATTEMPTS or not _may_pass(error):
                    raise
                await _back_off(failures, error)

    # --- requests

    @asynccontextmanager
    async def _authorized(self, url: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET with credentials, following redirects. RegistryError unless the answer is 200 or 206."""
        for _ in range(3):
            header = await self._authorizer.header(self._scope)
            own = {**headers, "Authorization": header} if header else headers
            async with self._redirected(url, own, headers) as answer:
                if answer.status in (200, 206):
                    yield answer
                    return
                body = await answer.content.read(MAX_DOCUMENT)
                again = (
                    answer.status == 401
                    and origin(str(answer.url)) == origin(url)
                    and self._authorizer.challenged(_challenges(answer), self._scope)
                )
                if not again:
                    if answer.status == 401 and self._authorizer.lacks_password:
                        raise PermissionDenied(f'Get "{url[:500]}": no basic auth credentials')
                    error = registry_error(answer.status, body)
                    error.retry_after = answer.headers.get("Retry-After", "")
                    raise error
        raise RegistryError(401, "UNAUTHORIZED", "authentication required")

    @asynccontextmanager
    async def _redirected(
        self, url: str, own: dict[str, str], foreign: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`own` headers for the registry's origin, `foreign` for everywhere else."""
        home = origin(url)
        for _ in range(MAX_REDIRECTS):
            async with self._request("GET", url, own if origin(url) == home else foreign) as answer:
                location = answer.headers.get("Location")
                if answer.status not in (301, 302, 303, 307, 308) or not location:
                    yield answer
                    return
                following = resolve(url, location)
            scheme = origin(following)[0]
            if scheme not in ("http", "https") or (home[0] == "https" and scheme != "https"):
                raise InvalidArgument(f"the registry redirects to an insecure place: {following[:200]}")
            url = following
        raise InvalidArgument(f"the registry redirects more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def _request(self, method: str, url: str, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Unavailable when the connection cannot be made, breaks, or stalls."""
        try:
            async with self._session.request(
                method, url, headers=headers, allow_redirects=False, ssl=self._endpoint.verify
            ) as answer:
                yield answer
        except aiohttp.InvalidURL:
            raise InvalidArgument(f'"{url[:500]}" is not a URL') from None
        except (aiohttp.ClientError, ssl.SSLError, TimeoutError, ConnectionError) as error:
            raise Unavailable(f'{method.capitalize()} "{url[:500]}": {_reason(error)}') from None


def resolve(base: str, location: str) -> str:
    """The URL that a Location or Link header at `base` means."""
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise InvalidArgument(f'the registry leads to "{location[:200]}", which is not a URL: {error}') from None


def _reason(error: BaseException) -> str:
    """In the words of Docker's transport, which people search for."""
    if isinstance(error, TimeoutError):
        return "the registry does not answer"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return f"dial tcp {error.host}:{error.port}: connect: {os.strerror(error.os_error.errno).lower()}"
    return str(error) or type(error).__name__


def _challenges(answer: aiohttp.ClientResponse) -> str:
    return ", ".join(answer.headers.getall("WWW-Authenticate", []))


async def _bounded(answer: aiohttp.ClientResponse, limit: int, what: str) -> bytes:
    data = b""
    async for piece in answer.content.iter_any():
        data += piece
        if len(data) > limit:
            raise InvalidArgument(f"{what}: larger than {limit} bytes")
    return data


def _verified(digest: Digest, data: bytes) -> Digest:
    algorithm, _, encoded = digest.partition(":")
    if hashlib.new(algorithm, data).hexdigest() != encoded:
        raise DataLoss(f"manifest verification failed for digest {digest}")
    return digest


def _to_skip(answer: aiohttp.ClientResponse, position: int) -> int:
    """How many bytes of the answer are known already: all of them if the range was not honoured."""
    if answer.status != 206:
        return position
    matched = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if matched is None or int(matched[1]) > position:
        raise Unavailable("the registry sent another range than it was asked for")
    return position - int(matched[1])


async def _read_pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What comes, gathered to about a MiB, so that whoever writes it has less to do."""
    gathered: list[bytes] = []
    size = 0
    async for piece in answer.content.iter_any():
        gathered.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


def _tag_names(data: bytes) -> list[str]:
    try:
        names = json.loads(data).get("tags") or []
        if not isinstance(names, list):
            raise ValueError
        return [name for name in names if isinstance(name, str)]
    except (ValueError, AttributeError, RecursionError):
        raise InvalidArgument("the registry's list of tags is malformed") from None


# --- trying again --------------------------------------------------------------------------------------------------------------------


async def _persistently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeats what failed for a passing reason, later each time."""
    failures = 0
    while True:
        try:
            return await attempt()
        except (Unavailable, RegistryError) as error:
            failures += 1
            if failures >= ATTEMPTS or not _may_pass(error):
                raise
            await _back_off(failures, error)


def _may_pass(error: WherryError) -> bool:
    return error.transient if isinstance(error, RegistryError) else True


async def _back_off(failures: int, error: WherryError) -> None:
    asked = getattr(error, "retry_after", "")
    delay = float(asked) if asked.isdigit() else FIRST_BACKOFF * 2 ** (failures - 1)
    await asyncio.sleep(min(delay, MAX_RETRY_AFTER))
