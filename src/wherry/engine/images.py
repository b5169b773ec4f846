"""Images as Docker's API has them: implements `api.backend.ImageBackend`. In wherryd.

Here are the verbs and their events; the rules of removing are `image_removal`, of listing `image_listing`, the shapes `image_json`. The work
is core's: `pull`, `archive`, `images`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from wherry.core.archive import Archives
from wherry.core.cancellation import thread_to_the_end
from wherry.core.commit import Committer
from wherry.core.images import Image
from wherry.core.layers import LayerWork
from wherry.core.pull import REPORT_SECONDS, Puller
from wherry.core.push import Pusher
from wherry.core.save import Saved
from wherry.core.unpackers import Unpackers
from wherry.distribution.download import Download, download, full_url, without_password
from wherry.distribution.hosts import RegistryHosts
from wherry.engine import changes as dockerfile
from wherry.engine import disk_usage, image_json, image_listing, image_manifests, image_saving, pruning
from wherry.engine.fsck import Fsck
from wherry.engine.image_names import new_name
from wherry.engine.image_removal import Removal, Use
from wherry.engine.room import make_room
from wherry.engine.services import Services
from wherry.errors import Conflict, DataLoss, Internal, InvalidArgument, NotFound, PermissionDenied
from wherry.spec.calls import Json, JsonList, Names, ProgressSink, RegistryAuth
from wherry.spec.ids import ImageId
from wherry.spec.image import Platform, parse_platform
from wherry.spec.reference import parse

_BESIDE = re.compile(r"sha(256|512)-[0-9a-f]{64,128}(\.[a-z]+)?\Z")
"""Tags under which signatures and other referrers are kept; no images."""


class ImageObjects:
    """Open it before use, close it at the end. `hosts`: which registries are spoken to without TLS, and the like."""

    def __init__(self, services: Services, hosts: RegistryHosts) -> None:
        self._services = services
        self._images = services.images
        self._unpackers = Unpackers(form=services.snapshots.driver.form)
        work = LayerWork(services.snapshots)
        self.committer = Committer(self._images, self._unpackers, work)
        self._archives = Archives(self._images, self._unpackers, work)
        self._puller = Puller(self._images, self._unpackers, work, hosts, services.admission)
        self._pusher = Pusher(self._images, hosts)
        self._fsck = Fsck(services, self._unpackers, work, self._puller)
        self._removal = Removal(self._images, self._uses, self._event)

    def limit(self, *, downloads: int, uploads: int, attempts: int) -> None:
        """How many layers are moved at once (0: all), and how often a download is tried; from now on."""
        self._puller.slots.limit, self._pusher.slots.limit, self._puller.attempts = downloads, uploads, attempts

    async def close(self) -> None:
        await self._puller.close()
        await self._pusher.close()
        await self._unpackers.close()

    # --- looking

    async def list(
        self,
        *,
        all: bool,
        filters: Mapping[str, Names],
        manifests: bool = False,
        identity: bool = False,
        shared_size: bool = False,
    ) -> JsonList:
        found = image_listing.select(self._images, all=all, filters=filters)
        answer = [image_json.summary(image) for image in found]
        patterns = filters.get("reference")
        if patterns:  # only the names that fit are shown
            for image, entry in zip(found, answer, strict=True):
                fitting = [reference for reference in image.references if image_listing.matches(reference, patterns)]
                entry["RepoTags"] = [reference.familiar for reference in fitting if reference.digest is None]
                entry["RepoDigests"] = [reference.familiar for reference in fitting if reference.digest is not None]
        shared = image_json.shared_sizes(self._images) if shared_size else {}
        for image, entry in zip(found, answer, strict=True):
            entry["Containers"] = sum(len(self._uses(member.id)) for member in self._images.variants(image))
            entry["SharedSize"] = shared.get(image.id, -1)
            if manifests:
                entry["Manifests"] = await self._manifests(image, identity=identity)
        return answer

    async def _manifests(self, image: Image, *, identity: bool = False) -> JsonList:
        members: dict[str, Image] = {member.id: member for member in self._images.members(image.target.digest)}
        found = await thread_to_the_end(
            image_manifests.manifests,
            self._images.content,
            image.target,
            members,
            lambda member: [use.container_id for use in self._uses(member.id)],
        )
        origin = image_json.identity(self._images.names_of(image)) if identity else None
        for entry in found:
            if origin is not None and entry["Available"] and "ImageData" in entry:
                entry["ImageData"]["Identity"] = origin
        return found

    async def inspect(self, ref: str, *, platform: Platform | None = None, manifests: bool = False) -> Json:
        image = self._images.get(ref, platform)
        answer = image_json.inspect(image, self._services.snapshots)
        if manifests:
            answer["Manifests"] = await self._manifests(image)
        origin = image_json.identity(self._images.names_of(image))
        if origin is not None:
            answer["Identity"] = origin
        return answer

    async def history(self, ref: str, *, platform: Platform | None = None) -> JsonList:
        image = self._images.get(ref, platform)
        return image_json.history(image, self._services.snapshots, self._ancestors(image))

    def _ancestors(self, image: Image) -> Sequence[Image]:
        """The images that it was built on here, nearest first."""
        found, step = [], image
        while step.parent is not None and (parent := self._images.by_id(step.parent)) is not None:
            found.append(parent)
            step = parent
        return found

    async def attestations(
        self, ref: str, *, platform: Platform | None, types: Sequence[str], statement: bool
    ) -> JsonList:
        image = self._images.get(ref, platform)
        target = self._images.target_for(ref, image)
        with self._images.lease(image.blobs):
            return await thread_to_the_end(
                image_manifests.attestations, self._images.content, image, target, types, statement=statement
            )

    async def trust(self, ref: str) -> Json:
        """The trust policy; `ref` "": without the rule for an image."""
        from wherry.engine import trust_json  # cryptography is loaded where there is a policy, or someone asks

        return trust_json.policy(self._services.admission.policy, parse(ref).tagged() if ref else None)

    # --- names

    async def tag(self, ref: str, repository: str, tag: str) -> None:
        image = self._images.get(ref)
        reference = new_name(repository, tag)
        await self._images.tag(image.id, reference, self._images.target_for(ref, image).digest)
        self._event("tag", image, name=reference.familiar)

    # --- going

    async def remove(
        self, ref: str, *, force: bool, prune_parents: bool, platforms: Sequence[Platform] = ()
    ) -> JsonList:
        if platforms:
            return await self._removal.remove_platforms(ref, platforms, force=force)
        return await self._removal.remove(ref, force=force, prune_parents=prune_parents)

    @pruning.one_at_a_time
    async def prune(self, filters: Mapping[str, Names]) -> Json:
        """Removes images that no container uses: those without a tag, or with dangling=false all of them; and what interrupted pulls have left."""
        pruning.check(filters, image_listing.PRUNE_FILTERS)
        pruning.deadline(filters)
        only_dangling = image_listing.flag(filters.get("dangling") or ["true"], "dangling")
        wanted = {name: values for name, values in filters.items() if name != "dangling" and values}
        deleted: JsonList = []
        reclaimed = 0
        for image in image_listing.select(self._images, all=True, filters=wanted):
            current = self._images.by_id(image.id)
            if current is None or (only_dangling and current.repo_tags):
                continue
            if any(self._uses(member.id) for member in self._images.family(current)):
                continue
            pieces = disk_usage.pieces_of([*self._images.family(current), *self._ancestors(current)])
            sizes = await disk_usage.measure(self._images, pieces)
            names = [reference.familiar for reference in current.references] or [str(image.id)]
            for name in names:
                if self._images.find(name) is not None:
                    try:
                        deleted += await self._removal.remove(name, force=False, prune_parents=True)
                    except (Conflict, NotFound):
                        break  # something is built on it, or somebody else was quicker
            reclaimed += sizes.of(disk_usage.missing(self._images, pieces))
        await self._images.snapshots.trash.empty()
        if not wanted:
            reclaimed += await thread_to_the_end(self._images.content.partials.remove_old, lifetime=0)
        self._services.events.publish("image", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ImagesDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    # --- coming

    async def pull(self, reference: str, *, platform: str | None, auth: RegistryAuth, progress: ProgressSink) -> None:
        """A reference without tag and digest means all tags of the repository, as in Docker's API."""
        wanted = parse(reference)
        if wanted.familiar_name == "scratch":
            raise PermissionDenied("'scratch' is a reserved name")
        chosen = parse_platform(platform) if platform else None
        await make_room(self._services)
        references = [wanted]
        if wanted.tag is None and wanted.digest is None:
            tags = await self._puller.tags(wanted, auth)
            references = [wanted.with_tag(tag) for tag in tags if not _BESIDE.match(tag)]
        for one in references:
            with _disk_errors():
                await self._puller.pull(one, chosen, auth, progress)
            self._services.events.publish(
                "image", "pull", one.familiar, {**_labels(self._images.named(one)), "name": one.familiar_name}
            )

    async def save(self, refs: Sequence[str], *, platforms: Sequence[Platform]) -> AsyncIterator[bytes]:
        wanted = image_saving.find(self._images, refs, platforms)
        return self._saved(wanted)

    async def _saved(self, wanted: Sequence[Saved]) -> AsyncIterator[bytes]:
        async for piece in image_saving.stream(self._images, wanted):
            yield piece
        for image in {item.images[0].id: item.images[0] for item in wanted}.values():
            self._event("save", image)

    async def load(
        self,
        archive: AsyncIterator[bytes],
        *,
        quiet: bool,
        platforms: Sequence[Platform] = (),
        progress: ProgressSink,
    ) -> None:
        await make_room(self._services)
        with _disk_errors(), _clients_archive():
            loaded = await self._archives.load(archive, progress, quiet=quiet, platforms=platforms)
        for image in loaded:
            self._event("load", image)

    async def import_(
        self,
        archive: AsyncIterator[bytes] | str,
        *,
        repository: str,
        tag: str,
        message: str,
        changes: Names,
        platform: str | None,
        progress: ProgressSink,
    ) -> None:
        name = new_name(repository, tag) if repository else None
        run = dockerfile.apply({}, changes)
        chosen = parse_platform(platform) if platform else None
        async with _imported(archive, progress) as stream:
            with _disk_errors(), _clients_archive():
                image = await self._archives.import_(stream, name=name, run=run, comment=message, platform=chosen)
        progress({"status": image.id})
        self._event("import", image)

    # --- to a registry

    async def push(
        self,
        repository: str,
        tag: str,
        *,
        platform: str | None,
        referrers: bool = False,
        auth: RegistryAuth,
        progress: ProgressSink,
    ) -> None:
        named = parse(repository)
        if named.tag is not None or named.digest is not None:
            if tag or named.digest is not None:
                raise InvalidArgument("cannot push a digest reference" if named.digest else "invalid reference format")
            tag = named.tag or ""
        chosen = parse_platform(platform) if platform else None
        if tag:
            references = [named.with_tag(tag)]
        else:
            names = [reference for image in self._images.list() for reference in image.references]
            references = sorted((one for one in names if one.name == named.name and one.tag), key=str)
            if not references:
                raise NotFound(f"An image does not exist locally with the tag: {named.familiar_name}")
        for reference in references:
            if self._images.named(reference) is None:
                raise NotFound(f"An image does not exist locally with the tag: {named.familiar_name}")
            await self._pusher.push(reference, chosen, auth, progress, with_referrers=referrers)
            image = self._images.named(reference)
            self._services.events.publish(
                "image", "push", reference.familiar, {**_labels(image), "name": reference.familiar_name}
            )

    # --- around

    async def fsck(self, *, repair: bool, auths: Mapping[str, RegistryAuth], progress: ProgressSink) -> None:
        with _disk_errors():
            await self._fsck.run(repair=repair, auths=auths, progress=progress)

    def _uses(self, image_id: ImageId) -> Sequence[Use]:
        return [
            Use(container.id, container.is_running)
            for container in self._services.containers.all()
            if container.record.image == image_id
        ]

    def _event(self, action: str, image: Image, name: str | None = None) -> None:
        self._services.events.publish("image", action, image.id, {**image_json.labels(image), "name": name or image.id})


@asynccontextmanager
async def _imported(archive: AsyncIterator[bytes] | str, progress: ProgressSink) -> AsyncIterator[AsyncIterator[bytes]]:
    """What is imported; a URL is downloaded meanwhile, as dockerd tells of it."""
    if not isinstance(archive, str):
        yield archive
        return
    url = full_url(archive)
    async with download(url) as found:
        progress({"status": f"Downloading from {without_password(url)}"})
        yield _counted(found, progress)


async def _counted(found: Download, progress: ProgressSink) -> AsyncIterator[bytes]:
    clock, reported, current = asyncio.get_running_loop().time, 0.0, 0
    async for piece in found.pieces:
        current += len(piece)
        if clock() - reported >= REPORT_SECONDS or current == found.size:
            reported = clock()
            detail = {"current": current} if found.size is None else {"current": current, "total": found.size}
            progress({"status": "Importing", "progressDetail": detail})
        yield piece


@contextmanager
def _clients_archive() -> Iterator[None]:
    """What is damaged is what the client sent."""
    try:
        yield
    except DataLoss as error:
        raise InvalidArgument(str(error)) from None


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A full disk and its kin are the user's to mend, so they are said as they are."""
    try:
        yield
    except ConnectionError:
        raise  # the client has gone
    except OSError as error:
        subject = f" {error.filename}" if error.filename else ""
        raise Internal(f"write{subject}: {(error.strerror or str(error)).lower()}") from None


def _labels(image: Image | None) -> Mapping[str, str]:
    return image_json.labels(image) if image is not None else {}
