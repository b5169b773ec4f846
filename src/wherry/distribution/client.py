"""One repository of one registry: manifests and blobs. In wherryd, on the event loop. Source: OCI distribution-spec 1.1; Docker registry v2.

**Invariants**: every manifest is bounded and has the digest that was asked for (or is said by the answer); every blob has the size that its
descriptor says, or ends with an error; what can be repeated is repeated; what a mirror cannot give comes from the registry itself.
Deliberately absent: uploading (`upload`), and how a request is made (`connection`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import urlencode

import aiohttp

from wherry.distribution.auth import origin
from wherry.distribution.connection import (
    ATTEMPTS,
    PIECE,
    Connection,
    back_off,
    bounded,
    is_limit,
    limited,
    may_pass,
    persistently,
    resolve,
)
from wherry.distribution.endpoint import Endpoint
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import DataLoss, InvalidArgument, Unavailable, WherryError
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest, is_digest
from wherry.spec.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Index,
    digest_of,
    parse_document,
)
from wherry.spec.reference import Reference

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_TAGS = 1 << 20  # bytes of one page

_ACCEPT = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES, "*/*"))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or index as it came."""

    data: bytes
    media_type: str
    digest: Digest


class Repository:
    """Made by `open`. Remembers the endpoints and their tokens, for one operation of one user."""

    def __init__(self, path: str, connections: Sequence[Connection], scope: str) -> None:
        self.path = path
        self.scope = scope
        self.attempts = ATTEMPTS
        """How often in a row a blob's download may fail."""
        self._connections = list(connections)

    @classmethod
    async def open(
        cls, session: aiohttp.ClientSession, hosts: RegistryHosts, reference: Reference, auth: RegistryAuth
    ) -> Repository:
        """For reading. Finds out how the registry is reached: mirrors first; an insecure one is asked with TLS, then without. Unavailable when it
        is not there."""
        scope = f"repository:{reference.path}:pull"
        found = await reachable(session, hosts.endpoints(reference.domain), auth, scope)
        return cls(reference.path, found, scope)

    def _url(self, connection: Connection, rest: str) -> str:
        return connection.url(f"{self.path}/{rest}")

    async def _anywhere(self, attempt: Callable[[Connection], Awaitable[T]], *, resolving: bool) -> T:
        """From the first that has it: what fails at a mirror is asked of the next, and in the end of the registry itself. `resolving`: no digest
        tells whether the answer is right."""
        connections = self._resolving() if resolving else self._connections
        for connection in connections[:-1]:
            try:
                return await attempt(connection)
            except WherryError as error:
                _log.info("mirror %s: %s", connection.endpoint.base, error)
        last = connections[-1]
        return await persistently(lambda: attempt(last))

    def _resolving(self) -> list[Connection]:
        found = [connection for connection in self._connections if connection.endpoint.may_resolve]
        if not found:
            raise Unavailable(f"{self.path}: no host that is there may resolve names (hosts.toml)")
        return found

    # --- manifests

    async def manifest(self, reference: str, limit: int = MAX_DOCUMENT) -> Fetched:
        """By tag or digest. RegistryError; DataLoss when it has another digest than it was asked for by; InvalidArgument when too large."""

        async def attempt(connection: Connection) -> Fetched:
            url = self._url(connection, f"manifests/{reference}")
            async with connection.authorized("GET", url, self.scope, {"Accept": _ACCEPT}) as answer:
                data = await bounded(answer, limit, f"manifest {reference}")
                media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                said = answer.headers.get("Docker-Content-Digest", "")
            digest = digest_of(data)
            if is_digest(reference):
                digest = _verified(Digest(reference), data)
            elif is_digest(said):
                digest = _verified(Digest(said), data)
            return Fetched(data, media_type, digest)

        return await self._anywhere(attempt, resolving=not is_digest(reference))

    async def tags(self) -> list[str]:
        """All tags of the repository, from the registry itself."""
        connection = self._resolving()[-1]
        found: list[str] = []
        url: str | None = self._url(connection, "tags/list")
        while url is not None and len(found) < 100_000:
            page = url

            async def attempt(page: str = page) -> tuple[bytes, str]:
                async with connection.authorized("GET", page, self.scope, {}) as answer:
                    return await bounded(answer, MAX_TAGS, "tags"), answer.headers.get("Link", "")

            data, link = await persistently(attempt)
            found += _tag_names(data)
            following = re.match(r'\s*<([^>]*)>\s*;.*rel="?next"?', link)
            url = resolve(page, following[1]) if following else None
            if url is not None and origin(url) != origin(page):
                raise InvalidArgument(f"the registry's list of tags goes on at another place: {url[:200]}")
        return found

    async def referrers(self, digest: Digest, artifact_type: str) -> list[Descriptor]:
        """What says that it belongs to the manifest `digest`, of that type as far as the registry filters (it need not): by the API, and where
        there is none by the tag that stands for it. One page."""

        async def attempt(connection: Connection) -> bytes:
            url = self._url(connection, f"referrers/{digest}?{urlencode({'artifactType': artifact_type})}")
            async with connection.authorized("GET", url, self.scope, {"Accept": OCI_INDEX}) as answer:
                return await bounded(answer, MAX_DOCUMENT, "referrers")

        try:
            data = await self._anywhere(attempt, resolving=True)
        except RegistryError as error:
            if error.status not in (404, 405):
                raise
            try:
                data = (await self.manifest(digest.replace(":", "-"))).data
            except RegistryError as absent:
                if absent.status != 404:
                    raise
                return []
        document = parse_document(data, OCI_INDEX)
        return list(document.manifests) if isinstance(document, Index) else []

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
    async def blob_pieces(
        self, descriptor: Descriptor, start: int = 0, waiting: Callable[[float], None] = lambda seconds: None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The blob from byte `start` on, in pieces of about a MiB, exactly as many bytes as the descriptor says (its digest is the reader's
        to check). A connection that breaks or stalls is made again, and goes on where it was; `waiting` is told before for how many seconds."""
        pieces = self._pieces(descriptor, start, waiting)
        try:
            yield pieces
        finally:
            await pieces.aclose()

    async def _pieces(
        self, descriptor: Descriptor, position: int, waiting: Callable[[float], None]
    ) -> AsyncGenerator[bytes, None]:
        connections = list(self._connections)
        failures = 0
        while True:
            before = position
            try:
                async with aclosing(self._from(connections[0], descriptor, position)) as pieces:
                    async for piece in pieces:
                        position += len(piece)
                        yield piece
                return
            except WherryError as error:
                failures = 1 if position > before else failures + 1
                is_last = len(connections) == 1
                if failures < self.attempts and may_pass(error) and (is_last or not is_limit(error)):
                    await back_off(failures, error, waiting)
                elif is_last:
                    raise
                else:
                    _log.info("mirror %s: %s", connections.pop(0).endpoint.base, error)
                    failures = 0

    async def _from(self, connection: Connection, descriptor: Descriptor, position: int) -> AsyncGenerator[bytes, None]:
        """One request for what comes after `position`."""
        headers = {"Range": f"bytes={position}-"} if position else {}
        url = self._url(connection, f"blobs/{descriptor.digest}")
        async with connection.authorized("GET", url, self.scope, headers) as answer:
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
        if position < descriptor.size:
            raise Unavailable(f"{descriptor.digest}: the registry sent {position} of {descriptor.size} bytes")


async def reachable(
    session: aiohttp.ClientSession, endpoints: Sequence[Endpoint], auth: RegistryAuth, scope: str
) -> list[Connection]:
    """Those mirrors that answer, then the registry. Raises what the registry's last endpoint says when none of the registry's does and there is
    no mirror. Mirrors are spoken to without credentials."""
    mirrors: list[Connection] = []
    failure: WherryError | None = None
    for endpoint in endpoints:
        connection = Connection(session, endpoint, RegistryAuth() if endpoint.mirror else auth)
        try:
            # A mirror that is asked too much is passed over: the next one may have time.
            await (connection.ping(scope) if endpoint.mirror else limited(partial(connection.ping, scope)))
        except (Unavailable, RegistryError) as error:
            if endpoint.mirror:
                _log.info("mirror %s: %s", endpoint.base, error)
                continue
            if isinstance(error, RegistryError):
                raise
            failure = error
            continue
        if not endpoint.mirror:
            return [*mirrors, connection]
        mirrors.append(connection)
    if mirrors:
        return mirrors
    assert failure is not None  # the registry itself is always among the endpoints
    raise failure


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
    """What comes, gathered to about a MiB, so that whoever writes it has less to do. What came before a connection broke counts."""
    gathered: list[bytes] = []
    size = 0
    try:
        async for piece in answer.content.iter_any():
            gathered.append(piece)
            size += len(piece)
            if size >= PIECE:
                yield b"".join(gathered)
                gathered, size = [], 0
    except (aiohttp.ClientError, OSError):
        if gathered:
            yield b"".join(gathered)
        raise
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
