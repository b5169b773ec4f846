"""Handlers of manifests. Source: distribution-spec 1.1, "Pulling manifests", "Pushing Manifests", "Deleting tags", "Deleting Manifests"."""

from __future__ import annotations

import asyncio
import hashlib

from aiohttp import web

from wherry.registry.call import Call
from wherry.registry.documents import MAX_MANIFEST, parse
from wherry.registry.errors import Code, Refused
from wherry.registry.index import StoredManifest
from wherry.registry.names import check_digest, is_tag
from wherry.registry.repositories import NewManifest
from wherry.registry.sending import is_unchanged
from wherry.spec.ids import Digest

MAX_TAGS = 50


async def get(call: Call) -> web.StreamResponse:
    """And HEAD."""
    return answer(call, call.repositories.manifest(call.repository, call.last))


def answer(call: Call, found: StoredManifest, **more: str) -> web.Response:
    headers = call.headers(
        Content_Type=found.media_type, Docker_Content_Digest=found.digest, Etag=f'"{found.digest}"', **more
    )
    if is_unchanged(call.http.headers.get("If-None-Match"), found.digest):
        return web.Response(status=304, headers=headers)
    if call.method == "HEAD":
        return web.Response(headers=headers | {"Content-Length": str(len(found.content))})
    return web.Response(body=found.content, headers=headers)


async def put(call: Call) -> web.StreamResponse:
    by_tag = is_tag(call.last)
    tags = [call.last] if by_tag else call.query.getall("tag", [])
    algorithm = "sha256" if by_tag else check_digest(call.last).partition(":")[0]
    wrong = next((tag for tag in tags if not is_tag(tag)), None)
    if wrong is not None:
        raise Refused(Code.MANIFEST_INVALID, "a tag is malformed", detail=wrong[:200])
    if len(tags) > MAX_TAGS:
        raise Refused(Code.UNSUPPORTED, f"more than {MAX_TAGS} tags at once", status=414)
    content = await call.body(MAX_MANIFEST)
    digest = Digest(f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")
    if not by_tag and digest != call.last:
        raise Refused(Code.DIGEST_INVALID, "provided digest did not match uploaded content", detail=call.last)
    document = await asyncio.to_thread(parse, content, call.http.headers.get("Content-Type", ""))
    await call.repositories.put_manifest(NewManifest(call.repository, digest, content, document, tags))
    response = call.created(digest, f"/v2/{call.repository}/manifests/{digest}")
    if document.subject is not None:
        response.headers["OCI-Subject"] = document.subject
    if not by_tag:
        for tag in tags:
            response.headers.add("OCI-Tag", tag)
    return response


async def delete(call: Call) -> web.StreamResponse:
    await call.repositories.delete_manifest(call.repository, call.last)
    return call.empty(202)
