"""Uploading to one repository: blobs, from where an interrupted upload stopped, and manifests. In wherryd, on the event loop.

Source: OCI distribution-spec 1.1, "Push".
**Invariants**: a blob is sent only when the registry does not have it; a manifest after everything that it names; what the registry says it
has stored has the digest that was sent.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote, urlencode, urlsplit

import aiohttp

from wherry.distribution.client import reachable
from wherry.distribution.connection import (
    ATTEMPTS,
    STALL_SECONDS,
    Connection,
    back_off,
    bounded,
    may_pass,
    persistently,
    resolve,
)
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import DataLoss, InvalidArgument, Unavailable
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    OCI_INDEX,
    Descriptor,
    Index,
    digest_of,
    parse_document,
)
from wherry.spec.reference import Reference

Pieces = Callable[[int], AsyncIterator[bytes]]
"""The bytes of a blob from that position on."""


class Target:
    """The repository that is pushed to. Made by `open`."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._scope = f"repository:{path}:pull,push"

    @classmethod
    async def open(
        cls, session: aiohttp.ClientSession, hosts: RegistryHosts, reference: Reference, auth: RegistryAuth
    ) -> Target:
        """Unavailable when the registry is not there."""
        endpoints = hosts.endpoints(reference.domain, push=True)
        scope = f"repository:{reference.path}:pull,push"
        found = await reachable(session, endpoints, auth, scope)
        return cls(found[0], reference.path)

    def _url(self, rest: str) -> str:
        return self._connection.url(f"{self._path}/{rest}")

    # --- blobs

    async def has_blob(self, digest: Digest) -> bool:
        async def attempt() -> bool:
            url = self._url(f"blobs/{digest}")
            async with self._connection.authorized("HEAD", url, self._scope, {}, accepted=(200, 404)) as answer:
                return answer.status == 200

        return await persistently(attempt)

    async def mount(self, digest: Digest, source: str) -> bool:
        """Takes over a blob from the repository `source` of the same registry. → whether the registry did it. What it began instead
        is given up."""
        scope = f"{self._scope} repository:{source}:pull"
        url = self._url(f"blobs/uploads/?{urlencode({'mount': digest, 'from': source})}")
        try:
            async with self._connection.authorized(
                "POST", url, scope, {"Content-Length": "0"}, lambda: b"", accepted=(201, 202)
            ) as answer:
                if answer.status == 201:
                    return True
                begun = _location(answer) if "Location" in answer.headers else ""
        except RegistryError:
            return False  # not allowed to read there, say: the upload decides
        if begun:
            try:
                async with self._connection.authorized("DELETE", begun, self._scope, {}, accepted=(200, 202, 204)):
                    pass
            except (RegistryError, Unavailable, InvalidArgument):
                pass  # the registry forgets it by itself
        return False

    async def upload(self, digest: Digest, size: int, pieces: Pieces) -> None:
        """Sends a blob; what breaks goes on where the registry says that it is."""
        failures, location, position = 0, "", 0
        while True:
            before = position
            try:
                if not location:
                    location, position = await self._begin(), 0
                elif failures:
                    location, position = await self._where(location)
                if position < size:
                    location = await self._send(location, position, size, pieces)
                    position = size
                await self._finish(location, digest)
                return
            except (Unavailable, RegistryError) as error:
                if isinstance(error, RegistryError) and error.status in (404, 416) and location:
                    location = ""  # the registry has forgotten the upload, or wants another place to go on from
                elif not may_pass(error):
                    raise
                failures = 1 if position > before else failures + 1
                if failures >= ATTEMPTS:
                    raise
                await back_off(failures, error)

    async def _begin(self) -> str:
        url = self._url("blobs/uploads/")
        async with self._connection.authorized(
            "POST", url, self._scope, {"Content-Length": "0"}, lambda: b"", accepted=(202,)
        ) as answer:
            return _location(answer)

    async def _where(self, location: str) -> tuple[str, int]:
        """→ where the upload goes on, and how many bytes the registry has."""
        async with self._connection.authorized("GET", location, self._scope, {}, accepted=(204, 202)) as answer:
            received = re.match(r"(?:bytes=)?0-(\d+)\Z", answer.headers.get("Range", ""))
            end = int(received[1]) + 1 if received else 0
            # "0-0" stands for nothing as well as for one byte: sending one byte again is refused by some, so begin anew
            return (_location(answer), end) if end != 1 else (await self._begin(), 0)

    async def _send(self, location: str, position: int, size: int, pieces: Pieces) -> str:
        """→ the location for what follows."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size - position),
            "Content-Range": f"{position}-{size - 1}",
        }
        try:
            async with asyncio.timeout(STALL_SECONDS) as stalled:
                loop = asyncio.get_running_loop()

                async def watched() -> AsyncIterator[bytes]:
                    async for piece in pieces(position):
                        yield piece
                        stalled.reschedule(loop.time() + STALL_SECONDS)

                async with self._connection.authorized(
                    "PATCH", location, self._scope, headers, watched, accepted=(202, 201, 204)
                ) as answer:
                    return _location(answer)
        except TimeoutError:
            raise Unavailable(f"{location[:200]}: the registry takes nothing") from None

    async def _finish(self, location: str, digest: Digest) -> None:
        separator = "&" if urlsplit(location).query else "?"
        url = f"{location}{separator}digest={quote(digest, safe='')}"
        async with self._connection.authorized(
            "PUT", url, self._scope, {"Content-Length": "0"}, lambda: b"", accepted=(201, 204)
        ) as answer:
            _check_stored(answer, digest)

    # --- manifests

    async def put_manifest(self, reference: str, data: bytes, media_type: str, digest: Digest) -> bool:
        """By tag or digest. → whether the registry has understood what it refers to, if it does (OCI-Subject)."""

        async def attempt() -> bool:
            url = self._url(f"manifests/{reference}")
            async with self._connection.authorized(
                "PUT", url, self._scope, {"Content-Type": media_type}, lambda: data, accepted=(200, 201, 202)
            ) as answer:
                _check_stored(answer, digest)
                return "OCI-Subject" in answer.headers

        return await persistently(attempt)

    async def put_referrer(self, data: bytes, described: Descriptor, subject: Digest) -> None:
        """A manifest that refers to `subject`. Where the registry keeps no list of those, the client does, under a tag made of the digest (OCI
        distribution-spec 1.1, "Pushing Manifests with Subject"). `described` as it is to be listed."""
        if await self.put_manifest(described.digest, data, described.media_type, described.digest):
            return
        tag = subject.replace(":", "-", 1)
        listed: list[object] = []
        found = await self.manifest(tag)
        if found is not None:
            document = parse_document(found, OCI_INDEX)
            if not isinstance(document, Index):
                raise InvalidArgument(f"{tag}: what is there is not a list of referrers")
            if any(entry.digest == described.digest for entry in document.manifests):
                return
            listed = document.raw["manifests"]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*listed, described.to_json()]}
        new = json.dumps(index, separators=(",", ":")).encode()
        await self.put_manifest(tag, new, OCI_INDEX, digest_of(new))

    async def manifest(self, reference: str) -> bytes | None:
        """What the repository itself has under a tag or digest, unverified; None when there is nothing."""

        async def attempt() -> bytes | None:
            url = self._url(f"manifests/{reference}")
            headers = {"Accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
            async with self._connection.authorized("GET", url, self._scope, headers, accepted=(200, 404)) as answer:
                return await bounded(answer, MAX_DOCUMENT, reference) if answer.status == 200 else None

        return await persistently(attempt)


def _location(answer: aiohttp.ClientResponse) -> str:
    """Where an upload goes on. It may be relative to the place that has answered, which a redirect has led to."""
    url = str(answer.url)
    location = answer.headers.get("Location", "")
    if not location:
        raise InvalidArgument(f"{url[:200]}: the registry does not say where the upload goes on")
    return resolve(url, location)


def _check_stored(answer: aiohttp.ClientResponse, digest: Digest) -> None:
    said = answer.headers.get("Docker-Content-Digest", "")
    if said and said != digest:
        raise DataLoss(f"the registry stored {said[:100]} where {digest} was sent")
