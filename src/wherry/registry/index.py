"""All that must last but the blobs' contents: repositories, links to blobs, manifests, tags - in one SQLite file.

    repositories(name)
    blobs(digest)              the contents that Storage holds
    links(repository, digest)  a blob that a repository shows
    manifests, needs, tags     `needs` says which digests a manifest keeps alive, blobs and manifests alike

Writes are functions on the connection of one thread; those that wait together share one transaction and one fsync (group commit), each in a
savepoint of its own. Reads happen where they are called, on a connection of their own: a look-up by primary key in a WAL database waits for nobody.

**Invariants**: write-ahead log with `synchronous=FULL`: what `write` answered survives a power cut; a function happens whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from wherry.errors import DataLoss
from wherry.spec.ids import Digest

T = TypeVar("T")
Write = Callable[[sqlite3.Connection], Any]
_Pending = tuple[Write, asyncio.AbstractEventLoop, "asyncio.Future[Any]"]

VERSION = 1
BATCH = 256

_SCHEMA = """
create table repositories (name text primary key) without rowid;
create table blobs (digest text primary key, size integer not null) without rowid;
create table links (
    repository text not null, digest text not null, touched real not null, primary key (repository, digest)
) without rowid;
create index links_by_digest on links (digest);
create table manifests (
    id integer primary key, repository text not null, digest text not null, media_type text not null,
    subject text, artifact_type text not null, descriptor text not null, content blob not null, touched real not null,
    unique (repository, digest)
);
create index manifests_by_subject on manifests (repository, subject, digest) where subject is not null;
create table needs (
    manifest integer not null references manifests on delete cascade, repository text not null, digest text not null,
    primary key (manifest, digest)
) without rowid;
create index needs_by_digest on needs (repository, digest);
create table tags (
    repository text not null, name text not null, digest text not null, touched real not null, primary key (repository, name)
) without rowid;
create index tags_by_digest on tags (repository, digest);
"""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    digest: Digest
    media_type: str
    content: bytes


class Index:
    """`Index(path)`. Created, used and closed on the event loop's thread."""

    def __init__(self, path: str) -> None:
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._writer = _connect(path)
        try:
            self._prepare(path)
            self.reader = _connect(path)
        except BaseException:
            self._writer.close()
            raise
        self.reader.execute("pragma query_only=on")
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)
        self._thread.start()

    def _prepare(self, path: str) -> None:
        [version] = self._writer.execute("pragma user_version").fetchone()
        if version == 0:
            self._writer.executescript(f"begin; {_SCHEMA} pragma user_version={VERSION}; commit;")
        elif version != VERSION:
            raise DataLoss(f"{path}: written by another version of wherry (format {version}, not {VERSION})")

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """The function's answer, once what it wrote is on disk. What it raises is raised here, and nothing of it was written.

        Cancelling the caller does not undo it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put((function, loop, future))
        return await future

    def close(self) -> None:
        """After the writes that were asked for."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()
        self.reader.close()

    # --- the writer's thread

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch: list[_Pending] = [first]
            ending = False
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH and not ending:
                    following = self._queue.get_nowait()
                    if following is None:
                        ending = True
                    else:
                        batch.append(following)
            self._commit(batch)
            if ending:
                return

    def _commit(self, batch: list[_Pending]) -> None:
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            self._writer.execute("begin immediate")
            outcomes = [self._attempt(function) for function, _, _ in batch]
            self._writer.execute("commit")
        except sqlite3.Error as error:  # disk full, for one: nobody is told that it is written
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("rollback")
            outcomes = [(None, error)] * len(batch)
        for (_, loop, future), (value, failure) in zip(batch, outcomes, strict=True):
            loop.call_soon_threadsafe(_settle, future, value, failure)

    def _attempt(self, function: Write) -> tuple[Any, BaseException | None]:
        self._writer.execute("savepoint one")
        try:
            value = function(self._writer)
        except Exception as error:
            self._writer.execute("rollback to one")
            self._writer.execute("release one")
            return None, error
        self._writer.execute("release one")
        return value, None

    # --- look-ups

    def has_repository(self, name: str) -> bool:
        return self.reader.execute("select 1 from repositories where name = ?", (name,)).fetchone() is not None

    def has_link(self, repository: str, digest: str) -> bool:
        query = "select 1 from links where repository = ? and digest = ?"
        return self.reader.execute(query, (repository, digest)).fetchone() is not None

    def repositories_with(self, digest: str) -> list[str]:
        rows = self.reader.execute("select repository from links where digest = ? limit 1000", (digest,))
        return [name for (name,) in rows]

    def tag(self, repository: str, name: str) -> Digest | None:
        query = "select digest from tags where repository = ? and name = ?"
        row = self.reader.execute(query, (repository, name)).fetchone()
        return Digest(row[0]) if row else None

    def manifest(self, repository: str, digest: str) -> StoredManifest | None:
        query = "select media_type, content from manifests where repository = ? and digest = ?"
        row = self.reader.execute(query, (repository, digest)).fetchone()
        return StoredManifest(Digest(digest), row[0], row[1]) if row else None

    def repositories(self, last: str, limit: int) -> list[str]:
        rows = self.reader.execute("select name from repositories where name > ? order by name limit ?", (last, limit))
        return [name for (name,) in rows]

    def tags(self, repository: str, last: str, limit: int) -> list[str]:
        query = "select name from tags where repository = ? and name > ? order by name limit ?"
        return [name for (name,) in self.reader.execute(query, (repository, last, limit))]

    def referrers(
        self, repository: str, subject: str, artifact_type: str | None, last: str, limit: int
    ) -> list[tuple[str, str]]:
        """[(digest, descriptor)] in the order of the digests."""
        query = "select digest, descriptor from manifests where repository = ? and subject = ? and digest > ?"
        values: list[Any] = [repository, subject, last]
        if artifact_type is not None:
            query += " and artifact_type = ?"
            values.append(artifact_type)
        return self.reader.execute(f"{query} order by digest limit ?", (*values, limit)).fetchall()


# --- writes, for `Index.write` -----------------------------------------------------------------------------------------------------------


def link_blob(connection: sqlite3.Connection, repository: str, digest: Digest, size: int, now: float) -> None:
    """The blob's content is in the storage."""
    connection.execute("insert or ignore into repositories values (?)", (repository,))
    connection.execute("insert or replace into blobs values (?, ?)", (digest, size))
    connection.execute("insert or replace into links values (?, ?, ?)", (repository, digest, now))


def delete_tag(connection: sqlite3.Connection, repository: str, name: str) -> bool:
    return connection.execute("delete from tags where repository = ? and name = ?", (repository, name)).rowcount > 0


def delete_link(connection: sqlite3.Connection, repository: str, digest: str) -> bool:
    query = "delete from links where repository = ? and digest = ?"
    return connection.execute(query, (repository, digest)).rowcount > 0


def delete_manifest(connection: sqlite3.Connection, repository: str, digest: str) -> bool:
    """And the tags that point to it."""
    connection.execute("delete from tags where repository = ? and digest = ?", (repository, digest))
    query = "delete from manifests where repository = ? and digest = ?"
    return connection.execute(query, (repository, digest)).rowcount > 0


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.execute("pragma foreign_keys=on")
    return connection


def _settle(future: asyncio.Future[Any], value: Any, failure: BaseException | None) -> None:
    if future.cancelled():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(value)
