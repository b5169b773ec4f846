"""The forms that an archive of images may have: what `docker save` writes (old and new) and OCI image layouts. Taken apart, and read.

Runs in threads of wherryd. Docker since version 25 writes both forms at once: the layout says what there is (also images of further platforms, and
what is attached to them), manifest.json what it is called.

**Invariants**: member names are only compared, never used as paths; what an archive claims of a digest is verified; the number of members, the
size and the nesting of documents are bounded.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest, sha256

from wherry.core.compression import Source, decompressed
from wherry.core.manifests import MAX_DEPTH, is_artifact, is_attached
from wherry.core.save import IMAGE_NAME, REF_NAME
from wherry.core.tar import CHUNK, Reader
from wherry.errors import DataLoss, InvalidArgument, NotFound
from wherry.spec.ids import Digest
from wherry.spec.image import (
    MAX_CONFIG,
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    Platform,
    matches,
    parse_config,
    parse_document,
    platform_of,
)
from wherry.spec.reference import Reference, parse

MAX_MEMBERS = 20_000
MAX_MANIFEST_JSON = 16 << 20


@dataclass(frozen=True, slots=True)
class Member:
    path: str
    size: int
    digest: Digest


@dataclass(slots=True)
class Archive:
    """An archive taken apart: its files by their normalised name."""

    files: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: object) -> Member:
        """Follows links inside the archive. InvalidArgument if there is no such file."""
        if not isinstance(name, str):
            raise InvalidArgument("invalid archive: a file name is not a string")
        current = _normalize(name)
        for _ in range(8):
            if current in self.files:
                return self.files[current]
            if current not in self.links:
                break
            current = self.links[current]
        raise InvalidArgument(f"invalid archive: the file {name[:200]!r} is missing")

    def blob(self, digest: Digest) -> Member:
        """A blob of the layout, verified."""
        member = self.find(f"blobs/{digest.replace(':', '/', 1)}")
        if member.digest != digest and (found := _measured(member, digest)) != digest:
            raise DataLoss(f"invalid archive: the blob {digest} has the digest {found}")
        return member

    def read(self, member: Member, limit: int) -> bytes:
        if member.size > limit:
            raise InvalidArgument(f"invalid archive: a document of {member.size} bytes")
        with open(member.path, "rb") as file:
            return file.read()


def _measured(member: Member, digest: Digest) -> str:
    """By the digest's algorithm; sha256 was measured when it was written."""
    algorithm = digest.partition(":")[0]
    if algorithm == "sha256":
        return member.digest
    with open(member.path, "rb") as file:
        return f"{algorithm}:{file_digest(file, algorithm).hexdigest()}"


@dataclass(slots=True)
class Found:
    """One image of an archive, or an artifact (`is_artifact`: it is kept as it is, and has no platform). `manifest`: its own, if it came with one."""

    config: Member
    layers: list[Member]
    platform: Platform | None
    manifest: Member | None = None

    @property
    def is_artifact(self) -> bool:
        return self.platform is None

    @property
    def id(self) -> Digest:
        return self.manifest.digest if self.is_artifact and self.manifest else self.config.digest


@dataclass(slots=True)
class Group:
    """What one name stands for: the images of an index, or a single one. `attached`: indexes, attestations, referrers."""

    images: list[Found]
    names: list[Reference]
    target: Descriptor | None = None
    attached: list[Member] = field(default_factory=list)

    def has(self, other: Found) -> bool:
        layers = [layer.digest for layer in other.layers]
        return any(
            one.config.digest == other.config.digest and [layer.digest for layer in one.layers] == layers
            for one in self.images
        )

    def take_referrer(self, archive: Archive, leaf: _Leaf) -> bool:
        """→ whether it is one: a manifest elsewhere in the archive that refers to this target, or to one of its images."""
        subject = leaf.manifest.raw.get("subject")
        own = {found.manifest.digest for found in self.images if found.manifest} | {
            member.digest for member in self.attached
        }
        about = own | ({self.target.digest} if self.target else set())
        if not isinstance(subject, dict) or subject.get("digest") not in about:
            return False
        self.attached += leaf.members(archive)
        return True


def _normalize(name: str) -> str:
    return posixpath.normpath("/" + name).lstrip("/")


# --- taking apart --------------------------------------------------------------------------------------------------------------------


def split(source: Source, directory: str) -> Archive:
    """Writes every file of the tar to a file of its own."""
    archive = Archive()
    reader = Reader(decompressed(source))
    for number, entry in enumerate(reader):
        if number >= MAX_MEMBERS:
            raise InvalidArgument(f"invalid archive: more than {MAX_MEMBERS} members")
        name = _normalize(os.fsdecode(entry.name))
        archive.links.pop(name, None)
        replaced = archive.files.pop(name, None)
        if replaced is not None:
            os.unlink(replaced.path)
        match entry.kind:
            case b"0":
                if entry.sparse is not None:
                    raise InvalidArgument(f"invalid archive: {name[:200]!r} is sparse")
                archive.files[name] = _spool_pieces(reader.data(), f"{directory}/{number}")
            case b"1":
                archive.links[name] = _normalize(os.fsdecode(entry.link))
            case b"2":
                archive.links[name] = _normalize(posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link)))
    return archive


def spool(source: Source, path: str) -> Member:
    return _spool_pieces(iter(lambda: source.read(CHUNK), b""), path)


def _spool_pieces(pieces: Iterable[bytes], path: str) -> Member:
    digest, size = sha256(), 0
    with open(path, "xb") as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    return Member(path, size, Digest("sha256:" + digest.hexdigest()))


# --- reading -------------------------------------------------------------------------------------------------------------------------


def images_of(archive: Archive, platforms: Sequence[Platform]) -> list[Group]:
    """The images of the archive; of those of an index all that are in it, or those for `platforms`. NotFound when one of these is missing."""
    docker = "manifest.json" in archive.files or "manifest.json" in archive.links
    layout = "index.json" in archive.files or "index.json" in archive.links
    if not docker and not layout:
        raise InvalidArgument(
            "invalid archive: it has neither manifest.json (docker save) nor index.json (OCI layout) in it"
        )
    groups = _layout_groups(archive) if layout else []
    if docker:
        groups = _named_by_docker(archive, groups)
    groups = [group for group in groups if group.images]
    if platforms:
        if not any(_suits(found, wanted) for group in groups for found in group.images for wanted in platforms):
            raise NotFound(f"no images providing the requested platform(s) found: [{' '.join(map(str, platforms))}]")
        for group in groups:
            _keep_platforms(group, platforms)
    return groups


def _suits(found: Found, wanted: Platform) -> bool:
    return found.platform is None or matches(wanted, found.platform)


def _keep_platforms(group: Group, platforms: Sequence[Platform]) -> None:
    for wanted in platforms:
        if not any(_suits(found, wanted) for found in group.images):
            name = group.names[0].familiar if group.names else group.images[0].config.digest
            raise NotFound(f"image {name} in the archive doesn't provide the requested platform ({wanted})")
    group.images = [found for found in group.images if any(_suits(found, wanted) for wanted in platforms)]


def _named_by_docker(archive: Archive, groups: list[Group]) -> list[Group]:
    """manifest.json's images and names; what the layout knows of them besides stays."""
    try:
        listed = json.loads(archive.read(archive.find("manifest.json"), MAX_MANIFEST_JSON))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"invalid archive: manifest.json is not valid JSON: {error}") from None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise InvalidArgument("invalid archive: manifest.json is not a list of images")
    named: list[Group] = []
    for item in listed:
        layers, texts = item.get("Layers") or [], item.get("RepoTags") or []
        if not isinstance(layers, list) or not isinstance(texts, list) or not all(isinstance(n, str) for n in texts):
            raise InvalidArgument("invalid archive: manifest.json is malformed")
        names = [_tagged(text) for text in texts]
        config = archive.find(item.get("Config"))
        found = Found(config, [archive.find(layer) for layer in layers], _platform(archive, config))
        group = next((group for group in groups if group.has(found)), None)
        if group is None:
            group = Group([found], names)
        elif group not in named:
            group.names = names
        else:
            group.names += names
        if group not in named:
            named.append(group)
    return named + [group for group in groups if group not in named]


def _tagged(text: str) -> Reference:
    reference = parse(text)
    if reference.tag is None or reference.digest is not None:
        raise InvalidArgument(f"invalid tag {text!r}")
    return reference


def _layout_groups(archive: Archive) -> list[Group]:
    index = parse_document(archive.read(archive.find("index.json"), MAX_DOCUMENT), OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidArgument("invalid archive: index.json is not an index")
    groups: dict[Digest, Group] = {}
    loose: list[_Leaf] = []
    for descriptor in index.manifests:
        if descriptor.digest in groups:
            groups[descriptor.digest].names += _names_of(descriptor)
            continue
        indexes, leaves = _leaves(archive, descriptor)
        images = [leaf for leaf in leaves if not is_attached(leaf.descriptor, leaf.manifest)]
        attached = [leaf for leaf in leaves if is_attached(leaf.descriptor, leaf.manifest)]
        if not images:
            loose += attached
            continue
        found = [one for leaf in images if (one := _found(archive, leaf, alone=len(images) == 1)) is not None]
        extras = [member for leaf in attached for member in leaf.members(archive)]
        target = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
        groups[descriptor.digest] = Group(found, _names_of(descriptor), target, [*indexes, *extras])
    artifacts: list[Group] = []
    for leaf in loose:
        taken = [group for group in groups.values() if group.take_referrer(archive, leaf)]
        if leaf.is_top and (not taken or _names_of(leaf.descriptor)):
            artifacts.append(leaf.as_artifact(archive))
    return [*groups.values(), *artifacts]


@dataclass(slots=True)
class _Leaf:
    """A manifest somewhere below an entry of index.json."""

    descriptor: Descriptor
    member: Member
    manifest: Manifest
    is_top: bool
    """Whether index.json lists it itself."""

    def as_artifact(self, archive: Archive) -> Group:
        """InvalidArgument when it is not whole, or an image that is attached to what is not here."""
        if not is_artifact(self.manifest):
            raise InvalidArgument(f"invalid archive: {self.descriptor.digest} belongs to an image that is not in it")
        parts = [archive.blob(part.digest) for part in self.manifest.layers]
        found = Found(archive.blob(self.manifest.config.digest), parts, None, self.member)
        target = Descriptor(self.manifest.media_type, self.member.digest, self.member.size)
        return Group([found], _names_of(self.descriptor), target)

    def members(self, archive: Archive) -> list[Member]:
        """Its own document and the blobs that it lists, as far as they are there."""
        found = [self.member]
        for part in (self.manifest.config, *self.manifest.layers):
            try:
                found.append(archive.blob(part.digest))
            except InvalidArgument:
                continue
        return found


def _leaves(archive: Archive, top: Descriptor) -> tuple[list[Member], list[_Leaf]]:
    """→ the documents of the indexes on the way, and the manifests; each once. What the archive does not have is another platform's."""
    indexes: list[Member] = []
    leaves: list[_Leaf] = []
    level, seen = [top], set()
    for _ in range(MAX_DEPTH):
        following: list[Descriptor] = []
        for descriptor in level:
            if descriptor.digest in seen or not (descriptor.is_manifest or descriptor.is_index):
                continue
            seen.add(descriptor.digest)
            try:
                member = archive.blob(descriptor.digest)
            except InvalidArgument:
                continue
            document = parse_document(archive.read(member, MAX_DOCUMENT), descriptor.media_type)
            if isinstance(document, Manifest):
                leaves.append(_Leaf(descriptor, member, document, descriptor is top))
            else:
                indexes.append(member)
                following += document.manifests
        level = following
    if any(descriptor.is_index and descriptor.digest not in seen for descriptor in level):
        raise InvalidArgument("invalid archive: indexes are nested too deep")
    if not leaves:
        raise NotFound("no manifest of this archive's index is in it")
    return indexes, leaves


def _found(archive: Archive, leaf: _Leaf, *, alone: bool) -> Found | None:
    """None for an image of an index whose content is not in the archive, or that is none of Linux's."""
    try:
        config = archive.blob(leaf.manifest.config.digest)
        layers = [archive.blob(layer.digest) for layer in leaf.manifest.layers]
    except InvalidArgument:
        if alone:
            raise
        return None
    platform = _platform(archive, config)
    if platform.os != "linux":
        if alone:
            raise InvalidArgument(f'image operating system "{platform.os}" cannot be used on this platform')
        return None
    return Found(config, layers, platform, leaf.member)


def _platform(archive: Archive, config: Member) -> Platform:
    return platform_of(parse_config(archive.read(config, MAX_CONFIG)))


def _names_of(descriptor: Descriptor) -> list[Reference]:
    """The image's whole name; an annotation that is only a tag names nothing."""
    full = descriptor.annotations.get(IMAGE_NAME)
    short = descriptor.annotations.get(REF_NAME)
    if full is None and short is not None and (":" in short or "/" in short):
        full = short
    if full is None:
        return []
    reference = parse(full)
    return [reference.with_tag(reference.tag or "latest")]
