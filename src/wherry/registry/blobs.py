"""Handlers of blobs and of their uploads. Source: distribution-spec 1.1, "Pulling blobs", "Pushing blobs", "Deleting Blobs"."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from aiohttp import web

from wherry.registry.call import Call
from wherry.registry.errors import Code, Refused
from wherry.registry.names import ALGORITHMS, check_digest, check_name
from wherry.registry.sending import blob_headers, is_unchanged, send_blob
from wherry.registry.uploads import Upload
from wherry.spec.ids import is_digest

_CONTENT_RANGE = re.compile(r"(?:bytes\s+)?([0-9]{1,18})-([0-9]{1,18})(?:/\S+)?\Z")


async def get(call: Call) -> web.StreamResponse:
    digest = check_digest(call.last)
    blob = await call.repositories.open_blob(call.repository, digest)
    try:
        return await send_blob(call, blob, digest)
    finally:
        await asyncio.to_thread(blob.close) if blob.fd is None else blob.close()


async def head(call: Call) -> web.StreamResponse:
    digest = check_digest(call.last)
    size = await call.repositories.blob_size(call.repository, digest)
    headers = blob_headers(call, digest)
    if is_unchanged(call.http.headers.get("If-None-Match"), digest):
        return web.Response(status=304, headers=headers)
    return web.Response(headers=headers | {"Content-Length": str(size)})


async def delete(call: Call) -> web.StreamResponse:
    digest = check_digest(call.last)
    await call.repositories.delete_blob(call.repository, digest)
    return call.empty(202, Docker_Content_Digest=digest)


async def start(call: Call) -> web.StreamResponse:
    """POST: a mount, a whole blob, or a new session."""
    mounted = call.query.get("mount")
    if mounted is not None and is_digest(mounted) and await _mount(call, mounted):
        digest = check_digest(mounted)
        return call.created(digest, call.blob_url(digest))
    digest_text = call.query.get("digest")
    wanted = check_digest(digest_text) if digest_text is not None else None
    default = wanted.partition(":")[0] if wanted else ALGORITHMS[0]
    algorithm = call.query.get("digest-algorithm", default)
    if algorithm not in ALGORITHMS:
        raise Refused(Code.DIGEST_INVALID, "the digest algorithm is not supported", detail=algorithm[:100])
    upload = call.repositories.uploads.start(call.repository, algorithm)
    if wanted is None:
        return _accepted(call, upload, 202)
    async with upload.lock:
        try:
            await upload.append(call.pieces())
            await call.repositories.finish(call.repository, upload, wanted)
        finally:
            call.repositories.uploads.end(upload)
    return call.created(wanted, call.blob_url(wanted))


async def _mount(call: Call, text: str) -> bool:
    """From the repository that is named, or from any that the visitor may pull from."""
    digest = check_digest(text)
    named = call.query.get("from")
    sources = [check_name(named)] if named else call.repositories.index.repositories_with(digest)
    allowed = [source for source in sources if call.may("pull", source)]
    return await call.repositories.mount(call.repository, digest, allowed)


async def append(call: Call) -> web.StreamResponse:
    """PATCH: one more chunk, or a stream."""
    upload = _find(call)
    async with upload.lock:
        _find(call)
        await _append(call, upload)
    return _accepted(call, upload, 202)


async def finish(call: Call) -> web.StreamResponse:
    """PUT: the last chunk, or the whole, or nothing more; the digest closes the session."""
    digest = check_digest(call.query.get("digest", ""))
    upload = _find(call)
    async with upload.lock:
        _find(call)
        await _append(call, upload)
        try:
            await call.repositories.finish(call.repository, upload, digest)
        except Refused:
            call.repositories.uploads.end(upload)
            raise
    return call.created(digest, call.blob_url(digest))


async def status(call: Call) -> web.StreamResponse:
    return _accepted(call, _find(call), 204)


async def cancel(call: Call) -> web.StreamResponse:
    upload = _find(call)
    async with upload.lock:
        call.repositories.uploads.end(upload)
    return call.empty(204)


def _find(call: Call) -> Upload:
    return call.repositories.uploads.find(call.repository, call.last)


async def _append(call: Call, upload: Upload) -> None:
    """Refused, and the session is as it was, when the chunk is not what its Content-Range says."""
    length, before = _check_range(call, upload), upload.size
    try:
        await upload.append(call.pieces() if length is None else _exactly(length, call.pieces()))
    except Refused:
        await asyncio.to_thread(upload.cut, before)
        raise


async def _exactly(length: int, pieces: AsyncIterator[bytearray]) -> AsyncIterator[bytearray]:
    received = 0
    async for piece in pieces:
        received += len(piece)
        if received > length:
            break
        yield piece
    if received != length:
        raise Refused(Code.SIZE_INVALID, "Content-Range and the length of the body contradict each other")


def _check_range(call: Call, upload: Upload) -> int | None:
    """Refused (416) when the chunk does not begin where the session ends. → its length, None when it is not said."""
    header = call.http.headers.get("Content-Range")
    if header is None:
        return None
    matched = _CONTENT_RANGE.match(header)
    if matched is None:
        raise Refused(Code.BLOB_UPLOAD_INVALID, "Content-Range is malformed: it should be FIRST-LAST")
    first, last = int(matched[1]), int(matched[2])
    if call.length is not None and last - first + 1 != call.length:
        raise Refused(Code.SIZE_INVALID, "Content-Range and Content-Length contradict each other")
    if first != upload.size:
        headers = {"Location": _location(call, upload), "Range": _range(upload)}
        message = f"the chunk begins at {first}, but {upload.size} bytes are here"
        raise Refused(Code.BLOB_UPLOAD_INVALID, message, status=416, headers=headers)
    return last - first + 1


def _accepted(call: Call, upload: Upload, code: int) -> web.Response:
    return call.empty(
        code, Location=_location(call, upload), Range=_range(upload), Docker_Upload_UUID=upload.id, Content_Length="0"
    )


def _location(call: Call, upload: Upload) -> str:
    return f"/v2/{call.repository}/blobs/uploads/{upload.id}"


def _range(upload: Upload) -> str:
    return f"0-{max(upload.size - 1, 0)}"
