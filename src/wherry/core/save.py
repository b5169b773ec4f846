"""Images as one archive, which is two formats at once: an OCI image layout, and beside it the `manifest.json` of `docker save`.

Runs in threads of wherryd. Blobs are written as they are stored, each once, so that digests stay what they are; Docker since version 25 writes the
same. Docker's older versions find what they look for in manifest.json and `repositories`; they decompress layers themselves.

Deliberately absent: which names a user may have meant (`engine.images`); the caller holds leases on what is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wherry.core.content import Content
from wherry.core.images import Image
from wherry.core.manifests import REFERENCE_DIGEST, manifest_of, referrers, walk
from wherry.core.tar import CHUNK, DIRECTORY, REGULAR, Entry
from wherry.core.tar_writer import TarWriter
from wherry.errors import NotFound
from wherry.spec.ids import Digest
from wherry.spec.image import OCI_INDEX, Descriptor, Index, Manifest
from wherry.spec.reference import Reference

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(slots=True)
class Saved:
    """One target that is to be saved, under these names; `images`: those below it that are wanted, the primary first. `everything`: also what else
    is below it here (attestations of the images that are wanted go with them in any case)."""

    target: Descriptor
    images: Sequence[Image]
    names: list[Reference] = field(default_factory=list)
    everything: bool = True


def save(content: Content, wanted: Sequence[Saved], write: Callable[[bytes], object]) -> None:
    """Writes the archive."""
    writer = _Writer(content, write)
    index: list[dict[str, Any]] = []
    docker: dict[str, dict[str, Any]] = {}
    repositories: dict[str, dict[str, str]] = {}
    for item in wanted:
        described, blobs, beside = _parts(content, item)
        for digest in blobs:
            writer.blob(digest)
        index += _index_entries(described, item.names)
        index += [referrer.to_json() for referrer in beside]
        _add_docker_image(content, item, docker, repositories)
    listing = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": _unique(index)}
    writer.file(b"index.json", _json(listing))
    writer.file(b"manifest.json", _json(list(docker.values())))
    writer.file(b"oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    if repositories:
        writer.file(b"repositories", _json(repositories))
    writer.finish()


def _parts(content: Content, item: Saved) -> tuple[Descriptor, list[Digest], list[Descriptor]]:
    """→ what the names stand for in the archive, all blobs of it, and those of them that refer to it from beside.

    A single image out of an index stands for itself: other tools look for no platform then.
    """
    ids = {Digest(image.id) for image in item.images}
    target = item.target
    if not item.everything and len(item.images) == 1:
        target, _ = manifest_of(content, item.target, item.images[0].id)
    found: dict[Digest, None] = {}
    kept: set[Digest] = set()
    for node in walk(content, target):
        if isinstance(node.document, Index):
            found[node.descriptor.digest] = None
        elif isinstance(node.document, Manifest):
            subject = node.descriptor.annotations.get(REFERENCE_DIGEST, "")
            is_wanted = node.document.config.digest in ids or node.descriptor.digest in ids
            if not (item.everything or is_wanted or subject in kept):
                continue
            kept.add(node.descriptor.digest)
            found[node.descriptor.digest] = None
            for part in (node.document.config, *node.document.layers):
                if content.has(part.digest):
                    found[part.digest] = None
                elif is_wanted:
                    raise NotFound(f"content {part.digest}: not found")
    beside = referrers(content, item.images[0].blobs, found)
    for referrer in beside:
        for node in walk(content, referrer):
            if isinstance(node.document, Manifest):
                parts = (node.document.config, *node.document.layers)
                found |= {
                    digest: None
                    for digest in (referrer.digest, *(part.digest for part in parts))
                    if content.has(digest)
                }
    return target, list(found), beside


def _index_entries(target: Descriptor, names: Sequence[Reference]) -> Iterator[dict[str, Any]]:
    bare = Descriptor(target.media_type, target.digest, target.size, target.platform).to_json()
    tagged = [name for name in names if name.tag is not None]
    if not tagged:
        yield bare
    for name in tagged:
        yield {**bare, "annotations": {IMAGE_NAME: str(name), REF_NAME: name.tag}}


def _add_docker_image(
    content: Content, item: Saved, docker: dict[str, dict[str, Any]], repositories: dict[str, dict[str, str]]
) -> None:
    """manifest.json knows no platforms: it has the primary alone. Nor does it know artifacts."""
    image = item.images[0]
    if image.is_artifact:
        return
    _, manifest = manifest_of(content, item.target, image.id)
    layers = [_path(layer.digest) for layer in manifest.layers]
    entry = docker.setdefault(image.id, {"Config": _path(Digest(image.id)), "RepoTags": None, "Layers": layers})
    for name in item.names:
        if name.tag is None:
            continue
        entry["RepoTags"] = entry["RepoTags"] or []
        if name.familiar not in entry["RepoTags"]:
            entry["RepoTags"].append(name.familiar)
        if layers:
            repositories.setdefault(name.familiar_name, {})[name.tag] = layers[-1].rpartition("/")[2]


def _unique(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for n, entry in enumerate(entries) if entry not in entries[:n]]


def _path(digest: Digest) -> str:
    return f"blobs/{digest.replace(':', '/', 1)}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class _Writer:
    def __init__(self, content: Content, write: Callable[[bytes], object]) -> None:
        self._content = content
        self._tar = TarWriter(write)
        self._done: set[bytes] = set()

    def blob(self, digest: Digest) -> None:
        name = _path(digest).encode()
        directory = name.rpartition(b"/")[0]
        for parent in (b"blobs/", directory + b"/"):
            if parent not in self._done:
                self._done.add(parent)
                self._tar.add(Entry(parent, DIRECTORY, 0o755))
        if name in self._done:
            return
        self._done.add(name)
        with open(self._content.path(digest), "rb") as file:
            size = self._content.size(digest)
            self._tar.add(Entry(name, REGULAR, 0o644, size=size), iter(lambda: file.read(CHUNK), b""))

    def file(self, name: bytes, data: bytes) -> None:
        self._tar.add(Entry(name, REGULAR, 0o644, size=len(data)), [data])

    def finish(self) -> None:
        self._tar.finish()
