"""Removes what nothing needs, while the registry serves: abandoned uploads, blobs that no manifest needs, contents that no repository shows.

A blob of a repository is needed while a manifest there names it. One that none names is kept for the grace period, counted from when it came or a
client was last told that it exists: that client is about to push the manifest. Manifests stay until somebody deletes them, unless `untagged` asks for
those to go that no tag leads to - directly, through an index, or as a referrer of one that stays.

**Invariants**: nothing is removed that a manifest names: that is checked in the transaction that removes it. A client that asks for a blob which is
being removed waits, and is then told the truth (`Repositories.condemned`). A content is removed under its lock, in which no repository can begin to
show it. A crash leaves contents that nothing refers to; the first pass of the next process removes them. Readers keep what they have opened.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from wherry.registry.repositories import Pair, Repositories
from wherry.spec.ids import Digest

log = logging.getLogger("wherry.registry")

BATCH = 500

_UNNEEDED = """
touched < :before and not exists (select 1 from needs where needs.repository = links.repository and needs.digest = links.digest)
"""
_UNREACHABLE = """
delete from manifests where repository = :repository and digest not in (
with recursive live (digest) as (
    select digest from tags where repository = :repository
    union select digest from manifests where repository = :repository and touched >= :before
    union select needs.digest from live
        join manifests on manifests.repository = :repository and manifests.digest = live.digest
        join needs on needs.manifest = manifests.id
    union select manifests.digest from live
        join manifests on manifests.repository = :repository and manifests.subject = live.digest
)
select digest from live)
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds. `max_age`: manifests that nobody has asked for so long go, tags and all (for a cache); 0: they stay."""

    grace: float = 24 * 3600.0
    interval: float = 3600.0
    untagged: bool = False
    max_age: float = 0.0


@dataclass(slots=True)
class Collected:
    """What one pass has removed."""

    uploads: int = 0
    manifests: int = 0
    links: int = 0
    contents: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, item.name)} {item.name}" for item in fields(self))


@dataclass(slots=True)
class Collector:
    repositories: Repositories
    policy: Policy
    clock: Callable[[], float] = time.time
    report: Callable[[Collected], None] = lambda _: None
    _swept: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Pass after pass, until it is cancelled."""
        while True:
            try:
                collected = await self.collect()
                self.report(collected)
                if any(getattr(collected, item.name) for item in fields(collected)):
                    log.info("garbage collection removed %s", collected)
            except (OSError, sqlite3.Error) as error:
                log.error("garbage collection failed, and is tried again later: %s", error)
            await asyncio.sleep(self.policy.interval)

    async def collect(self) -> Collected:
        """One pass."""
        collected = Collected()
        before = self.clock() - self.policy.grace
        collected.uploads = self.repositories.uploads.expire(before)
        await self._note_uses(before)
        name = ""
        while names := self.repositories.index.repositories(name, 1):
            [name] = names
            collected.manifests += await self._remove_manifests(name, before)
            collected.links += await self._remove_links(name, before)
        await self._remove_contents(collected)
        if not self._swept:
            await self._remove_orphans(collected)
            self._swept = True
        await self.repositories.index.write(_remove_empty_repositories)
        return collected

    async def _note_uses(self, before: float) -> None:
        """When a manifest was last asked for outlives this process; what is older than the grace period is forgotten here."""
        touched = self.repositories.touched
        if self.policy.max_age or self.policy.untagged:
            uses = [(moment, *pair) for pair, moment in touched.items()]

            def note(connection: sqlite3.Connection) -> None:
                query = "update manifests set touched = max(touched, ?) where repository = ? and digest = ?"
                connection.executemany(query, uses)

            await self.repositories.index.write(note)
        for pair in [pair for pair, moment in touched.items() if moment < before]:
            del touched[pair]

    async def _remove_manifests(self, repository: str, before: float) -> int:
        removed = 0
        if self.policy.max_age:
            values = {"repository": repository, "before": self.clock() - self.policy.max_age}
            removed += await self.repositories.index.write(lambda connection: _remove_unused(connection, values))
        if self.policy.untagged:
            bounds = {"repository": repository, "before": before}
            removed += await self.repositories.index.write(
                lambda connection: connection.execute(_UNREACHABLE, bounds).rowcount
            )
        return removed

    async def _remove_links(self, repository: str, before: float) -> int:
        repositories, removed, last = self.repositories, 0, ""
        query = (
            f"select digest from links where repository = :repository and digest > :last and {_UNNEEDED} limit {BATCH}"
        )
        while True:
            values = {"repository": repository, "before": before, "last": last}
            found = [digest for (digest,) in repositories.index.reader.execute(query, values)]
            if not found:
                return removed
            last = found[-1]
            doomed: set[Pair] = {(repository, Digest(digest)) for digest in found}
            doomed = {pair for pair in doomed if repositories.touched.get(pair, 0.0) < before}
            repositories.condemned |= doomed
            try:
                removed += await repositories.index.write(_link_remover(doomed, before))
            finally:
                repositories.condemned -= doomed
                repositories.settled.set()
                repositories.settled = asyncio.Event()

    async def _remove_contents(self, collected: Collected) -> None:
        """Contents that no repository shows."""
        index, last = self.repositories.index, ""
        unseen = "not exists (select 1 from links where links.digest = blobs.digest)"
        while True:
            query = f"select digest, size from blobs where digest > ? and {unseen} order by digest limit {BATCH}"
            found = index.reader.execute(query, (last,)).fetchall()
            if not found:
                return
            last = found[-1][0]
            gone: list[tuple[str]] = []
            for digest, size in found:
                async with self.repositories.content(digest):
                    if not index.repositories_with(digest):
                        await asyncio.to_thread(self.repositories.storage.remove, digest)
                        gone.append((digest,))
                        collected.contents += 1
                        collected.bytes += size
            await index.write(_content_forgetter(gone, unseen))

    async def _remove_orphans(self, collected: Collected) -> None:
        """Contents that the index does not know: a process ended between storing and recording, or removing and forgetting."""
        for digest in await asyncio.to_thread(lambda: list(self.repositories.storage)):
            if self._is_recorded(digest):
                continue
            async with self.repositories.content(digest):
                if not self._is_recorded(digest):
                    collected.bytes += await self.repositories.content_size(digest) or 0
                    collected.contents += 1
                    await asyncio.to_thread(self.repositories.storage.remove, digest)

    def _is_recorded(self, digest: Digest) -> bool:
        query = "select 1 from blobs where digest = ?"
        return self.repositories.index.reader.execute(query, (digest,)).fetchone() is not None


def _remove_unused(connection: sqlite3.Connection, values: dict[str, object]) -> int:
    unused = "select digest from manifests where repository = :repository and touched < :before"
    connection.execute(f"delete from tags where repository = :repository and digest in ({unused})", values)
    query = "delete from manifests where repository = :repository and touched < :before"
    return connection.execute(query, values).rowcount


def _link_remover(doomed: set[Pair], before: float) -> Callable[[sqlite3.Connection], int]:
    def remove(connection: sqlite3.Connection) -> int:
        query = f"delete from links where repository = :repository and digest = :digest and {_UNNEEDED}"
        rows = ({"repository": name, "digest": digest, "before": before} for name, digest in doomed)
        return connection.executemany(query, rows).rowcount if doomed else 0

    return remove


def _content_forgetter(gone: list[tuple[str]], unseen: str) -> Callable[[sqlite3.Connection], None]:
    def forget(connection: sqlite3.Connection) -> None:
        connection.executemany(f"delete from blobs where digest = ? and {unseen}", gone)

    return forget


def _remove_empty_repositories(connection: sqlite3.Connection) -> None:
    connection.execute(
        "delete from repositories where not exists (select 1 from links where repository = name)"
        " and not exists (select 1 from manifests where repository = repositories.name)"
        " and not exists (select 1 from tags where repository = repositories.name)"
    )
