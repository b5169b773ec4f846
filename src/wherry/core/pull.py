"""Pulling an image: manifest, config, layers; each layer downloaded, verified and unpacked as one stream, several at the same time.

In wherryd, on the event loop; bytes are written and hashed in threads, tars are unpacked by workers. The progress is Docker's stream of
statuses, the errors Docker's words.

**Invariants**: nothing is recorded before every digest and diff id was verified and everything is synced; a pull that fails or is cancelled
leaves what was there before, and of the downloads what the next pull goes on with (`partials`), unless the failure is none that passes; the same
blob is downloaded once, whoever wants it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from wherry.core.admission import Admission
from wherry.core.cancellation import thread_to_the_end
from wherry.core.content import EARLY, Resumed
from wherry.core.images import Image, Images, NewImage
from wherry.core.layers import LayerWork, Wanted, all_of, both
from wherry.core.manifests import MAX_DEPTH, REFERENCE_DIGEST, is_artifact, is_attestation
from wherry.core.slots import Slots
from wherry.core.snapshots import Staged
from wherry.core.unpack import Unpacked, check_diff_id
from wherry.core.unpackers import Growing, Unpackers
from wherry.distribution.client import Fetched, Repository
from wherry.distribution.connection import ATTEMPTS, may_pass, new_session
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import DataLoss, Internal, InvalidArgument, NotFound, PermissionDenied, Unavailable, WherryError
from wherry.spec.calls import ProgressSink, RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import (
    MAX_CONFIG,
    MAX_DOCUMENT,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    diff_ids,
    host_platform,
    is_layer_type,
    matches,
    normalize,
    parse_config,
    parse_document,
    platform_of,
    select,
)
from wherry.spec.reference import Reference

T = TypeVar("T")

_log = logging.getLogger(__name__)

MAX_DOWNLOADS = 3
REPORT_SECONDS = 0.1
_NO_SUCH_RANGE = 416
MAX_ATTESTATIONS = 8
MAX_ATTACHED = 256 << 20


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be fetched: `target` is what the name stands for in the registry (an index or the manifest itself). An artifact has no `config`
    and no `diffs`: of what it is made of nothing is looked into."""

    target: Descriptor
    documents: dict[Digest, bytes]
    described: Descriptor
    manifest: Manifest
    config: bytes = b""
    diffs: tuple[Digest, ...] = ()
    attached: tuple[Descriptor, ...] = ()
    """What the attestations of the image hold; their manifests are among `documents`."""


class Puller:
    def __init__(
        self,
        images: Images,
        unpackers: Unpackers,
        work: LayerWork,
        hosts: RegistryHosts,
        admission: Admission,
    ) -> None:
        self._images = images
        self._content = images.content
        self._unpackers = unpackers
        self._work = work
        self._hosts = hosts
        self._admission = admission
        self.slots = Slots(MAX_DOWNLOADS)
        self.attempts = ATTEMPTS
        self._blob_locks: dict[Digest, tuple[asyncio.Lock, int]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def tags(self, reference: Reference, auth: RegistryAuth) -> list[str]:
        """All tags of the reference's repository."""
        with in_dockers_words(reference):
            repository = await self._open(reference, auth)
            return await repository.tags()

    async def pull(
        self, reference: Reference, platform: Platform | None, auth: RegistryAuth, progress: ProgressSink
    ) -> Image:
        """By tag, or by digest (a tag beside it is not looked at). `platform`: another than this machine's.

        Errors before the manifest is known are raised before anything was reported.
        """
        wanted = reference.with_digest(reference.digest) if reference.digest else reference.tagged()
        with in_dockers_words(wanted):
            repository = await self._open(wanted, auth)
            fetched = await repository.manifest(wanted.digest or wanted.tag or "")
            signatures = await self._admission.at_pull(repository, wanted, fetched)
            progress({"status": f"Pulling from {wanted.path}", "id": wanted.digest or wanted.tag})
            plan = await _plan(repository, wanted, fetched, platform)
            plan.documents.update(signatures)
            carry_out = self._keep_artifact if is_artifact(plan.manifest) else self._carry_out
            image, changed = await carry_out(repository, plan, wanted, progress)
        progress({"status": f"Digest: {plan.target.digest}"})
        outcome = "Downloaded newer image for" if changed else "Image is up to date for"
        progress({"status": f"Status: {outcome} {wanted.familiar}"})
        return image

    async def _open(self, reference: Reference, auth: RegistryAuth) -> Repository:
        if self._session is None:
            self._session = new_session()
        repository = await Repository.open(self._session, self._hosts, reference, auth)
        repository.attempts = self.attempts
        return repository

    async def _carry_out(
        self, repository: Repository, plan: _Plan, wanted: Reference, progress: ProgressSink
    ) -> tuple[Image, bool]:
        """→ the image, and whether the name stood for another one (or none) before."""
        images = self._images
        manifest = plan.manifest
        chain = chain_ids(plan.diffs)
        names = [wanted] if wanted.digest else [wanted, wanted.with_digest(plan.target.digest)]
        parts = (manifest.config, *manifest.layers, *plan.attached)
        blobs = frozenset({*plan.documents, *(descriptor.digest for descriptor in parts)})
        before = images.named(wanted)
        async with images.holding(blobs, chain), self._resumable(blobs):
            layers = [
                self._wanted(repository, descriptor, position, plan.diffs, progress)
                for position, descriptor in enumerate(manifest.layers)
            ]
            for layer, descriptor in zip(layers, manifest.layers, strict=True):
                if images.snapshots.layer(layer.chain_id) is None:
                    tell_of(progress, descriptor, "Pulling fs layer")
            documents = {**plan.documents, manifest.config.digest: plan.config}
            async with AsyncExitStack() as stack:
                unpacked = stack.enter_async_context(self._work.unpacked(layers))
                staged, _ = await both(unpacked, thread_to_the_end(self._add_missing, documents))
                await self._fetch_missing(repository, manifest.layers, plan.diffs)
                for descriptor in plan.attached:
                    await self._fetch_blob(repository, descriptor)
                image = await images.add(NewImage(manifest.config.digest, plan.target, blobs, staged, names))
        return image, before is None or before.id != image.id

    async def _keep_artifact(
        self, repository: Repository, plan: _Plan, wanted: Reference, progress: ProgressSink
    ) -> tuple[Image, bool]:
        """As `_carry_out`, for what is only kept."""
        images, described = self._images, plan.described
        parts = {part.digest: part for part in (plan.manifest.config, *plan.manifest.layers)}
        names = [wanted] if wanted.digest else [wanted, wanted.with_digest(plan.target.digest)]
        blobs = frozenset({*plan.documents, *parts})
        before = images.named(wanted)
        async with images.holding(blobs, ()), self._resumable(blobs):
            await thread_to_the_end(self._add_missing, plan.documents)
            await all_of([self._fetch_blob(repository, part, progress) for part in parts.values()])
            own = Descriptor(described.media_type, described.digest, len(plan.documents[described.digest]))
            image = await images.add(NewImage(own.digest, plan.target, blobs, references=names, own=own))
        return image, before is None or before.id != image.id

    def _add_missing(self, documents: Mapping[Digest, bytes]) -> None:
        for digest, data in documents.items():
            if not self._content.has(digest):
                self._content.add(data, digest)

    def _wanted(
        self,
        repository: Repository,
        descriptor: Descriptor,
        position: int,
        diffs: Sequence[Digest],
        progress: ProgressSink,
    ) -> Wanted:
        chain = chain_ids(diffs)
        diff_id = diffs[position]

        async def make(staged: Staged, tell: ProgressSink) -> Unpacked:
            unpacked = await self._fetch_and_unpack(repository, descriptor, diff_id, staged, tell)
            tell_of(tell, descriptor, "Pull complete")
            return unpacked

        return Wanted(
            chain[position],
            chain[position - 1] if position else None,
            diff_id,
            make,
            progress,
            lambda: tell_of(progress, descriptor, "Already exists"),
        )

    async def _fetch_missing(
        self, repository: Repository, layers: Sequence[Descriptor], diffs: Sequence[Digest]
    ) -> None:
        """Blobs of layers that exist unpacked already, but came by another blob (or by none: an import)."""
        for descriptor, diff_id in zip(layers, diffs, strict=True):
            async with self._blob_lock(descriptor.digest):
                if not self._content.has(descriptor.digest):
                    await self._keep(repository, descriptor, diff_id)

    async def _fetch_blob(
        self, repository: Repository, descriptor: Descriptor, tell: ProgressSink = lambda _: None
    ) -> None:
        """A blob that is only kept."""
        async with self._blob_lock(descriptor.digest):
            if self._content.has(descriptor.digest):
                tell_of(tell, descriptor, "Already exists")
            else:
                await self._keep(repository, descriptor, tell=tell)

    async def _keep(
        self,
        repository: Repository,
        descriptor: Descriptor,
        diff_id: Digest | None = None,
        tell: ProgressSink = lambda _: None,
    ) -> None:
        async def download(file: Resumed) -> None:
            await self._download(repository, descriptor, file, Growing(descriptor.size), tell)
            if diff_id is not None:
                await thread_to_the_end(check_diff_id, file.path, diff_id)

        await self._resume(descriptor, download)

    async def _fetch_and_unpack(
        self, repository: Repository, descriptor: Descriptor, diff_id: Digest, staged: Staged, tell: ProgressSink
    ) -> Unpacked:
        async with self._blob_lock(descriptor.digest):
            if self._content.has(descriptor.digest):
                path = self._content.path(descriptor.digest)
                return await self._unpack(path, staged, diff_id, None, _extracting(tell, descriptor, None))

            async def download(file: Resumed, growing: Growing) -> None:
                try:
                    await self._download(repository, descriptor, file, growing, tell)
                except BaseException:
                    growing.fail()
                    raise

            async def unpack(file: Resumed, growing: Growing) -> Unpacked:
                report = _extracting(tell, descriptor, growing)
                return await self._unpack(file.path, staged, diff_id, growing, report)

            async def attempt(file: Resumed) -> Unpacked:
                growing = Growing(descriptor.size)
                return (await both(unpack(file, growing), download(file, growing)))[0]

            return await self._resume(descriptor, attempt, lambda: self._images.snapshots.clear(staged))

    async def _resume(
        self,
        descriptor: Descriptor,
        attempt: Callable[[Resumed], Awaitable[T]],
        undo: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        """A blob: what `attempt` answers, which downloads into the file. When what an interrupted pull has left turns out to be of no use, there is
        a second attempt, from nothing, after `undo`."""
        with self._content.resume(descriptor.digest) as file:
            if file.found > descriptor.size:
                file.restart()
            try:
                answer = await attempt(file)
            except (DataLoss, InvalidArgument, RegistryError) as error:
                if not file.found or (isinstance(error, RegistryError) and error.status != _NO_SUCH_RANGE):
                    raise
                _log.info("%s: what was left of an interrupted pull is of no use: %s", descriptor.digest, error)
                file.restart()
                if undo is not None:
                    await undo()
                answer = await attempt(file)
            await thread_to_the_end(file.commit)
            return answer

    @asynccontextmanager
    async def _resumable(self, blobs: Iterable[Digest]) -> AsyncIterator[None]:
        """What was downloaded of them is kept after a failure that may pass and after a cancellation: not after a full disk, not of a bad image."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError) and not (
                isinstance(error, WherryError) and may_pass(error)
            ):
                await thread_to_the_end(self._content.partials.remove, blobs)
            raise

    async def _unpack(
        self, blob: str, staged: Staged, diff_id: Digest, growing: Growing | None, report: Callable[[int], None]
    ) -> Unpacked:
        try:
            return await self._unpackers.unpack(blob, staged.fs, diff_id, growing=growing, on_consumed=report)
        except (InvalidArgument, DataLoss, Internal) as error:
            raise type(error)(f"failed to register layer: {error}") from None

    async def _download(
        self, repository: Repository, descriptor: Descriptor, file: Resumed, growing: Growing, tell: ProgressSink
    ) -> None:
        """Into `file`, verified; what is there already is read again, for the digest and for who unpacks it meanwhile."""
        if self.slots.locked():
            tell_of(tell, descriptor, "Waiting")
        async with self.slots:
            clock = asyncio.get_running_loop().time
            reported = 0.0

            def report() -> None:
                nonlocal reported
                growing.advance(file.size)
                if clock() - reported >= REPORT_SECONDS:
                    reported = clock()
                    tell_of(tell, descriptor, "Downloading", file.size)

            def waiting(seconds: float) -> None:
                if seconds >= 1:
                    tell_of(tell, descriptor, f"Retrying in {seconds:.0f} second{'s' if seconds >= 1.5 else ''}")

            while file.size < file.found and await thread_to_the_end(file.take_in):
                report()
            if not file.found or file.size < descriptor.size:
                async with repository.blob_pieces(descriptor, file.size, waiting) as pieces:
                    async for piece in pieces:
                        await thread_to_the_end(file.write, piece)
                        report()
            tell_of(tell, descriptor, "Verifying Checksum")
            file.check()
            tell_of(tell, descriptor, "Download complete")
            growing.finish()
        if file.size >= EARLY:
            await thread_to_the_end(file.sync)

    @asynccontextmanager
    async def _blob_lock(self, digest: Digest) -> AsyncIterator[None]:
        lock, users = self._blob_locks.get(digest, (asyncio.Lock(), 0))
        self._blob_locks[digest] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._blob_locks.pop(digest)
            if users > 1:
                self._blob_locks[digest] = (lock, users - 1)


# --- what is to be fetched -----------------------------------------------------------------------------------------------------------


async def _plan(repository: Repository, wanted: Reference, fetched: Fetched, platform: Platform | None) -> _Plan:
    """Follows indexes to the manifest for the platform, and fetches the config."""
    document = parse_document(fetched.data, fetched.media_type)
    target = Descriptor(document.media_type, fetched.digest, len(fetched.data))
    documents = {fetched.digest: fetched.data}
    described = target
    attestations: list[Descriptor] = []
    for _ in range(MAX_DEPTH):
        if isinstance(document, Manifest):
            break
        entry = select(document, normalize(platform or host_platform()))
        if entry.size > MAX_DOCUMENT:
            raise InvalidArgument(f"manifest {entry.digest}: larger than {MAX_DOCUMENT} bytes")
        inner = await repository.manifest(entry.digest, entry.size)
        documents[entry.digest] = inner.data
        attestations = [
            other
            for other in document.manifests
            if is_attestation(other) and other.annotations.get(REFERENCE_DIGEST) == entry.digest
        ]
        document, described = parse_document(inner.data, entry.media_type), entry
    if isinstance(document, Index):
        raise InvalidArgument("index: indexes are nested too deep")
    if is_artifact(document):
        return _Plan(target, documents, described, document)
    for layer in document.layers:
        if not is_layer_type(layer.media_type):
            raise InvalidArgument(f"unsupported layer media type {layer.media_type or '(none)'}")
    config = await repository.blob(document.config, MAX_CONFIG)
    parsed = parse_config(config)
    diffs = diff_ids(parsed)
    if len(diffs) != len(document.layers):
        raise InvalidArgument(f"invalid image: {len(document.layers)} layers, but the config lists {len(diffs)}")
    found = platform_of(parsed)
    if found.os != "linux":
        raise InvalidArgument(f'image operating system "{found.os}" cannot be used on this platform')
    if platform is not None and not matches(platform, found):
        raise NotFound(
            f"image with reference {wanted.familiar} was found but does not match the specified platform: "
            f"wanted {normalize(platform)}, actual: {found}"
        )
    attached = await _attached(repository, attestations, documents)
    return _Plan(target, documents, described, document, config, diffs, attached)


async def _attached(
    repository: Repository, attestations: Sequence[Descriptor], documents: dict[Digest, bytes]
) -> tuple[Descriptor, ...]:
    """Adds the attestations' manifests to `documents`. → the blobs that they list. What the registry does not have (copies often lack them), or
    what is unreasonably large, is left out: the image runs without."""
    found: dict[Digest, Descriptor] = {}
    for entry in attestations[:MAX_ATTESTATIONS]:
        if entry.size > MAX_DOCUMENT:
            continue
        try:
            inner = await repository.manifest(entry.digest, entry.size)
        except RegistryError as error:
            if error.status == 404:
                continue
            raise
        document = parse_document(inner.data, entry.media_type)
        if isinstance(document, Manifest):
            parts = (document.config, *document.layers)
            if sum(part.size for part in parts) <= MAX_ATTACHED:
                documents[entry.digest] = inner.data
                found |= {part.digest: part for part in parts}
    return tuple(found.values())


# --- words ---------------------------------------------------------------------------------------------------------------------------


def tell_of(progress: ProgressSink, descriptor: Descriptor, status: str, current: int | None = None) -> None:
    """One line of Docker's progress about a blob; `current`: how many of its bytes."""
    detail = {} if current is None else {"current": current, "total": descriptor.size}
    progress({"status": status, "progressDetail": detail, "id": descriptor.digest.partition(":")[2][:12]})


def _extracting(tell: ProgressSink, descriptor: Descriptor, growing: Growing | None) -> Callable[[int], None]:
    """Reports how far unpacking is, now and then, once the download is complete (the same line shows both)."""
    clock = asyncio.get_running_loop().time
    reported = 0.0

    def report(consumed: int) -> None:
        nonlocal reported
        if (growing is None or growing.complete) and clock() - reported >= REPORT_SECONDS:
            reported = clock()
            tell_of(tell, descriptor, "Extracting", consumed)

    return report


@contextmanager
def in_dockers_words(reference: Reference) -> Iterator[None]:
    """What a registry refuses, as dockerd says it: clients tell apart by these words what a user is to do."""
    try:
        yield
    except RegistryError as error:
        match error.code:
            case "MANIFEST_UNKNOWN":
                raise NotFound(f"manifest for {reference.familiar} not found: {error}") from None
            case "DENIED" | "NAME_UNKNOWN" if error.status in (401, 403, 404):
                raise NotFound(
                    f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
                    f"'docker login': {error}"
                ) from None
            case "UNAUTHORIZED":
                raise PermissionDenied(str(error)) from None
        raise Unavailable(str(error)) from None
