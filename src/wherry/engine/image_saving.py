"""`docker save`: which images names mean, and their archive as a stream. In wherryd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from wherry.core.bridge import produced
from wherry.core.images import Image, Images, no_such_image
from wherry.core.save import Saved, save
from wherry.errors import InvalidArgument, NotFound
from wherry.spec.image import Descriptor, Platform
from wherry.spec.reference import Reference, parse_any


def find(images: Images, names: Sequence[str], platforms: Sequence[Platform]) -> list[Saved]:
    """What the names mean: a repository without a tag means all its tags, an id the image without a name. NotFound."""
    found: dict[str, Saved] = {}
    if not names:
        raise InvalidArgument("no image to save was named")
    for text in names:
        for image, target, name in _meant(images, text):
            item = found.get(target.digest)
            if item is None:
                item = found[target.digest] = Saved(target, _chosen(images, image, target, platforms, text))
                item.everything = not platforms
            if name is not None and name not in item.names:
                item.names.append(name)
    return list(found.values())


def _meant(images: Images, text: str) -> list[tuple[Image, Descriptor, Reference | None]]:
    named = parse_any(text)
    if isinstance(named, Reference) and named.tag is None and named.digest is None:
        tags = [
            (image, target, reference)
            for image in images.list()
            for reference in image.references
            if reference.name == named.name and reference.tag and (target := images.target_of(reference)) is not None
        ]
        if tags:
            return [(image, target, reference) for image, target, reference in tags]
    image = images.find(text)
    if image is None:
        raise no_such_image(text)
    if isinstance(named, Reference):
        exact = named.with_digest(named.digest) if named.digest else named.tagged()
        target = images.target_of(exact)
        if target is not None:
            return [(image, target, exact if exact.digest is None else None)]
    return [(image, image.target, None)]


def _chosen(images: Images, image: Image, target: Descriptor, platforms: Sequence[Platform], text: str) -> list[Image]:
    """The images of the target that are wanted, the one that names show (or the id names) first."""
    if not platforms:
        return [image, *(member for member in images.members(target.digest) if member.id != image.id)]
    wanted: dict[str, Image] = {}
    for platform in platforms:
        variant = images.best(images.members(target.digest), platform)
        if variant is None:
            raise NotFound(f"image {text} was found but does not provide the specified platform ({platform})")
        wanted[variant.id] = variant
    return list(wanted.values())


async def stream(images: Images, wanted: Sequence[Saved]) -> AsyncIterator[bytes]:
    """The archive. Nothing of it is removed meanwhile."""
    blobs = {digest for item in wanted for image in item.images for digest in image.blobs}
    with images.lease(blobs):
        async for piece in produced(lambda write: save(images.content, wanted, write)):
            yield piece
