"""Handlers of lists: the catalog, a repository's tags, a manifest's referrers; each in pages, with a Link to the next.

Source: distribution-spec 1.1, "Content Discovery"; the catalog is Docker's registry API v2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from wherry.registry.call import MAX_PAGE, Call
from wherry.registry.documents import MAX_MANIFEST
from wherry.registry.names import check_digest
from wherry.spec.image import OCI_INDEX

REFERRERS_PAGE = 1000


async def base(call: Call) -> web.StreamResponse:
    return call.json({})


async def catalog(call: Call) -> web.StreamResponse:
    last = call.query.get("last", "")
    limit = _limit(call)
    names = call.repositories.index.repositories(last, limit + 1)
    return _page(call, "/v2/_catalog", {"repositories": names[:limit]}, names, limit)


async def tags(call: Call) -> web.StreamResponse:
    if not call.repositories.index.has_repository(call.repository):
        raise call.repositories.name_unknown(call.repository)
    limit = _limit(call)
    names = call.repositories.index.tags(call.repository, call.query.get("last", ""), limit + 1)
    document = {"name": call.repository, "tags": names[:limit]}
    return _page(call, f"/v2/{call.repository}/tags/list", document, names, limit)


def _limit(call: Call) -> int:
    asked = call.number("n")
    return MAX_PAGE if asked is None else min(asked, MAX_PAGE)


def _page(call: Call, path: str, document: Mapping[str, object], names: list[str], limit: int) -> web.Response:
    """`names`: one more than `limit` when another page follows."""
    response = call.json(document)
    if 0 < limit < len(names):
        response.headers["Link"] = call.next_page(path, n=limit, last=names[limit - 1])
    return response


async def referrers(call: Call) -> web.StreamResponse:
    """An image index of the manifests whose subject this is. A page is no longer than a manifest may be."""
    digest = check_digest(call.last)
    artifact_type = call.query.get("artifactType")
    asked = call.number("n")
    limit = min(asked, REFERRERS_PAGE) if asked else REFERRERS_PAGE
    last = call.query.get("last", "")
    rows = call.repositories.index.referrers(call.repository, digest, artifact_type, last, limit + 1)
    shown: list[object] = []
    size = 0
    for _, descriptor in rows[:limit]:
        size += len(descriptor)
        if shown and size > MAX_MANIFEST - 1024:
            break
        shown.append(json.loads(descriptor))
    response = call.json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": shown}, OCI_INDEX)
    filters = {"artifactType": artifact_type} if artifact_type is not None else {}
    if filters:
        response.headers["OCI-Filters-Applied"] = "artifactType"
    if len(shown) < len(rows):
        path = f"/v2/{call.repository}/referrers/{digest}"
        response.headers["Link"] = call.next_page(path, n=limit, last=rows[len(shown) - 1][0], **filters)
    return response
