"""A pull-through cache: a registry that has what another has, and keeps what it was asked for.

    a tag      is asked for upstream each time (HEAD); what has not changed comes from here; without upstream, what is here, with a Warning
    a digest   comes from here, or is fetched once, however many clients wait for it
    a blob     likewise; clients are sent what has come so far, while it is written and hashed

**Invariants**: nothing is kept that does not have its digest. The last byte of a blob goes out only when its digest was right: a client never holds a
whole blob that is wrong. A repository shows a blob only if the other registry shows it there. A fetch that has begun is finished, whoever has gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from wherry.errors import DataLoss, Unavailable, WherryError
from wherry.registry import blobs, lists, manifests
from wherry.registry.call import PIECE, Call
from wherry.registry.documents import MAX_MANIFEST, parse
from wherry.registry.errors import Code, Refused
from wherry.registry.index import StoredManifest
from wherry.registry.names import Kind, check_digest
from wherry.registry.repositories import NewManifest, Repositories
from wherry.registry.sending import blob_headers, write
from wherry.registry.server import Handler
from wherry.registry.uploads import Upload
from wherry.registry.upstream import ATTEMPTS, Upstream
from wherry.spec.ids import Digest, is_digest

T = TypeVar("T")

MAX_LIST = 8 << 20
STALE = {"Warning": '299 - "the registry behind this cache does not answer: this may be out of date"'}


@dataclass
class Fetch:
    """A blob on its way in. `moved` is replaced each time that more has come, or that it has ended."""

    upload: Upload
    fd: int
    """The growing file, to be read. Who follows makes a copy of it before waiting for anything."""
    size: int | None = None
    ended: bool = False
    error: Exception | None = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    @property
    def presentable(self) -> int:
        """Bytes that clients may have: all but the last one until the digest was found right."""
        return self.upload.size if self.ended else min(self.upload.size, max((self.size or 0) - 1, 0))


class Cache:
    """`tasks`: the group in which fetches run; it outlives requests."""

    def __init__(
        self,
        repositories: Repositories,
        upstream: Upstream,
        tasks: asyncio.TaskGroup,
        note: Callable[[str, str], None] = lambda what, result: None,
    ) -> None:
        self._repositories = repositories
        self._upstream = upstream
        self._tasks = tasks
        self._note = note
        self._fetches: dict[tuple[str, Digest], Fetch] = {}
        self._flights: dict[tuple[str, str], asyncio.Future[StoredManifest]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def stop(self) -> None:
        """Gives up what is under way."""
        for task in self._running:
            task.cancel()

    @property
    def routes(self) -> dict[Kind, dict[str, Handler]]:
        """What a cache answers: nothing that would change it."""
        return {
            Kind.BASE: {"GET": lists.base, "HEAD": lists.base},
            Kind.CATALOG: {"GET": lists.catalog},
            Kind.TAGS: {"GET": self.relay},
            Kind.REFERRERS: {"GET": self.relay},
            Kind.MANIFEST: {"GET": self.manifest, "HEAD": self.manifest},
            Kind.BLOB: {"GET": self.blob, "HEAD": self.blob_head},
            Kind.UPLOADS: {},
            Kind.UPLOAD: {},
        }

    # --- manifests

    async def manifest(self, call: Call) -> web.StreamResponse:
        local = self._local(call.repository, call.last)
        if local is not None and is_digest(call.last):
            self._note("manifest", "hit")
            return manifests.answer(call, local)
        try:
            found = await self._shared(call.repository, call.last, local)
        except Unavailable:
            if local is None:
                raise
            self._note("manifest", "stale")
            return manifests.answer(call, local, **STALE)
        return manifests.answer(call, found)

    def _local(self, repository: str, reference: str) -> StoredManifest | None:
        try:
            return self._repositories.manifest(repository, reference)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    async def _shared(self, repository: str, reference: str, local: StoredManifest | None) -> StoredManifest:
        """One question upstream for all who ask the same at the same time."""
        key = (repository, reference)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.get_running_loop().create_future()
            self._flights[key] = flight
            self._start(self._fly(key, flight, self._refresh(repository, reference, local)))
        return await asyncio.shield(flight)

    async def _fly(self, key: tuple[str, str], flight: asyncio.Future[T], question: Awaitable[T]) -> None:
        try:
            flight.set_result(await question)
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # looked at: whoever asked may have gone
        finally:
            flight.cancel()
            self._flights.pop(key, None)

    async def _refresh(self, repository: str, reference: str, local: StoredManifest | None) -> StoredManifest:
        try:
            if local is not None and await self._upstream.digest(repository, reference) == local.digest:
                self._note("manifest", "hit")
                return local
            self._note("manifest", "miss")
            path = f"/v2/{repository}/manifests/{reference}"
            fetched = await self._upstream.fetch(repository, path, MAX_MANIFEST)
        except Refused as refused:
            if refused.code is Code.MANIFEST_UNKNOWN and local is not None:
                await self._repositories.delete_manifest(repository, reference)  # the tag is gone there
            raise
        said = reference if is_digest(reference) else fetched.headers.get("docker-content-digest", "")
        algorithm = said.partition(":")[0] if is_digest(said) else "sha256"
        digest = Digest(f"{algorithm}:{hashlib.new(algorithm, fetched.content).hexdigest()}")
        if is_digest(said) and said != digest:
            raise DataLoss(f"{self._upstream.host}: manifest {reference} of {repository} does not have its digest")
        media_type = fetched.headers.get("content-type", "")
        document = await asyncio.to_thread(parse, fetched.content, media_type)
        tags = () if is_digest(reference) else (reference,)
        new = NewManifest(repository, digest, fetched.content, document, tags, complete=False)
        await self._repositories.put_manifest(new)
        return StoredManifest(digest, document.media_type, fetched.content)

    # --- lists

    async def relay(self, call: Call) -> web.StreamResponse:
        """The other registry's list, as it is now."""
        path = call.http.raw_path
        try:
            fetched = await self._upstream.fetch(call.repository, path, MAX_LIST)
        except Unavailable:
            handler = lists.tags if urlsplit(path).path.endswith("/tags/list") else lists.referrers
            response = await handler(call)
            response.headers.update(STALE)
            return response
        kept: dict[str, str] = {
            name: fetched.headers[name] for name in ("content-type", "oci-filters-applied") if name in fetched.headers
        }
        target = _link_path(fetched.headers.get("link", ""))
        if target:
            kept["Link"] = f'<{target}>; rel="next"'
        return web.Response(body=fetched.content, headers=call.headers() | kept)

    # --- blobs

    async def blob_head(self, call: Call) -> web.StreamResponse:
        digest = check_digest(call.last)
        if await self._has(call.repository, digest):
            return await blobs.head(call)
        size = await self._upstream.has_blob(call.repository, digest)
        if size is None:
            raise Refused(Code.BLOB_UNKNOWN, "blob unknown to registry", detail={"digest": digest})
        return web.Response(headers=blob_headers(call, digest) | {"Content-Length": str(size)})

    async def blob(self, call: Call) -> web.StreamResponse:
        digest = check_digest(call.last)
        if await self._has(call.repository, digest):
            self._note("blob", "hit")
            return await blobs.get(call)
        fetch = self._fetch(call.repository, digest)
        while fetch.size is None and not fetch.ended:
            await fetch.moved.wait()
        if fetch.error is not None:
            raise _again(fetch.error)
        if fetch.ended or not fetch.size or "Range" in call.http.headers:
            while not fetch.ended:
                await fetch.moved.wait()
            if fetch.error is not None:
                raise _again(fetch.error)
            return await blobs.get(call)
        return await self._follow(call, digest, fetch, fetch.size)  # nothing is awaited in between

    async def _has(self, repository: str, digest: Digest) -> bool:
        """Whether the blob can be served from here. A content that another repository brought counts if upstream shows it here, too."""
        repositories = self._repositories
        size = await repositories.content_size(digest)
        if size is None:
            return False
        if await repositories.shows(repository, digest):
            return True
        if await self._upstream.has_blob(repository, digest) != size:
            return False
        return await repositories.mount(repository, digest, repositories.index.repositories_with(digest))

    def _fetch(self, repository: str, digest: Digest) -> Fetch:
        """The fetch that is under way, or a new one."""
        key = (repository, digest)
        fetch = self._fetches.get(key)
        if fetch is None:
            self._note("blob", "miss")
            upload = self._repositories.uploads.start(repository, digest.partition(":")[0])
            fd = os.open(upload.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fetch = self._fetches[key] = Fetch(upload, fd)
            self._start(self._fetch_blob(repository, digest, fetch))
        return fetch

    async def _fetch_blob(self, repository: str, digest: Digest, fetch: Fetch) -> None:
        upload = fetch.upload
        try:
            async with upload.lock:
                for attempt in range(1, ATTEMPTS + 1):
                    before = upload.size
                    try:
                        async with self._upstream.blob(repository, digest, upload.size) as (size, pieces):
                            if fetch.size is None:
                                fetch.size = size
                            await upload.append(_noticed(pieces, fetch))
                        break
                    except Unavailable:
                        if attempt == ATTEMPTS or upload.size == before:
                            raise
                if fetch.size is not None and upload.size != fetch.size:
                    raise DataLoss(f"{self._upstream.host} sent {upload.size} of {fetch.size} bytes of {digest}")
                await self._repositories.finish(repository, upload, digest)
        except Exception as error:
            fetch.error = error
        except asyncio.CancelledError:
            fetch.error = Unavailable("the registry stops")
            raise
        finally:
            fetch.ended = True
            os.close(fetch.fd)
            del self._fetches[(repository, digest)]
            self._repositories.uploads.end(upload)
            fetch.move()

    async def _follow(self, call: Call, digest: Digest, fetch: Fetch, size: int) -> web.StreamResponse:
        """Sends what has come, as it comes."""
        response = web.StreamResponse(headers=blob_headers(call, digest))
        response.content_length = size
        fd, position = os.dup(fetch.fd), 0
        try:
            while position < size:
                if fetch.error is not None:
                    raise ConnectionResetError(f"{digest} did not come whole: {fetch.error}")
                ready = fetch.presentable
                if position >= ready:
                    await fetch.moved.wait()
                    continue
                if not response.prepared:
                    await response.prepare(call.http)
                piece = await asyncio.to_thread(os.pread, fd, min(PIECE, ready - position), position)
                await write(response, piece)
                position += len(piece)
        finally:
            os.close(fd)
        await response.write_eof()
        return response


async def _noticed(pieces: AsyncIterator[bytes], fetch: Fetch) -> AsyncIterator[bytearray]:
    """Gathered, and told to those who follow. A piece is written when the next one is asked for."""
    gathered, told = bytearray(), time.monotonic()
    async for piece in pieces:
        gathered += piece
        if fetch.size is not None and fetch.upload.size + len(gathered) > fetch.size + 2 * PIECE:
            raise DataLoss(f"the registry sends more than {fetch.size} bytes")
        if len(gathered) >= PIECE or time.monotonic() - told > 0.2:
            yield gathered
            fetch.move()
            gathered, told = bytearray(), time.monotonic()
    if gathered:
        yield gathered
    fetch.move()


def _again(error: Exception) -> Exception:
    """An error for one more who waited: the original's traceback belongs to another."""
    match error:
        case Refused():
            return Refused(error.code, error.message, status=error.status, detail=error.detail, headers=error.headers)
        case WherryError():
            return type(error)(str(error))
    return Unavailable(f"the blob cannot be fetched: {error}")


def _link_path(header: str) -> str:
    """The path and query that a Link to the next page leads to; "" when there is none."""
    target, _, rest = header.strip().partition(">")
    if not target.startswith("<") or "next" not in rest:
        return ""
    parts = urlsplit(target[1:])
    return f"{parts.path}?{parts.query}" if parts.path.startswith("/v2/") else ""
