"""Signatures of one image in a registry: found, fetched, verified, published. On an event loop: wherryd's, or the command line's own.

**Invariants**: what is fetched is bounded in number and size; a signature counts only when its key verifies the document's bytes, and the document
names the image's digest and the repository that is expected (a signature copied from elsewhere is worth nothing).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherry.distribution.client import Repository
from wherry.distribution.errors import RegistryError
from wherry.distribution.upload import Target
from wherry.errors import InvalidArgument, NotFound, PermissionDenied
from wherry.spec.ids import Digest
from wherry.spec.image import OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest, digest_of, parse_document
from wherry.spec.reference import Reference, parse
from wherry.trust import cosign
from wherry.trust.cosign import Carried, Claim
from wherry.trust.keys import PrivateKey, PublicKey, is_signed, sign
from wherry.trust.policy import Accept, Reject, Requirement, Signed

MAX_MANIFESTS = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """A signed document and its signature, as they came: nothing is verified yet."""

    document: bytes
    signature: bytes


async def find(repository: Repository, digest: Digest) -> list[Signature]:
    """All signatures that the registry has of the image, by the referrers API and by cosign's tag."""
    found: list[Signature] = []
    seen: set[Digest] = set()
    async for manifest in _manifests(repository, digest):
        for carried in cosign.carried_by(manifest):
            if carried.payload.digest not in seen or carried.signature not in {one.signature for one in found}:
                seen.add(carried.payload.digest)
                found.append(await _fetch(repository, carried))
            if len(found) >= cosign.MAX_SIGNATURES:
                return found
    return found


async def _manifests(repository: Repository, digest: Digest) -> AsyncIterator[Manifest]:
    referrers = await repository.referrers(digest, cosign.ARTIFACT_TYPE)
    names = [entry.digest for entry in referrers if entry.artifact_type in ("", cosign.ARTIFACT_TYPE)][:MAX_MANIFESTS]
    for name in (*names, cosign.tag_of(digest)):
        try:
            fetched = await repository.manifest(name)
        except RegistryError as error:
            if error.status == 404:
                continue
            raise
        document = parse_document(fetched.data, fetched.media_type)
        if isinstance(document, Manifest):
            yield document


async def _fetch(repository: Repository, carried: Carried) -> Signature:
    return Signature(await repository.blob(carried.payload, cosign.MAX_PAYLOAD), carried.signature)


def signers(
    signatures: Sequence[Signature], keys: Sequence[PublicKey], repository: str, digest: Digest
) -> list[PublicKey]:
    """Which of the keys have signed that the image `digest` is one of `repository` (with its registry)."""
    return [key for key in keys if any(_holds(one, key, repository, digest) for one in signatures)]


def _holds(one: Signature, key: PublicKey, repository: str, digest: Digest) -> bool:
    if not is_signed(key, one.document, one.signature):
        return False
    try:
        claim = cosign.parse_payload(one.document)
        named = parse(claim.repository).name
    except InvalidArgument:
        return False
    return claim.digest == digest and named == repository


def check(
    requirements: Sequence[Requirement], signatures: Sequence[Signature], reference: Reference, digest: Digest
) -> None:
    """PermissionDenied, in the words of Podman and skopeo, unless the image meets all requirements of the policy."""
    for requirement in requirements:
        match requirement:
            case Accept():
                continue
            case Reject():
                raise PermissionDenied(f"image {reference.familiar} is rejected by policy")
            case Signed():
                repository = requirement.repository(reference)
                if signers(signatures, requirement.keys, repository, digest):
                    continue
                if not signatures:
                    raise PermissionDenied(
                        f"image {reference.familiar} is rejected by policy: a signature was required, but no signature exists"
                    )
                raise PermissionDenied(
                    f"image {reference.familiar} is rejected by policy: none of its {len(signatures)} signatures is of {digest} in "
                    f"{repository} by a key that the policy names"
                )


def holding(
    requirements: Sequence[Requirement], signatures: Sequence[Signature], reference: Reference, digest: Digest
) -> list[Signature]:
    """Those of the signatures on which the image meets the policy's requirements."""
    signed = [one for one in requirements if isinstance(one, Signed)]
    return [
        one for one in signatures if any(signers([one], by.keys, by.repository(reference), digest) for by in signed)
    ]


def documents(one: Signature, image: Descriptor) -> dict[Digest, bytes]:
    """A signature as a referrer of its image: the manifest, and what it names."""
    referring = cosign.referring_manifest(cosign.layer(one.document, one.signature), image)
    return {digest_of(data): data for data in (referring, one.document, cosign.EMPTY)}


async def publish(target: Target, image: Descriptor, reference: Reference, key: PrivateKey) -> Digest:
    """Signs the image and puts the signature beside it, as a referrer and under cosign's tag, where earlier ones stay. → the document's digest."""
    document = cosign.payload(Claim(reference.name, image.digest))
    layer = cosign.layer(document, sign(key, document))
    await _put_blob(target, document)
    await _put_blob(target, cosign.EMPTY)
    referring = cosign.referring_manifest(layer, image)
    await target.put_manifest(digest_of(referring), referring, OCI_MANIFEST, digest_of(referring))
    await tag(target, image.digest, layer)
    return digest_of(document)


async def tag(target: Target, image: Digest, layer: Mapping[str, Any]) -> None:
    """Puts a signature, whose document is in the repository, under cosign's tag of the image, unless it is there."""
    name = cosign.tag_of(image)
    earlier = await _tagged_layers(target, name)
    if layer in earlier:
        return
    manifest, config = cosign.tagged_manifest([*earlier[-(cosign.MAX_SIGNATURES - 1) :], layer])
    await _put_blob(target, config)
    await target.put_manifest(name, manifest, OCI_MANIFEST, digest_of(manifest))


async def _tagged_layers(target: Target, name: str) -> list[Mapping[str, Any]]:
    found = await target.manifest(name)
    if found is None:
        return []
    document = parse_document(found)
    if not isinstance(document, Manifest) or document.config.media_type != OCI_CONFIG:
        raise InvalidArgument(f"{name}: what is there is not a manifest of signatures")
    return [*document.raw["layers"]]


async def _put_blob(target: Target, data: bytes) -> None:
    digest = digest_of(data)
    if await target.has_blob(digest):
        return

    async def pieces(position: int) -> AsyncIterator[bytes]:
        yield data[position:]

    await target.upload(digest, len(data), pieces)


async def resolve(repository: Repository, reference: Reference) -> Descriptor:
    """What the name stands for in the registry. NotFound when there is nothing."""
    wanted = reference.tagged()
    try:
        fetched = await repository.manifest(wanted.digest or wanted.tag or "")
    except RegistryError as error:
        if error.status == 404:
            raise NotFound(f"manifest for {wanted.familiar} not found: {error}") from None
        raise
    document = parse_document(fetched.data, fetched.media_type)
    return Descriptor(document.media_type, fetched.digest, len(fetched.data))
