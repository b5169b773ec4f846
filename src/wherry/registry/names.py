"""Names, tags, digests and paths as the specification's grammar has them. Pure. Source: OCI distribution-spec 1.1, "Pulling manifests", "Endpoints".

**Invariant**: a name, tag or digest that leaves this module is safe as a part of a file's name, a header and a line of the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote

from wherry.registry.errors import Code, Refused
from wherry.spec.ids import Digest, is_digest

MAX_NAME = 255
ALGORITHMS = ("sha256", "sha512")

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_ROUTES = re.compile(
    r"/v2/(?P<name>.+?)(?:"
    r"(?P<tags>/tags/list)|/manifests/(?P<manifest>[^/]+)|/blobs/(?P<uploads>uploads/?)|/blobs/uploads/(?P<upload>[^/]+)"
    r"|/blobs/(?P<blob>[^/]+)|/referrers/(?P<referrers>[^/]+))\Z"
)


class Kind(StrEnum):
    """The resources that the API has."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"


@dataclass(frozen=True, slots=True)
class Target:
    """What a path means. `name` is a checked repository name ("" for BASE and CATALOG), `last` the rest: tag, digest or upload, not yet checked."""

    kind: Kind
    name: str = ""
    last: str = ""


def parse_path(path: str) -> Target | None:
    """None when there is no such resource. Refused (NAME_INVALID) when the repository's name is no name. `path` as it came, percent-encoded."""
    path = unquote(path, errors="replace")
    if path in ("/v2/", "/v2"):
        return Target(Kind.BASE)
    if path == "/v2/_catalog":
        return Target(Kind.CATALOG)
    matched = _ROUTES.match(path)
    if matched is None:
        return None
    kind = matched.lastgroup or ""
    name = check_name(matched["name"])
    return Target(Kind(kind), name, "" if kind in ("tags", "uploads") else matched[kind])


def check_name(name: str) -> str:
    if len(name) > MAX_NAME or _NAME.match(name) is None:
        raise Refused(Code.NAME_INVALID, "invalid repository name", detail=name[: MAX_NAME + 1])
    return name


def is_tag(text: str) -> bool:
    return _TAG.match(text) is not None


def check_digest(text: str) -> Digest:
    if not is_digest(text):
        raise Refused(
            Code.DIGEST_INVALID, "the digest is malformed or its algorithm is not supported", detail=text[:200]
        )
    return Digest(text)
