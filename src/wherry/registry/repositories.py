"""What the registry does, without HTTP: blobs, uploads, manifests and tags of repositories.

Runs on the event loop; what blocks goes to threads. An operation that changes something is one transaction of the index.

**Invariants**: a blob is in the storage before a repository shows it. A manifest is taken only if all that it needs is there, checked in the
transaction that takes it, so that the collector cannot come between. A blob that a client was told to exist stays for the grace period (`touched`):
it is about to be named by a manifest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from wherry.errors import NotFound
from wherry.registry.documents import Document
from wherry.registry.errors import Code, Refused
from wherry.registry.index import Index, StoredManifest, delete_link, delete_manifest, delete_tag, link_blob
from wherry.registry.names import check_digest, is_tag
from wherry.registry.storage import OpenBlob, Storage
from wherry.registry.uploads import Upload, Uploads
from wherry.spec.ids import Digest, is_digest

Pair = tuple[str, Digest]
"""A repository and a digest in it."""


@dataclass(frozen=True, slots=True)
class NewManifest:
    """A manifest that is to be stored. `tags` point to it afterwards."""

    repository: str
    digest: Digest
    content: bytes
    document: Document
    tags: Sequence[str] = ()
    complete: bool = True
    """Whether all that it needs must be there: a cache fetches it when it is asked for."""


class Repositories:
    """Everything below `root`: `index.db`, `uploads/`, and the storage."""

    def __init__(self, root: str, storage: Storage) -> None:
        self.storage = storage
        self.uploads = Uploads(os.path.join(root, "uploads"))
        self.index = Index(os.path.join(root, "index.db"))
        self.touched: dict[Pair, float] = {}
        """When a client was last told that a blob exists, or has read a manifest; the collector empties it."""
        self.condemned: set[Pair] = set()
        """Links that the collector is about to remove; `settled` tells when it has."""
        self.settled = asyncio.Event()
        self._content_locks: dict[Digest, tuple[asyncio.Lock, int]] = {}

    def close(self) -> None:
        self.index.close()

    # --- blobs

    async def blob_size(self, repository: str, digest: Digest) -> int:
        size = await self.content_size(digest) if await self.shows(repository, digest) else None
        if size is None:
            raise self._blob_unknown(digest)
        return size

    async def open_blob(self, repository: str, digest: Digest) -> OpenBlob:
        """The caller closes it."""
        if await self.shows(repository, digest):
            with contextlib.suppress(NotFound):
                if self.storage.is_local:
                    return self.storage.open(digest)
                return await asyncio.to_thread(self.storage.open, digest)
        raise self._blob_unknown(digest)

    async def delete_blob(self, repository: str, digest: Digest) -> None:
        if not await self.index.write(lambda connection: delete_link(connection, repository, digest)):
            raise self._blob_unknown(digest)

    async def mount(self, repository: str, digest: Digest, sources: Iterable[str]) -> bool:
        """Shows a blob of one of the `sources` in `repository` as well. False when none of them has it."""
        for source in sources:
            async with self.content(digest):
                size = await self.content_size(digest)
                if size is not None and await self.shows(source, digest):
                    await self._link(repository, digest, size)
                    return True
        return False

    async def finish(self, repository: str, upload: Upload, digest: Digest) -> None:
        """Closes an upload (its lock is held): the blob is there and durable."""
        await asyncio.to_thread(upload.verify, digest)
        await self.adopt(repository, upload.path, digest, upload.size)
        self.uploads.end(upload)

    async def adopt(self, repository: str, path: str, digest: Digest, size: int) -> None:
        """A verified file becomes a blob of the repository; the storage takes the file unless it has such a blob."""
        async with self.content(digest):
            if await self.content_size(digest) != size:
                await asyncio.to_thread(self.storage.keep, path, digest)
            await self._link(repository, digest, size)

    async def content_size(self, digest: Digest) -> int | None:
        """Bytes in the storage, whoever shows them; None when it has no such blob."""
        if self.storage.is_local:
            return self.storage.size(digest)
        return await asyncio.to_thread(self.storage.size, digest)

    async def _link(self, repository: str, digest: Digest, size: int) -> None:
        now = time.time()
        await self.index.write(lambda connection: link_blob(connection, repository, digest, size, now))

    @contextlib.asynccontextmanager
    async def content(self, digest: Digest) -> AsyncIterator[None]:
        """Nobody else stores or removes this content meanwhile."""
        lock, users = self._content_locks.get(digest, (None, 0))
        lock = lock or asyncio.Lock()
        self._content_locks[digest] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._content_locks[digest][1] - 1
            if users:
                self._content_locks[digest] = (lock, users)
            else:
                del self._content_locks[digest]

    async def shows(self, repository: str, digest: Digest) -> bool:
        """Whether the repository has a link to this blob. The collector spares it from now on: a client is told about it."""
        pair = (repository, digest)
        while pair in self.condemned:
            await self.settled.wait()
        if not self.index.has_link(repository, digest):
            return False
        self.touched[pair] = time.time()
        return True

    @staticmethod
    def _blob_unknown(digest: Digest) -> Refused:
        return Refused(Code.BLOB_UNKNOWN, "blob unknown to registry", detail={"digest": digest})

    # --- manifests and tags

    def resolve(self, repository: str, reference: str) -> Digest:
        """The digest that a tag or digest means. Refused when it is neither, or is not there."""
        if is_digest(reference):
            return Digest(reference)
        if ":" in reference:
            check_digest(reference)
        digest = self.index.tag(repository, reference) if is_tag(reference) else None
        if digest is None:
            raise self._manifest_unknown(repository, reference)
        return digest

    def manifest(self, repository: str, reference: str) -> StoredManifest:
        digest = self.resolve(repository, reference)
        found = self.index.manifest(repository, digest)
        if found is None:
            raise self._manifest_unknown(repository, reference)
        self.touched[(repository, digest)] = time.time()
        return found

    async def put_manifest(self, new: NewManifest) -> None:
        await self.index.write(lambda connection: _put_manifest(connection, new, time.time()))

    async def delete_manifest(self, repository: str, reference: str) -> None:
        """A tag: only the tag. A digest: the manifest and all tags that point to it."""

        def delete(connection: sqlite3.Connection) -> bool:
            if is_digest(reference):
                return delete_manifest(connection, repository, reference)
            return delete_tag(connection, repository, reference)

        self.resolve(repository, reference)
        if not await self.index.write(delete):
            raise self._manifest_unknown(repository, reference)

    def _manifest_unknown(self, repository: str, reference: str) -> Refused:
        if not self.index.has_repository(repository):
            return self.name_unknown(repository)
        return Refused(Code.MANIFEST_UNKNOWN, "manifest unknown", detail={"name": repository, "reference": reference})

    @staticmethod
    def name_unknown(repository: str) -> Refused:
        return Refused(Code.NAME_UNKNOWN, "repository name not known to registry", detail={"name": repository})


def _put_manifest(connection: sqlite3.Connection, new: NewManifest, now: float) -> None:
    document, repository = new.document, new.repository
    if new.complete:
        has_link = "select 1 from links where repository = ? and digest = ?"
        missing = _missing(connection, has_link, repository, document.blobs)
        has_manifest = "select 1 from manifests where repository = ? and digest = ?"
        missing += _missing(connection, has_manifest, repository, document.manifests)
        missing += _missing(
            connection, has_link, repository, _missing(connection, has_manifest, repository, document.listed)
        )
        if missing:
            raise Refused(
                Code.MANIFEST_BLOB_UNKNOWN,
                "manifest references a manifest or blob unknown to registry",
                detail={"digests": missing[:100]},
            )
    connection.execute("insert or ignore into repositories values (?)", (repository,))
    known = connection.execute(
        "select id, media_type from manifests where repository = ? and digest = ?", (repository, new.digest)
    ).fetchone()
    if known is None or known[1] != document.media_type:
        if known is not None:
            connection.execute("delete from manifests where id = ?", (known[0],))
        descriptor = document.descriptor(new.digest, len(new.content))
        cursor = connection.execute(
            "insert into manifests (repository, digest, media_type, subject, artifact_type, descriptor, content, touched)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                repository,
                new.digest,
                document.media_type,
                document.subject,
                document.artifact_type,
                descriptor,
                new.content,
                now,
            ),
        )
        rows = ((cursor.lastrowid, repository, digest) for digest in set(document.needs))
        connection.executemany("insert into needs values (?, ?, ?)", rows)
    else:
        connection.execute("update manifests set touched = ? where id = ?", (now, known[0]))
    for tag in new.tags:
        connection.execute("insert or replace into tags values (?, ?, ?, ?)", (repository, tag, new.digest, now))


def _missing(connection: sqlite3.Connection, query: str, repository: str, digests: Iterable[Digest]) -> list[Digest]:
    return [digest for digest in digests if connection.execute(query, (repository, digest)).fetchone() is None]
