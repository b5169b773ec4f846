"""OCI and Docker image documents as checked data: descriptors, manifests, indexes, image configs; and which platform suits which machine.

Pure. Source: OCI image-spec 1.1 (descriptor.md, manifest.md, image-index.md, config.md) and Docker's image manifest v2, schema 2.

**Invariants**: what `parse_*` returns has the types that it says, whatever the registry sent; a document that could be read both as a manifest
and as an index is refused (CVE-2021-41190); fields that are not known are kept in `raw`/`Image.config` but never acted on.
Deliberately absent: the content behind the descriptors, and schema 1.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from wherry.errors import InvalidArgument, NotFound
from wherry.spec.ids import ChainId, Digest, is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)

MAX_DOCUMENT = 4 << 20  # a manifest or an index, as Docker's registry bounds it
MAX_CONFIG = 8 << 20
MAX_LAYERS = 500  # overlayfs stacks at most this many
MAX_SIZE = 1 << 62

_LAYER_TYPE = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)(?:[+.](?:gzip|zstd))?\Z"
)
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
DOCUMENT_MEMBERS = frozenset(
    (
        "schemaVersion",
        "mediaType",
        "artifactType",
        "config",
        "layers",
        "manifests",
        "fsLayers",
        "subject",
        "annotations",
    )
)
_DESCRIPTOR_MEMBERS = frozenset(
    ("mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType")
)
_FOLDED = {
    members: frozenset(name.casefold() for name in members) for members in (DOCUMENT_MEMBERS, _DESCRIPTOR_MEMBERS)
}
_TAR_TYPES = frozenset({"application/x-tar", "application/x-gtar", "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class Platform:
    """`os`/`architecture`/`variant` in Go's names: linux/amd64, linux/arm64/v8, linux/arm/v7."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def is_manifest(self) -> bool:
        return self.media_type in MANIFEST_TYPES

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform is not None:
            document["platform"] = platform_to_json(self.platform)
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document


@dataclass(frozen=True, slots=True)
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Index:
    media_type: str
    manifests: tuple[Descriptor, ...]
    raw: Mapping[str, Any]


def digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + sha256(data).hexdigest())


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[ChainId, ...]:
    """OCI config.md, "Layer ChainID": the id of each layer on top of those before it."""
    chain: list[ChainId] = []
    for diff_id in diff_ids:
        text = diff_id if not chain else "sha256:" + sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        chain.append(ChainId(text))
    return tuple(chain)


# --- documents -----------------------------------------------------------------------------------------------------------------------


def decode(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object that every parser reads alike: UTF-8, without repeated keys, NaN, and halves of characters. `what` names it in the error."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
        if _ESCAPED_SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is not a JSON object")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:50]} is too large a number")
    return value


def check_spelling(value: Mapping[str, Any], members: frozenset[str], what: str) -> None:
    """Go's parsers take "Layers" for "layers" as well, and the last one counts: what they would read otherwise is refused (as CVE-2021-41190)."""
    for key in value:
        if key not in members and key.casefold() in _FOLDED[members]:
            raise InvalidArgument(f"{what} is ambiguous: it has a member {key!r}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def parse_document(data: bytes, media_type: str = "") -> Manifest | Index:
    """A manifest or an index. `media_type` is what the registry or the descriptor calls it; the document may not contradict it."""
    raw = decode(data, "manifest")
    check_spelling(raw, DOCUMENT_MEMBERS, "manifest")
    named = media_type.partition(";")[0].strip()
    inner = raw.get("mediaType", "")
    if not isinstance(inner, str):
        raise InvalidArgument("manifest: mediaType is not a string")
    if raw.get("schemaVersion") == 1 or named in DOCKER_SCHEMA1 or inner in DOCKER_SCHEMA1:
        raise InvalidArgument(
            "Docker image manifest version 2, schema 1 is no longer supported: ask the image's author for an OCI or schema 2 image"
        )
    if raw.get("schemaVersion") != 2:
        raise InvalidArgument("manifest: schemaVersion is not 2")
    if "manifests" in raw and ("layers" in raw or "config" in raw or "fsLayers" in raw):
        raise InvalidArgument("manifest is ambiguous: it has the members of a manifest and of an index")
    if inner and named in (*MANIFEST_TYPES, *INDEX_TYPES) and inner != named:
        raise InvalidArgument(f"manifest says that it is {inner}, but was served as {named}")
    kind = inner or named
    if "manifests" in raw:
        if kind in MANIFEST_TYPES:
            raise InvalidArgument(f"manifest: an index that says that it is {kind}")
        return _index(raw, kind if kind in INDEX_TYPES else OCI_INDEX)
    if kind in INDEX_TYPES:
        raise InvalidArgument("index: manifests is missing")
    if kind and kind not in MANIFEST_TYPES and inner:
        raise InvalidArgument(f"unsupported manifest media type: {kind}")
    return _manifest(raw, kind if kind in MANIFEST_TYPES else OCI_MANIFEST)


def _manifest(raw: dict[str, Any], media_type: str) -> Manifest:
    config = descriptor(raw.get("config"), "manifest: config")
    layers = tuple(
        descriptor(item, f"manifest: layers[{n}]") for n, item in enumerate(_list(raw, "layers", "manifest"))
    )
    if len(layers) > MAX_LAYERS:
        raise InvalidArgument(f"manifest: {len(layers)} layers; the kernel stacks at most {MAX_LAYERS}")
    return Manifest(media_type, config, layers, raw)


def _index(raw: dict[str, Any], media_type: str) -> Index:
    manifests = _list(raw, "manifests", "index")
    return Index(media_type, tuple(descriptor(item, f"index: manifests[{n}]") for n, item in enumerate(manifests)), raw)


def descriptor(value: object, where: str) -> Descriptor:
    """InvalidArgument, naming `where`, unless `value` is a descriptor."""
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where} is not a descriptor")
    check_spelling(value, _DESCRIPTOR_MEMBERS, where)
    digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType", "")
    if not isinstance(digest, str) or not is_digest(digest):
        raise InvalidArgument(f"{where}: digest is malformed or of an unsupported algorithm")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_SIZE:
        raise InvalidArgument(f"{where}: size is not a plausible number")
    if not isinstance(media_type, str):
        raise InvalidArgument(f"{where}: mediaType is not a string")
    platform = value.get("platform")
    annotations = value.get("annotations")
    artifact_type = value.get("artifactType", "")
    return Descriptor(
        media_type,
        Digest(digest),
        size,
        platform_from_json(platform, where) if platform is not None else None,
        _string_map(annotations, f"{where}: annotations") if annotations is not None else {},
        artifact_type if isinstance(artifact_type, str) else "",
    )


def is_layer_type(media_type: str) -> bool:
    """Whether a layer of that media type is a tar of a root file system. (How it is compressed is read from its first bytes.)"""
    return _LAYER_TYPE.match(media_type) is not None or media_type in _TAR_TYPES


# --- image config --------------------------------------------------------------------------------------------------------------------


def parse_config(data: bytes) -> dict[str, Any]:
    """An image config whose known fields have the right types. Everything else is kept as it came."""
    config = decode(data, "image config")
    for key in ("os", "architecture", "variant", "author", "created", "comment", "docker_version", "os.version"):
        _check(config, key, str, "image config")
    diff_ids(config)
    history = config.get("history")
    if history is not None:
        _records(history, "image config: history")
        for entry in history:
            for key in ("created", "created_by", "author", "comment"):
                _check(entry, key, str, "image config: history")
            _check(entry, "empty_layer", bool, "image config: history")
    _check(config, "config", dict, "image config")
    run = config.get("config") or {}
    for key in ("User", "WorkingDir", "StopSignal", "Hostname", "Domainname"):
        _check(run, key, str, "image config")
    for key in ("Env", "OnBuild", "Shell"):
        _strings(run, key)
    for key in ("Cmd", "Entrypoint"):
        if not isinstance(run.get(key), str):
            _strings(run, key)
    for key in ("Volumes", "ExposedPorts", "Healthcheck"):
        _check(run, key, dict, "image config")
    if run.get("Labels") is not None:
        _string_map(run["Labels"], "image config: Labels")
    return config


def diff_ids(config: Mapping[str, Any]) -> tuple[Digest, ...]:
    """The digests of an image's uncompressed layers, lowest first."""
    rootfs = config.get("rootfs")
    if rootfs is None:
        return ()
    if not isinstance(rootfs, dict) or rootfs.get("type", "layers") != "layers":
        raise InvalidArgument("image config: rootfs is not of type layers")
    listed = rootfs.get("diff_ids") or []
    if not isinstance(listed, list) or not all(isinstance(item, str) and is_digest(item) for item in listed):
        raise InvalidArgument("image config: rootfs.diff_ids is not a list of digests")
    if len(listed) > MAX_LAYERS:
        raise InvalidArgument(f"image config: {len(listed)} layers; the kernel stacks at most {MAX_LAYERS}")
    return tuple(Digest(item) for item in listed)


def _check(where: Mapping[str, Any], key: str, kind: type, what: str) -> None:
    value = where.get(key)
    if value is not None and not isinstance(value, kind):
        raise InvalidArgument(f"{what}: {key} has the wrong type")


def _strings(where: Mapping[str, Any], key: str) -> None:
    value = where.get(key)
    if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise InvalidArgument(f"image config: {key} is not a list of strings")


def _records(value: object, what: str) -> None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidArgument(f"{what} is not a list of objects")


def _list(raw: Mapping[str, Any], key: str, what: str) -> list[Any]:
    value = raw.get(key)
    if not isinstance(value, list):
        raise InvalidArgument(f"{what}: {key} is not a list")
    return value


def _string_map(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidArgument(f"{what} is not a map of strings")
    return value


# --- platforms -----------------------------------------------------------------------------------------------------------------------

_OS_NAMES = {"macos": "darwin"}
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "amd64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "arm64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v7"),
    "loongarch64": ("loong64", ""),
}
_KNOWN_SYSTEMS = frozenset(
    [
        "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd", "openbsd",
        "plan9", "solaris", "windows", "zos",
    ]
)  # fmt: skip
_KNOWN_ARCHITECTURES = frozenset(
    [
        "386", "amd64", "amd64p32", "arm", "arm64", "arm64be", "armbe", "loong64", "mips", "mips64", "mips64le", "mips64p32",
        "mips64p32le", "mipsle", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
    ]
)  # fmt: skip
"""Go's names: what a platform of one word may be."""
_PLATFORM_PART = re.compile(r"[A-Za-z0-9_.-]+\Z")


def normalize(platform: Platform) -> Platform:
    """Aliases resolved and the default variant made plain: arm64 is arm64/v8, arm is arm/v7, amd64/v1 is amd64."""
    system = platform.os.lower()
    architecture = platform.architecture.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = platform.variant.lower() or implied
    match architecture, variant:
        case "arm64", "" | "8" | "v8" | "v8.0":
            variant = "v8"
        case "arm", "":
            variant = "v7"
        case "arm", "5" | "6" | "7" | "8":
            variant = f"v{variant}"
        case "amd64" | "386", "v1":
            variant = ""
    return Platform(_OS_NAMES.get(system, system), architecture, variant, platform.os_version)


def parse_platform(text: str) -> Platform:
    """Normalised, from "linux/arm64/v8", "arm64" (on this operating system) or "linux". InvalidArgument, in the words of containerd's parser."""
    shown = json.dumps(text[:200], ensure_ascii=False)
    if "*" in text:
        raise InvalidArgument(f"{shown}: wildcards not yet supported: invalid argument")
    parts = text.split("/", 3)
    for part in parts:
        if not _PLATFORM_PART.match(part):
            raise InvalidArgument(
                f"{json.dumps(part[:200], ensure_ascii=False)} is an invalid component of {shown}: "
                'platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument'
            )
    match parts:
        case [one]:
            host = host_platform()
            system = normalize(Platform(one, host.architecture, host.variant))
            if system.os in _KNOWN_SYSTEMS:
                return system
            machine = normalize(Platform("linux", one))
            if machine.architecture in _KNOWN_ARCHITECTURES:
                return machine
            raise InvalidArgument(f"{shown}: unknown operating system or architecture: invalid argument")
        case [system_name, architecture, *variant] if len(variant) < 2:
            return normalize(Platform(system_name, architecture, *variant))
    raise InvalidArgument(f"{shown}: cannot parse platform specifier: invalid argument")


def platform_of(config: Mapping[str, Any]) -> Platform:
    """Normalised, as the image config says it."""
    get = config.get
    return normalize(Platform(get("os") or "linux", get("architecture") or "", get("variant") or ""))


def host_platform() -> Platform:
    return normalize(Platform("linux", os.uname().machine))


def platform_from_json(value: object, where: str) -> Platform:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: platform is not an object")
    fields = [value.get(key, "") for key in ("os", "architecture", "variant", "os.version")]
    if not all(isinstance(item, str) for item in fields):
        raise InvalidArgument(f"{where}: platform has members that are not strings")
    return Platform(*fields)


def platform_to_json(platform: Platform) -> dict[str, str]:
    document = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        document["variant"] = platform.variant
    if platform.os_version:
        document["os.version"] = platform.os_version
    return document


def compatible(platform: Platform) -> list[Platform]:
    """What a machine of that (normalised) platform runs, best first."""
    system, architecture, variant = platform.os, platform.architecture, platform.variant
    match architecture:
        case "amd64":
            level = int(variant[1:]) if re.fullmatch(r"v[2-9]", variant) else 1
            lower = [Platform(system, "amd64", f"v{n}" if n > 1 else "") for n in range(level, 0, -1)]
            return [*lower, Platform(system, "386")]
        case "arm":
            level = int(variant[1:]) if re.fullmatch(r"v[5-8]", variant) else 7
            return [Platform(system, "arm", f"v{n}") for n in range(level, 4, -1)]
        case "arm64":
            own = [platform] if variant == "v8" else [platform, Platform(system, "arm64", "v8")]
            return [*own, *(Platform(system, "arm", f"v{n}") for n in range(8, 4, -1))]
    return [platform]


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether a machine that is `wanted` runs an image for `offered`."""
    bare = normalize(offered)
    return Platform(bare.os, bare.architecture, bare.variant) in compatible(normalize(wanted))


def select(index: Index, wanted: Platform) -> Descriptor:
    """The entry that suits `wanted` best; among equals the first. NotFound in Docker's words."""
    wanted = normalize(wanted)
    order = compatible(Platform(wanted.os, wanted.architecture, wanted.variant))
    best: tuple[int, Descriptor] | None = None
    for entry in index.manifests:
        if entry.platform is None or not (entry.is_manifest or entry.is_index):
            continue
        bare = normalize(entry.platform)
        candidate = Platform(bare.os, bare.architecture, bare.variant)
        if candidate in order:
            rank = order.index(candidate)
            if best is None or rank < best[0]:
                best = (rank, entry)
    if best is not None:
        return best[1]
    unnamed = [entry for entry in index.manifests if entry.platform is None and (entry.is_manifest or entry.is_index)]
    if len(unnamed) == 1 and len(index.manifests) == 1:
        return unnamed[0]
    raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
