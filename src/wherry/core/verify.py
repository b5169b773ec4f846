"""Whether the store is what its rows say: blobs against their names, rows against what is on disk and back, layers against their tars.

The parts of `wherry system fsck` (`engine.fsck`), which carries them out in wherryd while it works; and `check_idle`, the whole of it on a data root
that no engine changes, by which the tests that kill engines and cut the power judge what is left. Blocking; memory is bounded by the rows and what
`trees` needs. **Invariant**: nothing is changed here; a layer is compared with what its blob gives when it is unpacked once more, by the same code.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from wherry.core import image_rows
from wherry.core.content import Content
from wherry.core.drivers import DRIVERS
from wherry.core.drivers.driver import Driver
from wherry.core.drivers.overlay import Overlay
from wherry.core.layer_form import unpack_blob
from wherry.core.manifests import manifest_of
from wherry.core.snapshots import Layer, driver_of, read_layers
from wherry.core.trees import differences
from wherry.core.unpack import Unpacked
from wherry.errors import SyscallError, WherryError
from wherry.linux.remove import remove_tree
from wherry.spec.ids import ChainId, Digest
from wherry.spec.image import MAX_CONFIG, Descriptor, Manifest, chain_ids, diff_ids, parse_config

MOST_DIFFERENCES = 10
"""Told of one layer; one is enough to mend it."""


class Kind(StrEnum):
    BLOB = "blob"
    DATABASE = "database"
    IMAGE = "image"
    LAYER = "layer"
    CONTAINER = "container"
    LEFTOVER = "leftover"


@dataclass(frozen=True, slots=True)
class Problem:
    """`path`: of a leftover, what is to be removed."""

    kind: Kind
    object: str
    text: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the database says of the store."""

    images: list[image_rows.Row]
    names: list[tuple[str, Digest]]
    layers: list[Layer]
    containers: frozenset[str]

    @property
    def blobs(self) -> set[Digest]:
        return {digest for row in self.images for digest in row.blobs}


def read_rows(conn: sqlite3.Connection) -> Rows:
    images, names = image_rows.read(conn)
    known = conn.execute("select 1 from sqlite_master where name = 'containers'").fetchone()
    containers = frozenset(row[0] for row in conn.execute("select id from containers")) if known else frozenset()
    return Rows(images, names, read_layers(conn), containers)


def database_problems(conn: sqlite3.Connection) -> list[Problem]:
    """What SQLite finds in its file."""
    told = [row[0] for row in conn.execute("pragma integrity_check(10)") if row[0] != "ok"]
    told += [f"a row of {row[0]} refers to nothing in {row[2]}" for row in conn.execute("pragma foreign_key_check")]
    return [Problem(Kind.DATABASE, "wherry.db", text) for text in told]


# --- blobs ---------------------------------------------------------------------------------------------------------------------------


def blob_problem(content: Content, digest: Digest) -> Problem | None:
    """Reads all of it."""
    try:
        found = content.measure(digest)
    except FileNotFoundError:
        return Problem(Kind.BLOB, digest, "is missing")
    except OSError as error:
        return Problem(Kind.BLOB, digest, f"cannot be read: {error.strerror}")
    return None if found == digest else Problem(Kind.BLOB, digest, f"is damaged: its content has the digest {found}")


# --- rows and what is on disk --------------------------------------------------------------------------------------------------------


def row_problems(rows: Rows, content: Content) -> tuple[list[Problem], dict[ChainId, Digest]]:
    """What is wrong with the rows of images and layers; and which blob each layer was unpacked from."""
    problems = []
    sources: dict[ChainId, Digest] = {}
    layers = {layer.chain_id: layer for layer in rows.layers}
    for row in rows.images:
        try:
            _, manifest = _manifest_of(content, row)
            if row.is_artifact:
                continue
            diffs = diff_ids(parse_config(content.read(Digest(row.id), MAX_CONFIG)))
            chain = chain_ids(diffs)
            sources.update(zip(chain, (layer.digest for layer in manifest.layers), strict=True))
        except (WherryError, ValueError) as error:
            problems.append(Problem(Kind.IMAGE, row.id, str(error)))
            continue
        for position, (chain_id, diff_id) in enumerate(zip(chain, diffs, strict=True)):
            layer = layers.get(chain_id)
            if layer is None:
                problems.append(Problem(Kind.IMAGE, row.id, f"its layer {chain_id} is not recorded"))
            elif (layer.parent, layer.diff_id) != (chain[position - 1] if position else None, diff_id):
                problems.append(Problem(Kind.LAYER, chain_id, "is recorded with another parent or diff id"))
        if row.id not in row.blobs or any(target.digest not in row.blobs for target in row.targets):
            problems.append(Problem(Kind.IMAGE, row.id, "its config or manifest is not among its blobs"))
    targets = {target.digest for row in rows.images for target in row.targets}
    problems += [
        Problem(Kind.IMAGE, name, "stands for nothing") for name, target in rows.names if target not in targets
    ]
    for layer in rows.layers:
        if layer.parent is not None and layer.parent not in layers:
            problems.append(Problem(Kind.LAYER, layer.chain_id, "what it lies on is not recorded"))
    return problems, sources


def _manifest_of(content: Content, row: image_rows.Row) -> tuple[Descriptor, Manifest]:
    failure: WherryError | None = None
    for target in reversed(row.targets):
        try:
            return manifest_of(content, target, row.id)
        except WherryError as error:
            failure = error
    raise failure or WherryError("it has no manifest")


def disk_problems(data_root: str, rows: Rows, *, kept: Iterable[Digest] = (), idle: bool) -> Iterator[Problem]:
    """What is on disk and in no row, and containers' directories that are not there. `kept`: blobs that something on its way needs; unless the
    data root is `idle`, what is being written or removed at this moment is passed over."""
    needed = rows.blobs | set(kept)
    for algorithm in ("sha256", "sha512"):
        for name in _names(f"{data_root}/content/blobs/{algorithm}"):
            if f"{algorithm}:{name}" not in needed:
                path = f"{data_root}/content/blobs/{algorithm}/{name}"
                yield Problem(Kind.LEFTOVER, f"{algorithm}:{name}", "a blob of no image", path)
    numbers = {str(layer.number): layer for layer in rows.layers}
    for name in _names(f"{data_root}/snapshots/layers"):
        if name not in numbers and (idle or not name.startswith("new-")):
            yield _leftover(f"{data_root}/snapshots/layers/{name}", "a layer that is not recorded")
    for name in _names(f"{data_root}/snapshots/init"):
        if name not in numbers and name != "0" and (idle or not name.startswith("new-")):
            yield _leftover(f"{data_root}/snapshots/init/{name}", "mount points of no layer")
    if idle:
        for place in ("content/ingest", "snapshots/trash"):
            for name in _names(f"{data_root}/{place}"):
                yield _leftover(f"{data_root}/{place}/{name}", "left of something interrupted")
    for place in ("snapshots/active", "containers"):
        for name in _names(f"{data_root}/{place}"):
            if name not in rows.containers:
                yield _leftover(f"{data_root}/{place}/{name}", "of no container")
    for key in sorted(rows.containers):
        work = [name for name in _names(f"{data_root}/snapshots/active/{key}") if name.startswith("work-")]
        if len(work) != 1 or not os.path.isdir(f"{data_root}/snapshots/active/{key}/fs"):
            yield Problem(Kind.CONTAINER, key, "its writable directory is missing")
        elif (number := work[0].removeprefix("work-")) != "0" and number not in numbers:
            yield Problem(Kind.CONTAINER, key, f"the layer {number} that it stands on is not recorded")


def _leftover(path: str, text: str) -> Problem:
    return Problem(Kind.LEFTOVER, "/".join(path.split("/")[-3:]), text, path)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []


# --- layers --------------------------------------------------------------------------------------------------------------------------


def layer_problems(driver: Driver, layer: Layer, stored: str, fresh: str, unpacked: Unpacked) -> list[Problem]:
    """`stored`: the layer's directory, `fresh`: the tree that its tar gives, with the attributes that implied directories inherit."""
    told = []
    try:
        with driver.readable([stored]) as (found,):
            told += list(islice(differences(fresh, found, unpacked.implied), MOST_DIFFERENCES))
    except SyscallError as error:
        told.append(f"cannot be read: {error}")
    except FileNotFoundError:
        told.append("is missing on disk")
    except OSError as error:
        told.append(f"cannot be read: {error.strerror}")
    if (layer.size, layer.entries) != (unpacked.size, unpacked.entries):
        told.append("is recorded with another size")
    return [Problem(Kind.LAYER, layer.chain_id, text) for text in told]


# --- all of it -----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verdict:
    """`entries`: of all layers' tars."""

    problems: list[Problem] = field(default_factory=list)
    blobs: int = 0
    layers: int = 0
    entries: int = 0


def check_idle(data_root: str, scratch: str) -> Verdict:
    """Of a data root that nobody changes meanwhile. `scratch`: a path for a directory, on a file system that can hold what layers hold; it is
    removed."""
    verdict = Verdict()
    content = Content(f"{data_root}/content")
    driver = DRIVERS[driver_of(f"{data_root}/snapshots") or Overlay.name]()
    with sqlite3.connect(f"{data_root}/wherry.db", isolation_level=None) as conn:
        verdict.problems += database_problems(conn)
        rows = read_rows(conn)
    conn.close()
    for digest in sorted(rows.blobs | set(content)):
        verdict.blobs += 1
        problem = blob_problem(content, digest)
        verdict.problems += [problem] if problem else []
    told, sources = row_problems(rows, content)
    verdict.problems += [*told, *disk_problems(data_root, rows, idle=True)]
    layers = {layer.chain_id: layer for layer in rows.layers}
    for layer in rows.layers:
        if layer.chain_id not in sources:
            continue  # of a container whose image has gone, and its blobs with it
        lower, below = [], layer.parent
        while below is not None and below in layers:
            lower.append(f"{data_root}/snapshots/layers/{layers[below].number}/fs")
            below = layers[below].parent
        try:
            os.mkdir(scratch, 0o755)
            os.chmod(scratch, 0o755)
            unpacked = unpack_blob(driver.form, content.path(sources[layer.chain_id]), scratch, layer.diff_id)
            driver.inherit(scratch, unpacked.implied, lower)
            stored = f"{data_root}/snapshots/layers/{layer.number}/fs"
            with driver.readable([scratch]) as (fresh,):
                verdict.problems += layer_problems(driver, layer, stored, fresh, unpacked)
            verdict.layers += 1
            verdict.entries += unpacked.entries
        except (WherryError, SyscallError, OSError) as error:
            verdict.problems.append(Problem(Kind.LAYER, layer.chain_id, f"cannot be compared: {error}"))
        finally:
            remove_tree(scratch)
    return verdict
