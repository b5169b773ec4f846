"""`docker rmi`: what goes when an image is removed by a name or by its id, and what stands in the way. In wherryd.

Docker's rules: removing by name takes the name away, and the image with its last one; removing by id takes the image, if it has at most one
name (and digests of the same repository). Hard conflicts (a running container, images built on it) cannot be forced; soft ones (a stopped
container, further names) can. A name goes also where a hard conflict keeps the image. The messages are Docker's: its clients and people's
scripts know them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wherry.core.images import Image, Images
from wherry.errors import Conflict
from wherry.spec.calls import JsonList
from wherry.spec.ids import ContainerId, ImageId
from wherry.spec.image import Platform
from wherry.spec.reference import Reference, parse


@dataclass(frozen=True, slots=True)
class Use:
    """A container that was made from an image."""

    container_id: ContainerId
    running: bool


@dataclass(frozen=True, slots=True)
class Removal:
    """`uses` lists an image's containers; `event` is told ("untag" | "delete", image)."""

    images: Images
    uses: Callable[[ImageId], Sequence[Use]]
    event: Callable[[str, Image], None]

    async def remove(self, ref: str, *, force: bool, prune_parents: bool) -> JsonList:
        """→ what was untagged and deleted, in order. NotFound, Conflict."""
        image = self.images.get(ref)
        records: JsonList = []
        by_name = not _is_id(image, ref)
        names: Sequence[Reference] = ()
        if by_name:
            names = self._names_that_go(image, ref, force=force)
            if not set(image.references) <= set(names):
                await self._untag(image, names, records)
                return records
        elif _has_single_name(image.references):
            names = image.references
        try:
            self._check(image, soft_references=not force and not names, soft_containers=not force)
        except Conflict:
            if not by_name:
                raise
            await self._untag(image, names, records)  # what was asked for is done; the image stays for who needs it
            return records
        await self._delete(image, names or image.references, records, prune_parents=prune_parents)
        return records

    async def remove_platforms(self, ref: str, platforms: Sequence[Platform], *, force: bool) -> JsonList:
        """Only the variants for those platforms; the whole image when nothing would be left of it. NotFound, Conflict."""
        image = self.images.get(ref)
        target = self.images.target_for(ref, image)
        doomed = {(variant := self.images.get(ref, platform)).id: variant for platform in platforms}
        if {member.id for member in self.images.members(target.digest)} <= set(doomed):
            return await self.remove(ref, force=force, prune_parents=True)
        for variant in doomed.values():
            conflict = self._conflict([variant], soft_references=False, soft_containers=not force)
            if conflict:
                raise Conflict(f"conflict: unable to delete {_short(variant.id)} {conflict}")
        records: JsonList = []
        for variant in doomed.values():
            layers = await self.images.delete(variant.id, variants=False)
            self.event("delete", variant)
            records += [{"Deleted": variant.id}, *({"Deleted": chain_id} for chain_id in layers)]
        return records

    def _names_that_go(self, image: Image, ref: str, *, force: bool) -> Sequence[Reference]:
        if not force and _has_single_name(image.references):
            for use in self._uses_of(self.images.family(image)):
                raise Conflict(
                    f'conflict: unable to remove repository reference "{ref}" (must force) - container '
                    f"{use.container_id[:12]} is using its referenced image {_short(image.id)}"
                )
        name = parse(ref)
        name = name.with_digest(name.digest) if name.digest else name.tagged()
        left = [reference for reference in image.references if reference != name]
        if name.digest is None and not any(r.name == name.name and r.digest is None for r in left):
            # The last tag of a repository goes: its digests name nothing that anybody asked for any more.
            return [name, *(r for r in left if r.name == name.name)]
        return [name]

    async def _untag(self, image: Image, names: Sequence[Reference], records: JsonList) -> None:
        await self.images.untag(names)
        self._tell_untagged(image, names, records)

    def _tell_untagged(self, image: Image, names: Sequence[Reference], records: JsonList) -> None:
        for name in names:
            self.event("untag", image)
            records.append({"Untagged": name.familiar})

    async def _delete(
        self, image: Image, names: Sequence[Reference], records: JsonList, *, prune_parents: bool
    ) -> None:
        """With its names, in one step: an engine that dies has removed the image or has not begun."""
        while True:
            family = self.images.family(image)
            layers = await self.images.delete(image.id, names=names)
            self._tell_untagged(image, names, records)
            self.event("delete", image)
            records += [{"Deleted": member.id} for member in family]
            records += [{"Deleted": chain_id} for chain_id in layers]
            parent = self.images.by_id(image.parent) if image.parent else None
            if not prune_parents or parent is None or parent.references or self._conflict([parent]):
                return
            image, names = parent, ()

    def _check(self, image: Image, *, soft_references: bool, soft_containers: bool) -> None:
        family = self.images.family(image)
        conflict = self._conflict(family, soft_references=soft_references, soft_containers=soft_containers)
        if conflict:
            raise Conflict(f"conflict: unable to delete {_short(image.id)} {conflict}")

    def _uses_of(self, family: Sequence[Image]) -> list[Use]:
        return [use for member in family for use in self.uses(member.id)]

    def _conflict(self, family: Sequence[Image], *, soft_references: bool = True, soft_containers: bool = True) -> str:
        """What stands in the way of deleting an image (the first) and its variants."""
        ids = {member.id for member in family}
        if any(other.parent in ids and other.id not in ids for other in self.images.all()):
            return "(cannot be forced) - image has dependent child images"
        uses = self._uses_of(family)
        for use in uses:
            if use.running:
                return f"(cannot be forced) - image is being used by running container {use.container_id[:12]}"
        if soft_references and family[0].references:
            return "(must be forced) - image is referenced in multiple repositories"
        if soft_containers and uses:
            return f"(must be forced) - image is being used by stopped container {uses[0].container_id[:12]}"
        return ""


def _short(image_id: ImageId) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _is_id(image: Image, ref: str) -> bool:
    """Whether the user wrote (the beginning of) the id, not a name that happens to look like one."""
    return image.id.startswith(ref) or image.id.removeprefix("sha256:").startswith(ref)


def _has_single_name(references: Sequence[Reference]) -> bool:
    """At most one tag, and digests of no other repository than the tag's."""
    tags = [reference for reference in references if reference.digest is None]
    if len(references) <= 1:
        return True
    if len(tags) > 1:
        return False
    repositories = {reference.name for reference in references if reference.digest is not None}
    return repositories == {(tags[0] if tags else references[0]).name}
