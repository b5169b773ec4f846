"""The rows of images: SQL for `images`. Functions for `Database.run`; nothing is decided here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from wherry.spec.ids import Digest
from wherry.spec.image import Descriptor

_SCHEMA = (
    """create table if not exists images (
        id text primary key,
        parent text,
        tagged_at text
    ) strict""",
    """create table if not exists image_targets (
        image_id text not null references images (id) on delete cascade,
        digest text not null,
        media_type text not null,
        size integer not null,
        position integer not null,
        primary key (image_id, digest)
    ) strict, without rowid""",
    """create table if not exists image_blobs (
        image_id text not null references images (id) on delete cascade,
        digest text not null,
        primary key (image_id, digest)
    ) strict, without rowid""",
    """create table if not exists image_names (
        name text primary key,
        target text not null
    ) strict, without rowid""",
)
_FROM_FIRST_VERSION = (
    "insert into image_targets select id, target, target_type, target_size, 0 from images",
    "insert into image_names select r.name, i.target from image_references r join images i on i.id = r.image_id",
    "drop table image_references",
    *(f"alter table images drop column {column}" for column in ("target", "target_type", "target_size")),
)


@dataclass(slots=True)
class Row:
    """One image as it is stored. `targets`: the latest last."""

    id: str
    parent: str | None
    tagged_at: str | None
    targets: list[Descriptor] = field(default_factory=list)
    blobs: list[Digest] = field(default_factory=list)

    @property
    def is_artifact(self) -> bool:
        """Whether the id is that of a manifest; an image's is that of its config."""
        return any(target.digest == self.id for target in self.targets)


def read(conn: sqlite3.Connection) -> tuple[list[Row], list[tuple[str, Digest]]]:
    """→ the images in the order in which they came, and (name, target)."""
    for statement in _SCHEMA:
        conn.execute(statement)
    if any(column[1] == "target" for column in conn.execute("pragma table_info (images)")):
        for statement in _FROM_FIRST_VERSION:
            conn.execute(statement)
    rows = {row[0]: Row(*row) for row in conn.execute("select id, parent, tagged_at from images order by rowid")}
    for image_id, digest, media_type, size in conn.execute(
        "select image_id, digest, media_type, size from image_targets order by position"
    ):
        rows[image_id].targets.append(Descriptor(media_type, digest, size))
    for image_id, digest in conn.execute("select image_id, digest from image_blobs"):
        rows[image_id].blobs.append(digest)
    names = [(name, Digest(target)) for name, target in conn.execute("select name, target from image_names")]
    return list(rows.values()), names


def save(conn: sqlite3.Connection, row: Row, names: Iterable[str]) -> None:
    """The image, and the names that stand for the last of its targets."""
    conn.execute(
        "insert into images (id, parent, tagged_at) values (?, ?, ?)"
        " on conflict (id) do update set parent = excluded.parent, tagged_at = excluded.tagged_at",
        (row.id, row.parent, row.tagged_at),
    )
    conn.execute("delete from image_targets where image_id = ?", (row.id,))
    conn.executemany(
        "insert into image_targets (image_id, digest, media_type, size, position) values (?, ?, ?, ?, ?)",
        [(row.id, d.digest, d.media_type, d.size, position) for position, d in enumerate(row.targets)],
    )
    conn.executemany(
        "insert or ignore into image_blobs (image_id, digest) values (?, ?)", [(row.id, d) for d in row.blobs]
    )
    for name in names:
        give_name(conn, name, row.targets[-1].digest)


def give_name(conn: sqlite3.Connection, name: str, target: Digest) -> None:
    conn.execute("insert or replace into image_names (name, target) values (?, ?)", (name, target))


def set_tagged_at(conn: sqlite3.Connection, image_id: str, tagged_at: str | None) -> None:
    conn.execute("update images set tagged_at = ? where id = ?", (tagged_at, image_id))


def take_names(conn: sqlite3.Connection, names: Iterable[str]) -> None:
    conn.executemany("delete from image_names where name = ?", [(name,) for name in names])


def delete(conn: sqlite3.Connection, image_ids: Iterable[str]) -> None:
    """Images, and the names that stand for nothing any more."""
    conn.executemany("delete from images where id = ?", [(image_id,) for image_id in image_ids])
    conn.execute("delete from image_names where target not in (select digest from image_targets)")
