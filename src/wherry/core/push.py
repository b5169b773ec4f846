"""Pushing an image: its blobs, several at the same time, then its manifests, the one that has the name last.

In wherryd, on the event loop; files are read in threads. What is pushed is what is stored, byte by byte: digests are the same on both sides. The
progress is Docker's stream of statuses, the errors Docker's words.

**Invariants**: what the image needs is leased while it is pushed; nothing is compressed or rewritten on the way; a blob that the registry has, in
this repository or in another one that this image came from, is not sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from wherry.core.images import Images, no_such_image
from wherry.core.layers import all_of
from wherry.core.manifests import MAX_DEPTH, is_artifact, is_attached, referrers, walk
from wherry.core.pull import REPORT_SECONDS, in_dockers_words, tell_of
from wherry.core.slots import Slots
from wherry.distribution.connection import PIECE, new_session
from wherry.distribution.hosts import RegistryHosts
from wherry.distribution.upload import Target
from wherry.errors import NotFound
from wherry.spec.calls import Json, ProgressSink, RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import (
    MAX_CONFIG,
    MAX_DOCUMENT,
    Descriptor,
    Manifest,
    Platform,
    descriptor,
    matches,
    normalize,
    parse_config,
    parse_document,
    platform_of,
)
from wherry.spec.reference import Reference

MAX_UPLOADS = 5
SIGNATURE_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
_MAX_DEPTH = MAX_DEPTH + 1
"""The indexes, and the manifest below them."""


@dataclass(frozen=True, slots=True)
class _Document:
    """A manifest or an index, and what it names that is to be sent before it."""

    descriptor: Descriptor
    data: bytes
    blobs: tuple[Descriptor, ...] = ()
    below: tuple[_Document, ...] = ()
    is_artifact: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)


class Pusher:
    def __init__(self, images: Images, hosts: RegistryHosts) -> None:
        self._images = images
        self._content = images.content
        self._hosts = hosts
        self.slots = Slots(MAX_UPLOADS)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def push(
        self,
        reference: Reference,
        platform: Platform | None,
        auth: RegistryAuth,
        progress: ProgressSink,
        *,
        with_referrers: bool = False,
    ) -> None:
        """The image that has exactly that name, which is its name by digest from then on, too. `platform`: that one of its manifests alone.
        `with_referrers`: also what refers to any of it and is here (signatures). NotFound when there is no such image."""
        image = self._images.named(reference)
        if image is None:
            raise no_such_image(reference.familiar)
        progress({"status": f"The push refers to repository [{reference.name}]"})
        wanted = self._images.target_of(reference) or image.target
        document, note = await asyncio.to_thread(self._choose, wanted, reference, platform)
        blobs = {blob.digest: blob for blob in _blobs(document)}
        with (
            in_dockers_words(reference),
            self._images.lease([*blobs, *(one.descriptor.digest for one in _all(document))]),
        ):
            if self._session is None:
                self._session = new_session()
            target = await Target.open(self._session, self._hosts, reference, auth)
            for blob in blobs.values():
                tell_of(progress, blob, "Preparing")
            await all_of([self._send(target, blob, reference, progress) for blob in blobs.values()])
            for one in _all(document):
                name = one.descriptor.digest if one is not document else reference.tag or one.descriptor.digest
                await target.put_manifest(name, one.data, one.descriptor.media_type, one.descriptor.digest)
            if with_referrers:
                for referrer in await asyncio.to_thread(self._referrers, wanted, document):
                    await self._push_referrer(target, referrer, reference, progress)
        if document.descriptor.digest == wanted.digest:
            with suppress(NotFound):  # it was removed meanwhile
                await self._images.tag(image.id, reference.with_digest(wanted.digest), wanted.digest, by_user=False)
        digest, size = document.descriptor.digest, len(document.data)
        progress({"status": f"{reference.tag}: digest: {digest} size: {size}"})
        progress({"progressDetail": {}, "aux": {"Tag": reference.tag, "Digest": digest, "Size": size}})
        if note is not None:
            progress({"progressDetail": {}, "aux": note})

    # --- what is pushed

    def _choose(
        self, target: Descriptor, reference: Reference, platform: Platform | None
    ) -> tuple[_Document, Json | None]:
        """→ all that the name stands for, if it is here; else the one manifest that is, with a note for the client."""
        whole = self._read(target)
        if platform is None and whole is not None:
            return whole, None
        found = [one for one in self._manifests(target) if platform is None or matches(platform, self._platform(one))]
        if not found:
            wanted = f"platform {normalize(platform)}" if platform else "platform"
            raise NotFound(f"image {reference.familiar}: no content for the {wanted} is here; pull it first")
        chosen = found[0]
        if chosen.descriptor.digest == target.digest or platform is not None:
            return chosen, None
        note = {
            "manifestPushedInsteadOfIndex": True,
            "originalIndex": target.to_json(),
            "selectedManifest": chosen.descriptor.to_json(),
        }
        return chosen, note

    def _read(self, described: Descriptor, depth: int = _MAX_DEPTH) -> _Document | None:
        """None unless all that it names, as deep as indexes may be nested, is in the store."""
        if depth == 0 or not self._content.has(described.digest):
            return None
        data = self._content.read(described.digest, MAX_DOCUMENT)
        document = parse_document(data, described.media_type)
        if isinstance(document, Manifest):
            blobs = (document.config, *document.layers)
            is_here = all(self._content.has(blob.digest) for blob in blobs)
            return _Document(described, data, blobs, (), is_artifact(document), document.raw) if is_here else None
        below = [self._read(entry, depth - 1) for entry in document.manifests]
        complete = tuple(one for one in below if one is not None)
        return _Document(described, data, below=complete, raw=document.raw) if len(complete) == len(below) else None

    def _manifests(self, target: Descriptor) -> list[_Document]:
        """The complete manifests of images below an index, or the manifest itself."""
        images = [
            node.descriptor
            for node in walk(self._content, target, _MAX_DEPTH)
            if isinstance(node.document, Manifest)
            and (node.descriptor == target or not is_attached(node.descriptor, node.document))
        ]
        return [found for descriptor in images if (found := self._read(descriptor)) is not None]

    def _platform(self, document: _Document) -> Platform:
        said = document.descriptor.platform
        if said is not None:
            return normalize(said)
        if document.is_artifact:
            return Platform("unknown", "unknown")
        return platform_of(parse_config(self._content.read(document.blobs[0].digest, MAX_CONFIG)))

    # --- what refers to it

    def _referrers(self, wanted: Descriptor, document: _Document) -> list[_Document]:
        """Of what is kept beside the images of `wanted` that which refers to what is pushed, or to another of these; subjects first."""
        kept = {digest for image in self._images.members(wanted.digest) for digest in image.blobs}
        known = {one.descriptor.digest for one in _all(document)}
        found: list[_Document] = []
        for _ in range(MAX_DEPTH):
            new = [one for described in referrers(self._content, kept, known) if (one := self._read(described))]
            found += new
            known |= {one.descriptor.digest for one in new}
        return found

    async def _push_referrer(
        self, target: Target, referrer: _Document, reference: Reference, progress: ProgressSink
    ) -> None:
        """Signatures also under cosign's tag: there most programs look for them."""
        described = referrer.descriptor
        with self._images.lease([described.digest, *(blob.digest for blob in referrer.blobs)]):
            for blob in referrer.blobs:
                await self._send(target, blob, reference, progress)
            subject = descriptor(referrer.raw.get("subject"), "manifest: subject").digest
            said = referrer.raw.get("annotations")
            annotations = (
                {key: value for key, value in said.items() if isinstance(value, str)} if isinstance(said, dict) else {}
            )
            await target.put_referrer(referrer.data, replace(described, annotations=annotations), subject)
            if described.artifact_type == SIGNATURE_TYPE:
                from wherry.trust import signatures  # cryptography is loaded where there are some

                for layer in referrer.raw["layers"]:
                    await signatures.tag(target, subject, layer)
        tell_of(progress, described, f"Refers to {subject[:19]}")

    # --- blobs

    async def _send(self, target: Target, blob: Descriptor, reference: Reference, progress: ProgressSink) -> None:
        async with self.slots:
            if await target.has_blob(blob.digest):
                tell_of(progress, blob, "Layer already exists")
                return
            for source in self._sources(blob.digest, reference):
                if await target.mount(blob.digest, source):
                    tell_of(progress, blob, f"Mounted from {source}")
                    return
            clock, reported = asyncio.get_running_loop().time, 0.0
            path, size = self._content.path(blob.digest), self._content.size(blob.digest)

            async def pieces(position: int) -> AsyncIterator[bytes]:
                nonlocal reported
                with open(path, "rb", buffering=0) as file:
                    file.seek(position)
                    while piece := await asyncio.to_thread(file.read, PIECE):
                        yield piece
                        position += len(piece)
                        if clock() - reported >= REPORT_SECONDS:
                            reported = clock()
                            tell_of(progress, blob, "Pushing", position)

            await target.upload(blob.digest, size, pieces)
            tell_of(progress, blob, "Pushed")

    def _sources(self, digest: Digest, reference: Reference) -> Sequence[str]:
        """Other repositories of the same registry that have the blob, as far as this store's names tell."""
        found = {
            name.path
            for image in self._images.list()
            if digest in image.blobs
            for name in image.references
            if name.domain == reference.domain and name.path != reference.path
        }
        return sorted(found)[:3]


def _blobs(document: _Document) -> list[Descriptor]:
    return [*document.blobs, *(blob for one in document.below for blob in _blobs(one))]


def _all(document: _Document) -> list[_Document]:
    """Those that are named before those that name them."""
    return [*(inner for one in document.below for inner in _all(one)), document]
