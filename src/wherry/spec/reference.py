"""Image references: `[domain/]path[:tag][@digest]`, as Docker reads and shows them.

Pure. The grammar is that of the distribution project's reference package (the one every Docker client uses):

    domain    host name, IPv4, or [IPv6], with an optional :port
    path      lower-case components, separated by "/", each letters and digits joined by one of ". _ __ -…"
    tag       [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
    digest    algorithm:hex

A *familiar* name leaves out what is implied: `busybox` is docker.io/library/busybox. The first component is a domain only if it has a "." or
a ":", is "localhost", or is not lower case.

**Invariant**: a `Reference` is normalised: it has a domain, and Docker Hub's one-component paths carry "library/".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from wherry.errors import InvalidArgument
from wherry.spec.ids import Digest, is_digest

DEFAULT_DOMAIN = "docker.io"
LEGACY_DOMAIN = "index.docker.io"
OFFICIAL_PREFIX = "library/"
DEFAULT_TAG = "latest"
MAX_NAME = 255

_HOST_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[\w][\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_NAME = rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"

_REFERENCE = re.compile(rf"{_NAME}(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?\Z", re.ASCII)
_TAG_ONLY = re.compile(rf"{_TAG}\Z", re.ASCII)
_HEX_ID = re.compile(r"[a-f0-9]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised name, with a tag, a digest, both or neither. `str()` is the full form, `familiar` what Docker shows."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in short else short

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix

    def tagged(self) -> Reference:
        """With the tag "latest" if there is neither a tag nor a digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """InvalidArgument unless `tag` is a tag."""
        if not _TAG_ONLY.match(tag):
            raise InvalidArgument("invalid tag format")
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository, by digest alone."""
        return Reference(self.domain, self.path, None, digest)


def parse(text: str) -> Reference:
    """The normalised reference that a user's `text` stands for. InvalidArgument in Docker's words."""
    if _HEX_ID.match(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, remainder = split_domain(text)
    repository = remainder.split(":", 1)[0]
    if repository.lower() != repository:
        raise InvalidArgument(f"invalid reference format: repository name ({repository}) must be lowercase")
    matched = _REFERENCE.match(f"{domain}/{remainder}")
    if matched is None or matched["domain"] is None:
        raise InvalidArgument("invalid reference format")
    if len(matched["path"]) > MAX_NAME:
        raise InvalidArgument(f"repository name must not be more than {MAX_NAME} characters")
    digest = matched["digest"]
    if digest is not None and not is_digest(digest):
        raise InvalidArgument(_digest_fault(digest))
    return Reference(matched["domain"], matched["path"], matched["tag"], Digest(digest) if digest else None)


def split_domain(text: str) -> tuple[str, str]:
    """("docker.io", "library/busybox") for "busybox": the domain, and the rest with what is implied."""
    first, slash, rest = text.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    domain, remainder = (first, rest) if is_domain else (DEFAULT_DOMAIN, text)
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = OFFICIAL_PREFIX + remainder
    return domain, remainder


def parse_any(text: str) -> Reference | Digest:
    """As `parse`, but 64 hex digits, or a whole digest, are an id: what `docker inspect` takes."""
    if _HEX_ID.match(text):
        return Digest(f"sha256:{text}")
    if is_digest(text):
        return Digest(text)
    return parse(text)


def is_tag(text: str) -> bool:
    return _TAG_ONLY.match(text) is not None


def _digest_fault(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
    if algorithm not in lengths:
        return "unsupported digest algorithm"
    if len(encoded) != lengths[algorithm]:
        return "invalid checksum digest length"
    return "invalid reference format" if encoded != encoded.lower() else "unsupported digest algorithm"
