"""The trust policy asked: may this image come in, may this image run.

In wherryd, on the event loop. At a pull the registry is asked for the signatures that the policy wants, once the digest is known and before anything
of the image is there; those on which it is let in are kept with it, as referrers beside its other blobs. Before a container is made and whenever it
is started the image is judged again, without the network: by the policy of that moment and under a name that the image has at that moment.

**Invariants**: a signature that is kept proves nothing by being kept: its key, digest and repository are verified each time, and that the signed
document leads to the image's config is read from verified documents. What has no name is judged by the policy's default. Without a policy nothing is
asked, and no cryptography is loaded. Once there is a policy only a restart can take it away.
Deliberately absent: watching the policy's file; judging what runs already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from wherry.core.cancellation import thread_to_the_end
from wherry.core.content import Content
from wherry.core.images import Image, Images
from wherry.core.manifests import blobs_of, manifest_of, referrers
from wherry.distribution.client import Fetched, Repository
from wherry.errors import InvalidArgument, NotFound, PermissionDenied, WherryError
from wherry.spec.ids import Digest
from wherry.spec.image import MAX_DOCUMENT, Descriptor, Manifest, parse_document
from wherry.spec.reference import Reference, parse_any

if TYPE_CHECKING:
    from wherry.trust.policy import Policy, Requirement
    from wherry.trust.signatures import Signature


_HEX = re.compile(r"[0-9a-f]+\Z")


class Admission:
    """`policy` None: everything is let in."""

    def __init__(self, images: Images, policy: Policy | None = None) -> None:
        self._images = images
        self.policy = policy

    def renew(self, policy: Policy | None) -> None:
        """The policy from now on. InvalidArgument when it would be gone: a file that was moved away must not open the gate."""
        if policy is None and self.policy is not None:
            raise InvalidArgument(
                f"the trust policy {self.policy.path} is not configured any more; it stays in force until the engine is restarted"
            )
        self.policy = policy

    def accepts(self, ref: str) -> bool:
        """Whether the policy lets anything of that name in, whatever it is."""
        if self.policy is None:
            return True
        named = parse_any(ref)
        return isinstance(named, Reference) and _is_open(self.policy.for_image(named.tagged()))

    async def at_pull(self, repository: Repository, reference: Reference, fetched: Fetched) -> Mapping[Digest, bytes]:
        """→ the documents to be kept with the image. PermissionDenied when the policy does not let it in; what the registry says when it has no
        answer. `fetched`: what the reference stands for."""
        if self.policy is None:
            return {}
        from wherry.trust import signatures

        requirements = self.policy.for_image(reference)
        if _is_decided(requirements):
            signatures.check(requirements, (), reference, fetched.digest)
            return {}
        document = parse_document(fetched.data, fetched.media_type)
        target = Descriptor(document.media_type, fetched.digest, len(fetched.data))
        found = await signatures.find(repository, target.digest)
        signatures.check(requirements, found, reference, target.digest)
        good = signatures.holding(requirements, found, reference, target.digest)
        return {digest: data for one in good for digest, data in signatures.documents(one, target).items()}

    async def at_run(self, ref: str, image: Image | None) -> None:
        """`ref`: what the user called the image; None: it has been removed from under its container. PermissionDenied."""
        if self.policy is None:
            return
        refusals = []
        names = self._names(ref, image)
        for name in names:
            try:
                await self._judge(self.policy.for_image(name), name, image)
                return
            except PermissionDenied as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
        if not _is_open(self.policy.default):
            raise PermissionDenied(
                f"image {ref} is rejected by policy: it has no name, and the default does not accept it"
            )

    def _names(self, ref: str, image: Image | None) -> Sequence[Reference]:
        """Under which the image is judged: `ref`, if that is a name of the image's, else all that it has. Of an image that has gone only `ref` is
        known; what may have been the beginning of an id is no name then."""
        named = parse_any(ref)
        exact = None
        if isinstance(named, Reference):
            exact = named.with_digest(named.digest) if named.digest else named.tagged()
        if image is None:
            return [exact] if exact is not None and not _HEX.match(ref) else []
        names = self._images.names_of(image)
        return [exact] if exact is not None and exact in names else names

    async def _judge(self, requirements: Sequence[Requirement], name: Reference, image: Image | None) -> None:
        from wherry.trust import signatures

        if image is None or _is_decided(requirements):
            signatures.check(requirements, (), name, image.target.digest if image else Digest(""))
            return
        with self._images.lease(image.blobs):
            targets, found = await thread_to_the_end(_kept, self._images.content, image)
        refusal = PermissionDenied(f"image {name.familiar} is rejected by policy: its manifest is not here")
        for target in targets:
            try:
                signatures.check(requirements, found, name, target)
                return
            except PermissionDenied as error:
                refusal = error
        raise refusal


def _is_open(requirements: Sequence[Requirement]) -> bool:
    from wherry.trust.policy import Accept

    return all(isinstance(one, Accept) for one in requirements)


def _is_decided(requirements: Sequence[Requirement]) -> bool:
    """Whether no signature can change the answer."""
    from wherry.trust.policy import Reject

    return _is_open(requirements) or any(isinstance(one, Reject) for one in requirements)


def _kept(content: Content, image: Image) -> tuple[list[Digest], list[Signature]]:
    """→ the image's targets that lead to its config, the latest first; the signatures beside it, unverified. Blocking."""
    targets, known = [], set()
    for target in reversed(image.targets):
        try:
            manifest_of(content, target, image.id)
        except (NotFound, InvalidArgument):
            continue
        targets.append(target.digest)
        known |= blobs_of(content, target)
    return targets, list(_signatures(content, image, known))


def _signatures(content: Content, image: Image, known: set[Digest]) -> Iterator[Signature]:
    from wherry.trust import cosign
    from wherry.trust.signatures import Signature

    count = 0
    for referrer in referrers(content, image.blobs, known):
        if referrer.artifact_type != cosign.ARTIFACT_TYPE:
            continue
        document = parse_document(content.read(referrer.digest, MAX_DOCUMENT))
        for carried in cosign.carried_by(document) if isinstance(document, Manifest) else ():
            try:
                yield Signature(content.read(carried.payload.digest, cosign.MAX_PAYLOAD), carried.signature)
            except WherryError:
                continue  # a signature that is damaged is none
            count += 1
            if count == cosign.MAX_SIGNATURES:
                return
