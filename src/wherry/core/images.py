"""The images: which there are, what they are called, what they need; and what nothing needs any more.

In wherryd, on the event loop. An image is its config: the config's digest is its id, as in Docker's classic store (an artifact, which need not have a
config of its own, is its manifest). What a name stands for is a
*target*: a manifest, or an index of manifests. The images of one index, one for each platform that is here, belong together: the one that suits
this machine best is the target's *primary*, which the names show; the others are its variants, found by name and platform. All rows and configs
are kept in memory, so look-ups cost no I/O. Contents are `content`'s, unpacked layers `snapshots`', rows `image_rows`'.

**Invariants**: an image gets its row when all its blobs are in the content store and all its layers are recorded; a name belongs to one target;
what an image, a container or a lease needs is never removed; what none of them needs is removed by `collect`, at the latest when the engine starts.
An image that the disk has lost parts of is kept, with its names: it can be removed, and mended by pulling or loading it again, or by fsck.
Deliberately absent: what Docker makes of removing and listing (`engine.images`), pulling (`pull`), archives (`archive`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from wherry.core import embedded, image_rows
from wherry.core.cancellation import completed, thread_to_the_end
from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.layer_form import unpack_blob
from wherry.core.manifests import manifest_of
from wherry.core.snapshots import Snapshots, Staged
from wherry.errors import Conflict, InvalidArgument, NotFound, WherryError
from wherry.spec.ids import ChainId, Digest, ImageId
from wherry.spec.image import (
    MAX_CONFIG,
    MAX_DOCUMENT,
    Descriptor,
    Manifest,
    Platform,
    chain_ids,
    compatible,
    diff_ids,
    host_platform,
    normalize,
    parse_config,
    parse_document,
    platform_of,
    platform_to_json,
)
from wherry.spec.reference import Reference, parse, parse_any

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Image:
    """One image, or an artifact: that has no config and no layers here, and its size is that of its blobs. `config` is the image config as it was
    pulled: do not change it. `layers`: lowest first. `targets`: its manifest, or the indexes that list it; the latest last. `references`: the names
    of the targets whose primary it is. `damage`: why it cannot be run, its config or a layer is lost; what is not known then is empty."""

    id: ImageId
    config: Mapping[str, Any]
    layers: tuple[ChainId, ...]
    size: int
    targets: tuple[Descriptor, ...]
    blobs: frozenset[Digest]
    references: tuple[Reference, ...] = ()
    parent: ImageId | None = None
    tagged_at: str | None = None
    damage: str = ""

    @property
    def target(self) -> Descriptor:
        return self.targets[-1]

    @property
    def is_artifact(self) -> bool:
        """Whether it is no container image, but something else that registries carry (a chart, a signature, a model)."""
        return any(ImageId(target.digest) == self.id for target in self.targets)

    @property
    def repo_tags(self) -> tuple[str, ...]:
        """As Docker shows them: "busybox:latest"."""
        return tuple(reference.familiar for reference in self.references if reference.digest is None)

    @property
    def repo_digests(self) -> tuple[str, ...]:
        return tuple(reference.familiar for reference in self.references if reference.digest is not None)

    @property
    def created(self) -> str:
        """RFC 3339, or "" when the config does not say."""
        return str(self.config.get("created") or "")

    @property
    def platform(self) -> Platform:
        return platform_of(self.config)

    @property
    def run(self) -> Mapping[str, Any]:
        """The config's `config`: Env, Cmd, Entrypoint, User, WorkingDir, Volumes, Labels, …"""
        return self.config.get("config") or {}

    @property
    def top(self) -> ChainId | None:
        """The layer that a container's snapshot stands on."""
        return self.layers[-1] if self.layers else None


@dataclass(slots=True)
class NewImage:
    """What `Images.add` makes an image of. `id`: its config's digest, or an artifact's manifest's. `target`: the index or manifest that `references`
    stand for. `blobs`: all that it needs (also target and config). `tagged`: a user gives the name (`docker inspect` shows when). `own`: an
    artifact's manifest, which is one of its targets whatever the names stand for."""

    id: Digest
    target: Descriptor
    blobs: frozenset[Digest]
    layers: list[Staged] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    parent: ImageId | None = None
    tagged: bool = False
    own: Descriptor | None = None


class Images:
    def __init__(self, content: Content, snapshots: Snapshots, db: Database) -> None:
        self.content = content
        self.snapshots = snapshots
        self._db = db
        self._images: dict[ImageId, Image] = {}
        self._members: defaultdict[Digest, list[ImageId]] = defaultdict(list)  # by target, in order of arrival
        self._names: dict[str, Digest] = {}
        self._names_of: defaultdict[Digest, set[str]] = defaultdict(set)
        self._leases: Counter[Digest] = Counter()
        self._uses: Counter[ImageId] = Counter()
        self._changing = asyncio.Lock()
        self._adopting = asyncio.Lock()
        snapshots.on_released = self._released
        content.is_recorded = self._is_recorded

    async def open(self) -> None:
        """Reads all images, and removes what nothing refers to. `snapshots` are open already."""
        await thread_to_the_end(self.content.open)
        rows, names = await self._db.run(image_rows.read)
        for row in rows:
            image = await thread_to_the_end(self._revive, row)
            if image.damage:
                _log.warning("image %s is damaged (wherry system fsck --repair may mend it): %s", row.id, image.damage)
            self._remember(image)
        for name, target in names:
            if target in self._members:
                self._give_name(name, target)
        for image_id in self._images:
            self._show_names(image_id)
        await self.collect()

    async def revive(self) -> None:
        """Looks again at the images that are damaged: their parts may have been stored again. What is still damaged stays so."""
        async with self._changing:
            rows, _ = await self._db.run(image_rows.read)
            for row in rows:
                known = self._images.get(ImageId(row.id))
                if known is not None and known.damage:
                    self._remember(await thread_to_the_end(self._revive, row))
                    self._show_names_of(target.digest for target in known.targets)

    def _revive(self, row: image_rows.Row, coming: Iterable[Staged] = ()) -> Image:
        """From what is stored, and the layers to come; what is lost is said in `damage`."""
        config: Mapping[str, Any]
        try:
            if row.is_artifact:
                return self._artifact(row)
            config = parse_config(self.content.read(Digest(row.id), MAX_CONFIG))
            chain = chain_ids(diff_ids(config))
            sizes = {staged.chain_id: staged.unpacked.size for staged in coming}
            sizes |= {chain_id: layer.size for chain_id in chain if (layer := self.snapshots.layer(chain_id))}
            lost = [chain_id for chain_id in chain if chain_id not in sizes]
            damage = f"layer {lost[0]} does not exist" if lost else ""
        except WherryError as error:
            self.content.suspect(Digest(row.id))
            config, chain, sizes, damage = self._platform_of(row), (), {}, str(error)
        size = sum(sizes.get(chain_id, 0) for chain_id in chain)
        parent = ImageId(row.parent) if row.parent else None
        targets, blobs = tuple(row.targets), frozenset(row.blobs)
        return Image(ImageId(row.id), config, chain, size, targets, blobs, (), parent, row.tagged_at, damage)

    def _is_recorded(self, digest: Digest) -> bool:
        return any(digest in image.blobs for image in list(self._images.values()))

    def _platform_of(self, row: image_rows.Row) -> Mapping[str, Any]:
        """What an index says of an image whose config is lost, as far as it goes."""
        for target in row.targets:
            with suppress(WherryError):
                described, _ = manifest_of(self.content, target, row.id)
                if described.platform is not None:
                    return platform_to_json(described.platform)
        return {}

    def _artifact(self, row: image_rows.Row) -> Image:
        parts = {Digest(row.id)}
        document = parse_document(self.content.read(Digest(row.id), MAX_DOCUMENT))
        if isinstance(document, Manifest):
            parts |= {part.digest for part in (document.config, *document.layers)}
        size = sum(self.content.size(digest) for digest in parts if self.content.has(digest))
        return Image(ImageId(row.id), {}, (), size, tuple(row.targets), frozenset(row.blobs), (), None, row.tagged_at)

    # --- look-ups

    async def resolve(self, ref: str, platform: Platform | None = None, *, adopt: bool = True) -> Image:
        """As `get`, for who is about to run it: what the store does not have may be one of the package's own images, which is imported then
        (with `adopt`). NotFound also when it is damaged: docker's client pulls it then."""
        named = parse_any(ref)
        if (
            adopt
            and self._is_lacking(ref)
            and isinstance(named, Reference)
            and (layout := embedded.find(named)) is not None
        ):
            async with self._adopting:
                if self._is_lacking(ref):
                    await self._adopt(layout, named.tagged())
        image = self.get(ref, platform)
        if image.damage:
            text = f"image {ref} is damaged: {image.damage}: pull or load it again, or repair it (wherry system fsck --repair)"
            raise NotFound(text)
        return image

    def _is_lacking(self, ref: str) -> bool:
        image = self.find(ref)
        return image is None or bool(image.damage)

    def get(self, ref: str, platform: Platform | None = None) -> Image:
        """By name, digest, id or unique beginning of an id, from memory. NotFound "No such image: …"; InvalidArgument."""
        image = self.find(ref)
        if image is None:
            raise no_such_image(ref)
        if platform is None:
            return image
        variant = self.variant(ref, platform)
        if variant is None:
            raise NotFound(
                f"image with reference {ref} was found but does not provide the specified platform ({normalize(platform)})"
            )
        return variant

    def find(self, ref: str) -> Image | None:
        """As `get`, but None when the store does not have it."""
        named = parse_any(ref)
        if not isinstance(named, Reference):
            return self._images.get(ImageId(named)) or self.primary(named)
        exact = named.with_digest(named.digest) if named.digest else named.tagged()
        target = self._names.get(str(exact))
        if target is not None:
            return self.primary(target)
        found = self._by_prefix(ref)
        return self._images.get(ImageId(named.digest)) if found is None and named.digest else found

    def variant(self, ref: str, platform: Platform) -> Image | None:
        """What `ref` stands for, for that platform: of all images of the same target the best; None when none suits."""
        image = self.find(ref)
        if image is None:
            return None
        named = parse_any(ref)
        target = None
        if isinstance(named, Reference):
            exact = named.with_digest(named.digest) if named.digest else named.tagged()
            target = self._names.get(str(exact))
        targets = [target] if target is not None else [target.digest for target in image.targets]
        members = [self._images[image_id] for digest in targets for image_id in self._members[digest]]
        return self.best(members, platform)

    def _by_prefix(self, ref: str) -> Image | None:
        prefix = "sha256:" + ref.removeprefix("sha256:")
        if len(prefix) == len("sha256:"):
            return None
        found = [image for image_id, image in self._images.items() if image_id.startswith(prefix)]
        return found[0] if len(found) == 1 else None

    def by_id(self, image_id: ImageId) -> Image | None:
        return self._images.get(image_id)

    def named(self, reference: Reference) -> Image | None:
        """The image that has exactly that name (with its tag or digest)."""
        target = self._names.get(str(reference))
        return None if target is None else self.primary(target)

    def top_of(self, image_id: ImageId) -> ChainId | None:
        """The topmost layer of an image, which need not be recorded. None when there is none, or the image is not known."""
        image = self._images.get(image_id)
        return image.layers[-1] if image is not None and image.layers else None

    def names_of(self, image: Image) -> list[Reference]:
        """All names that lead to the image, as a variant too."""
        names = {name for target in image.targets for name in self._names_of.get(target.digest, ())}
        return [parse(name) for name in sorted(names)]

    def target_of(self, reference: Reference) -> Descriptor | None:
        """What exactly that name stands for."""
        target = self._names.get(str(reference))
        image = None if target is None else self.primary(target)
        return next((found for found in image.targets if found.digest == target), None) if image else None

    def target_for(self, ref: str, image: Image) -> Descriptor:
        """What `ref` stands for, if it is a name of the image's; else the image's latest target."""
        named = parse_any(ref)
        found = None
        if isinstance(named, Reference):
            found = self.target_of(named.with_digest(named.digest) if named.digest else named.tagged())
        return found if found in image.targets and found is not None else image.target

    def primary(self, target: Digest) -> Image | None:
        """Of the images of a target, the one for this machine, else the one that came first."""
        members = self.members(target)
        return (self.best(members, host_platform()) or members[0]) if members else None

    @staticmethod
    def best(images: Iterable[Image], platform: Platform) -> Image | None:
        """The image that suits a machine of that platform best; among equals the first."""
        bare = normalize(platform)
        order = compatible(Platform(bare.os, bare.architecture, bare.variant))
        suited = [image for image in images if image.platform in order]
        return min(suited, key=lambda image: order.index(image.platform)) if suited else None

    def members(self, target: Digest) -> list[Image]:
        """The images below a target, in the order in which they came."""
        return [self._images[image_id] for image_id in self._members.get(target, ())]

    def variants(self, image: Image) -> list[Image]:
        """The image, and all others below the targets whose primary it is."""
        found = {image.id: image}
        for target in self._led_by(image):
            found.update((member.id, member) for member in self.members(target))
        return list(found.values())

    def family(self, image: Image) -> list[Image]:
        """The image, and the variants that go when it goes: those that no other image's names lead to."""
        return [
            member
            for member in self.variants(image)
            if member is image or all(self._leads(image.id, target.digest) for target in member.targets)
        ]

    def _leads(self, image_id: ImageId, target: Digest) -> bool:
        primary = self.primary(target)
        return primary is not None and primary.id == image_id

    def _led_by(self, image: Image) -> list[Digest]:
        return [target.digest for target in image.targets if self._leads(image.id, target.digest)]

    def list(self) -> Sequence[Image]:
        """All primaries: what `docker images` is about."""
        return [image for image in self._images.values() if self._led_by(image)]

    def all(self) -> Sequence[Image]:
        """All images, variants too."""
        return [*self._images.values()]

    # --- changes

    @contextmanager
    def lease(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keeps blobs, also those that are yet to come, from being collected."""
        held = list(digests)
        self._leases.update(held)
        try:
            yield
        finally:
            self._leases.subtract(held)
            self._leases += Counter()  # drops zeros

    def leased(self) -> set[Digest]:
        """The blobs that are leased at this moment."""
        return set(self._leases)

    @asynccontextmanager
    async def holding(self, blobs: Iterable[Digest], layers: Iterable[ChainId]) -> AsyncIterator[None]:
        """Keeps what an image is being made of, until the image is added; what no image took is removed when this ends in an error."""
        try:
            with self.lease(blobs), self.snapshots.leased(layers):
                yield
        except BaseException:
            await self.collect()
            raise

    @contextmanager
    def in_use(self, image: Image) -> Iterator[None]:
        """Keeps an image from being deleted while something is made of it. NotFound when it has gone already."""
        if image.id not in self._images:
            raise no_such_image(image.id)
        self._uses[image.id] += 1
        try:
            yield
        finally:
            self._uses[image.id] -= 1
            self._uses += Counter()  # drops zeros

    @completed
    async def add(self, new: NewImage) -> Image:
        """Records an image whose blobs are stored (and leased) and whose layers are unpacked, and gives it its names, which others lose."""
        async with self._changing:
            row = self._row_of(new)
            image = self._revive(row, new.layers)
            if image.damage:
                raise NotFound(image.damage)
            names = [str(reference) for reference in new.references]
            unsynced = self.content.unsynced(row.blobs)
            await self.snapshots.commit(
                new.layers,
                sync=lambda done: self.content.sync(unsynced, done=done),
                also=lambda conn: image_rows.save(conn, row, names),
            )
            losers = {self._names[name] for name in names if name in self._names}
            self._remember(image)
            for name in names:
                self._give_name(name, new.target.digest)
            self._show_names_of({*losers, *(target.digest for target in image.targets)})
            return self._images[image.id]

    def _row_of(self, new: NewImage) -> image_rows.Row:
        """The image's row, with what is known of it already."""
        known = self._images.get(ImageId(new.id))
        before = (*((new.own,) if new.own else ()), *(known.targets if known else ()))
        targets = list({target.digest: target for target in before if target.digest != new.target.digest}.values())
        parent = new.parent if new.parent in self._images else None
        row = image_rows.Row(new.id, parent, now() if new.tagged else None)
        if known is not None:
            row.parent = row.parent or known.parent
            row.tagged_at = row.tagged_at or known.tagged_at
        row.targets = [*targets, new.target]
        row.blobs = list(new.blobs | (known.blobs if known else frozenset()))
        return row

    def _remember(self, image: Image) -> None:
        self._images[image.id] = image
        for target in image.targets:
            if image.id not in self._members[target.digest]:
                self._members[target.digest].append(image.id)

    def _give_name(self, name: str, target: Digest) -> None:
        before = self._names.get(name)
        if before is not None:
            self._names_of[before].discard(name)
        self._names[name] = target
        self._names_of[target].add(name)

    def _show_names(self, image_id: ImageId) -> None:
        """Brings `Image.references` up to date."""
        image = self._images[image_id]
        names = sorted(name for target in self._led_by(image) for name in self._names_of[target])
        self._images[image_id] = replace(image, references=tuple(parse(name) for name in names))

    def _show_names_of(self, targets: Iterable[Digest]) -> None:
        for image_id in {image_id for target in targets for image_id in self._members.get(target, ())}:
            self._show_names(image_id)

    @completed
    async def tag(
        self, image_id: ImageId, reference: Reference, target: Digest | None = None, *, by_user: bool = True
    ) -> None:
        """Gives the image's target (its latest, if not said) a name; whoever has it loses it. `by_user`: `docker inspect` shows when. NotFound when
        the image has gone meanwhile."""
        async with self._changing:
            image = self._images.get(image_id)
            if image is None:
                raise no_such_image(image_id)
            moment = now() if by_user else image.tagged_at
            name, digest = str(reference), target or image.target.digest

            def transact(conn: sqlite3.Connection) -> None:
                image_rows.give_name(conn, name, digest)
                image_rows.set_tagged_at(conn, image_id, moment)

            await self._db.run(transact)
            losers = {self._names[name]} if name in self._names else set()
            self._images[image_id] = replace(image, tagged_at=moment)
            self._give_name(name, digest)
            self._show_names_of({digest, *losers})

    @completed
    async def untag(self, references: Sequence[Reference]) -> None:
        """Takes names away; the images stay."""
        async with self._changing:
            names = [str(reference) for reference in references]
            await self._db.run(lambda conn: image_rows.take_names(conn, names))
            self._show_names_of(self._drop_names(names))

    def _drop_names(self, names: Iterable[str]) -> set[Digest]:
        """→ the targets that they stood for."""
        targets = set()
        for name in names:
            target = self._names.pop(name, None)
            if target is not None:
                self._names_of[target].discard(name)
                targets.add(target)
        return targets

    @completed
    async def delete(
        self, image_id: ImageId, *, variants: bool = True, names: Sequence[Reference] = ()
    ) -> Sequence[ChainId]:
        """Removes an image and its variants (`family`), its names (`names`, and those that stand for nothing else), and what only it needed. → the
        layers that have gone, topmost first. Conflict while something is being made of it. The files go soon after. Without `variants`: the
        image alone; the names stand for what is left."""
        async with self._changing:
            image = self._images.get(image_id)
            if image is None:
                raise no_such_image(image_id)
            doomed = self.family(image) if variants else [image]
            if any(self._uses[member.id] for member in doomed):
                raise Conflict(
                    f"conflict: unable to delete {image_id.removeprefix('sha256:')[:12]} (cannot be forced) - "
                    "image is being used by a container that is being created"
                )
            taken = [str(reference) for reference in names]

            def transact(conn: sqlite3.Connection) -> None:
                image_rows.take_names(conn, taken)
                image_rows.delete(conn, [member.id for member in doomed])

            await self._db.run(transact)
            touched = {target.digest for member in doomed for target in member.targets}
            touched |= self._drop_names(taken)
            for member in doomed:
                del self._images[member.id]
                for target in member.targets:
                    self._members[target.digest].remove(member.id)
            for digest in touched:
                if not self._members[digest]:
                    del self._members[digest]
                    for name in self._names_of.pop(digest, ()):
                        del self._names[name]
            self._show_names_of(touched)
            gone = await self.collect(wait=False)
        return [chain_id for member in doomed for chain_id in reversed(member.layers) if chain_id in gone]

    @completed
    async def collect(self, *, wait: bool = True) -> set[ChainId]:
        """Removes every blob and layer that no image, container or lease needs. → the layers removed. Unless `wait`, their files go soon after. A
        disk that does not let them go is logged: what was asked for is done, and the next start tries again."""
        try:
            return await self._collect(wait=wait)
        except (WherryError, OSError) as error:
            _log.warning("what no image needs cannot be removed: %s", error)
            return set()

    async def _collect(self, *, wait: bool) -> set[ChainId]:
        needed = {chain_id for image in self._images.values() for chain_id in image.layers} | self.snapshots.needed()
        if any(image.damage and not image.layers for image in self._images.values()):
            needed |= {layer.chain_id for layer in self.snapshots.layers()}  # nobody knows which of them it stands on
        kept = {digest for image in self._images.values() for digest in image.blobs} | set(self._leases)
        # Nobody can take a lease before the first wait; by then what is to go is out of sight.
        forgotten = self.snapshots.forget({layer.chain_id for layer in self.snapshots.layers()} - needed)
        files = self.content.discard([digest for digest in self.content if digest not in kept])
        for path in files:
            self.snapshots.trash.put(path)
        await self.snapshots.remove_layers(forgotten, wait=wait)
        await thread_to_the_end(self.content.partials.remove_old)
        return {layer.chain_id for layer in forgotten}

    async def _released(self, parent: ChainId) -> None:
        """A container's snapshot has gone: its layers may have been the last thing left of a removed image."""
        if not any(parent in image.layers for image in self._images.values()):
            await self.collect()

    # --- the package's own images

    async def _adopt(self, layout: embedded.Layout, name: Reference) -> Image:
        config = parse_config(layout.blobs[layout.config])
        diffs = diff_ids(config)
        chain = chain_ids(diffs)
        new = NewImage(layout.config, layout.target, frozenset(layout.blobs), references=[name])
        async with self.holding(layout.blobs, chain):
            for digest, data in layout.blobs.items():
                await thread_to_the_end(self.content.add, data, digest)
            for n, (layer, chain_id, diff_id) in enumerate(zip(layout.layers, chain, diffs, strict=True)):
                if self.snapshots.layer(chain_id) is None:
                    staged = self.snapshots.stage(chain_id, chain[n - 1] if n else None, diff_id)
                    staged.unpacked = await thread_to_the_end(
                        unpack_blob, self.snapshots.driver.form, self.content.path(layer), staged.fs, diff_id
                    )
                    new.layers.append(staged)
            return await self.add(new)


def no_such_image(ref: str) -> NotFound:
    """The words that Docker's clients look for before they pull."""
    try:
        named = parse_any(ref)
    except InvalidArgument:
        return NotFound(f"No such image: {ref}")
    return NotFound(f"No such image: {named.tagged().familiar if isinstance(named, Reference) else named}")


def now() -> str:
    """As Docker writes moments: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
