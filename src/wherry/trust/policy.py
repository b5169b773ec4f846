"""The policy: which images are let in, by registry and repository. Source: containers-policy.json(5), which Podman and skopeo read as well.

    {"default": [{"type": "reject"}],
     "transports": {"docker": {
        "registry.example/team": [{"type": "sigstoreSigned", "keyPath": "/etc/wherry/team.pub"}],
        "docker.io/library":     [{"type": "insecureAcceptAnything"}]}}}

The longest scope that an image's name begins with counts: the name with its tag or digest, its repository, each parent of it, the registry,
`*.domain`, "" (all of the transport), and at last `default`. All requirements of it must hold. A registry's name counts whatever its case, and
with or without HTTPS's own port: these are spellings of one place.
**Invariants**: what is not understood is an error, never a yes, and so is a scope that no image's name begins with; keys are read when the policy
is, so a file that goes missing later changes nothing.
Deliberately absent: OpenPGP signatures (`signedBy`), Fulcio and Rekor: refused by name.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wherry.errors import InvalidArgument
from wherry.spec.image import decode
from wherry.spec.reference import DEFAULT_DOMAIN, OFFICIAL_PREFIX, Reference, parse, split_domain
from wherry.trust.keys import PublicKey, load_public

MAX_FILE = 4 << 20
_WILDCARD = re.compile(r"\*(\.[a-zA-Z0-9-]+)+\Z")


@dataclass(frozen=True, slots=True)
class Accept:
    """Anything."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Signed:
    """By one of `keys`, for the repository that `identity` makes of the image's."""

    keys: tuple[PublicKey, ...]
    sources: tuple[str, ...] = ()
    """Of each key where it was read: its file, or "" when the policy itself holds it."""
    exact: str = ""
    """The repository that the signature must name, in place of the image's own."""
    prefix: str = ""
    signed_prefix: str = ""

    def repository(self, reference: Reference) -> str:
        """Which repository the signature must name; full, with its registry."""
        if self.exact:
            return self.exact
        name = reference.name
        if self.prefix and (name == self.prefix or name.startswith(f"{self.prefix}/")):
            return self.signed_prefix + name[len(self.prefix) :]
        return name


Requirement = Accept | Reject | Signed


@dataclass(frozen=True, slots=True)
class Policy:
    default: tuple[Requirement, ...] = (Accept(),)
    scopes: Mapping[str, tuple[Requirement, ...]] = field(default_factory=dict)
    path: str = ""
    """The file that it was read from."""

    def scope_of(self, reference: Reference) -> str | None:
        """The scope that counts for the image; None for the default."""
        return next((scope for scope in _scopes(reference) if scope in self.scopes), None)

    def for_image(self, reference: Reference) -> tuple[Requirement, ...]:
        scope = self.scope_of(reference)
        return self.default if scope is None else self.scopes[scope]


def _scopes(reference: Reference) -> Iterator[str]:
    """From the narrowest to the widest."""
    reference = replace(reference, domain=_host(reference.domain))
    yield str(reference)
    name = reference.name
    while True:
        yield name
        parent, slash, _ = name.rpartition("/")
        if not slash:
            break
        name = parent
    host = reference.domain.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"
    yield ""


def _host(domain: str) -> str:
    """The one spelling of a registry's name."""
    return domain.lower().removesuffix(":443")


def read(path: str) -> Policy:
    """InvalidArgument, naming the file, when it is not a policy."""
    return parse_policy(_read_file(path, "the policy"), path)


def parse_policy(data: bytes, name: str) -> Policy:
    document = decode(data, name)
    _only(document, {"default", "transports"}, name)
    if "default" not in document:
        raise InvalidArgument(f"{name}: default is missing")
    transports = document.get("transports", {})
    if not isinstance(transports, dict):
        raise InvalidArgument(f"{name}: transports is not an object")
    scopes = transports.get("docker", {})
    if not isinstance(scopes, dict):
        raise InvalidArgument(f"{name}: transports.docker is not an object")
    found: dict[str, tuple[Requirement, ...]] = {}
    for text, listed in scopes.items():
        scope = _scope(text, name)
        if scope in found:
            raise InvalidArgument(f'{name}: "{text}" is there twice, in two spellings')
        found[scope] = _requirements(listed, f'{name}: "{text}"')
    return Policy(_requirements(document["default"], f"{name}: default"), found, name)


def _scope(text: str, name: str) -> str:
    """In its one spelling. InvalidArgument when no image's name can begin with it: it would protect nothing."""
    if not text:
        return text
    if text.startswith("*."):
        if not _WILDCARD.match(text):
            raise InvalidArgument(f'{name}: "{text}" is not of the form *.DOMAIN')
        return text.lower()
    domain, slash, rest = text.partition("/")
    known, _ = split_domain(f"{domain}/x/y")
    try:
        if known != domain:
            raise InvalidArgument(f"it must begin with a registry, such as {DEFAULT_DOMAIN}/{OFFICIAL_PREFIX}busybox")
        parse(text if slash else f"{domain}/x/y")
    except InvalidArgument as error:
        raise InvalidArgument(f'{name}: the scope "{text}" fits no image: {error}') from None
    return _host(domain) + slash + rest


def _requirements(listed: Any, where: str) -> tuple[Requirement, ...]:
    if not isinstance(listed, list) or not listed:
        raise InvalidArgument(f"{where}: a list of at least one requirement is needed")
    return tuple(_requirement(one, where) for one in listed)


def _requirement(value: Any, where: str) -> Requirement:
    kind = value.get("type") if isinstance(value, dict) else None
    match kind:
        case "insecureAcceptAnything":
            _only(value, {"type"}, where)
            return Accept()
        case "reject":
            _only(value, {"type"}, where)
            return Reject()
        case "sigstoreSigned":
            return _signed(value, where)
        case "signedBy":
            raise InvalidArgument(f"{where}: wherry does not support OpenPGP signatures (signedBy)")
    raise InvalidArgument(f"{where}: {kind!r} is not a kind of requirement")


def _signed(value: Mapping[str, Any], where: str) -> Signed:
    _only(value, {"type", "keyPath", "keyPaths", "keyData", "keyDatas", "signedIdentity"}, where)
    paths = _strings(value, "keyPath", where) + _strings(value, "keyPaths", where)
    data = _strings(value, "keyData", where) + _strings(value, "keyDatas", where)
    pems = [(path, _read_file(path, where)) for path in paths]
    for path in paths:
        if not os.path.isabs(path):
            raise InvalidArgument(f"{where}: keyPath {path} is not an absolute path")
    sources = (*paths, *("" for _ in data))
    for text in data:
        try:
            pems.append((where, base64.b64decode(text, validate=True)))
        except binascii.Error:
            raise InvalidArgument(f"{where}: keyData is not base64") from None
    if not pems:
        raise InvalidArgument(f"{where}: keyPath or keyData is missing")
    keys = tuple(load_public(pem, name=name) for name, pem in pems)
    identity = value.get("signedIdentity", {"type": "matchRepository"})
    if not isinstance(identity, dict):
        raise InvalidArgument(f"{where}: signedIdentity is not an object")
    match identity.get("type"):
        case "matchRepository":
            return Signed(keys, sources)
        case "exactRepository":
            return Signed(keys, sources, exact=_repository(identity, "dockerRepository", where))
        case "remapIdentity":
            prefix, signed = _text(identity, "prefix", where), _text(identity, "signedPrefix", where)
            return Signed(keys, sources, prefix=prefix, signed_prefix=signed)
    raise InvalidArgument(
        f"{where}: wherry does not support a signedIdentity of type {identity.get('type')!r}: it is matchRepository, "
        "exactRepository or remapIdentity (cosign's signatures name no tag)"
    )


def _repository(value: Mapping[str, Any], key: str, where: str) -> str:
    try:
        return parse(_text(value, key, where)).name
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}: {key}: {error}") from None


def _text(value: Mapping[str, Any], key: str, where: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise InvalidArgument(f"{where}: {key} is missing")
    return text


def _strings(value: Mapping[str, Any], key: str, where: str) -> list[str]:
    found = value.get(key, [])
    if key in ("keyPath", "keyData"):
        found = [found] if found != [] else []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidArgument(f"{where}: {key} has the wrong type")
    return found


def _only(value: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise InvalidArgument(f"{where}: wherry does not support {unknown[0]}")


def _read_file(path: str, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_FILE)
    except OSError as error:
        raise InvalidArgument(f"{where}: {path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # a NUL in the path
        raise InvalidArgument(f"{where}: {path!r}: {error}") from None
