"""What the verbs of `wherry manifest` share: image manifests fetched from registries, and the lists that are made of them on this side.

A list that is being made is a directory of one file for each manifest below `manifests` in Docker's client configuration, in the form in which docker
keeps them, so that both can go on with each other's. The JSON that is printed is docker's, to the space: the index that `push` sends has the digest
that docker's would have.
**Invariant**: a manifest's bytes are kept as they came; what a file holds counts only if its digest is the one that it says.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from dataclasses import replace as replaced

from wherry.cli.command import CliError
from wherry.cli.signing import with_registry
from wherry.cli.template_functions import json_text, pretty_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from wherry.distribution.client import Fetched, Repository
    from wherry.distribution.upload import Target
    from wherry.spec.ids import Digest
    from wherry.spec.image import Index, Manifest
    from wherry.spec.reference import Reference

    from .app import App

_PLATFORM_KEYS = ("architecture", "os", "os.version", "os.features", "variant")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
MAX_FILE = 32 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One image's manifest. `platform`: as its config or a list says it, with Docker's keys; {} for none."""

    reference: Reference
    media_type: str
    data: bytes
    platform: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> Digest:
        from wherry.spec.image import digest_of

        return digest_of(self.data)


# --- as JSON ---------------------------------------------------------------------------------------------------------------------------


def described(entry: Entry) -> str:
    """As docker keeps it and `inspect --verbose` shows it, on one line."""
    from base64 import b64encode

    from wherry.spec.image import OCI_MANIFEST

    descriptor: dict[str, Any] = {"mediaType": entry.media_type, "digest": entry.digest, "size": len(entry.data)}
    if entry.platform:
        descriptor["platform"] = ordered(entry.platform)
    head = {
        "Ref": str(entry.reference),
        "Descriptor": descriptor,
        "Raw": b64encode(entry.data).decode("ascii"),
    }
    kind = "OCIManifest" if entry.media_type == OCI_MANIFEST else "SchemaV2Manifest"
    return _html_safe(f'{json_text(head)[:-1]},"{kind}":{"".join(_TOKENS.findall(entry.data.decode()))}}}')


def index_of(entries: Sequence[Entry]) -> bytes:
    """The index of these manifests, byte by byte as docker writes it."""
    from wherry.spec.image import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST

    listed = [
        {
            "mediaType": entry.media_type,
            "size": len(entry.data),
            "digest": entry.digest,
            "platform": ordered({"architecture": "", "os": "", **entry.platform}),
        }
        for entry in entries
    ]
    media_type = OCI_INDEX if entries and entries[0].media_type == OCI_MANIFEST else DOCKER_LIST
    document = {"schemaVersion": 2, "mediaType": media_type, "manifests": listed}
    return _html_safe(pretty_json(document, "   ")).encode()


def ordered(platform: Mapping[str, Any]) -> dict[str, Any]:
    return {key: platform[key] for key in _PLATFORM_KEYS if platform.get(key) or key in ("architecture", "os")}


def indented(text: str) -> str:
    """JSON with a tab for each level; its values stay as they are written."""
    out: list[str] = []
    depth, is_fresh = 0, False
    for token in _TOKENS.findall(text):
        closes = token in ("}", "]")
        depth -= closes
        if is_fresh != closes:  # the first thing inside, or the end of something that is not empty
            out.append("\n" + "\t" * depth)
        is_fresh = token in ("{", "[")
        depth += is_fresh
        out.append(token + (" " if token == ":" else "\n" + "\t" * depth if token == "," else ""))
    return "".join(out)


def _html_safe(text: str) -> str:
    """As Go's encoder writes what may end up in a page; these characters occur in strings alone."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


# --- here ------------------------------------------------------------------------------------------------------------------------------


class Store:
    """The lists that are being made."""

    def __init__(self, app: App) -> None:
        folder = app.config_folder or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        self._root = os.path.join(folder, "manifests")

    def _path(self, listing: Reference, *entry: Reference) -> str:
        names = [str(reference).replace(":", "-").replace("/", "_") for reference in (listing, *entry)]
        return os.path.join(self._root, *names)

    def entries(self, listing: Reference) -> list[Entry] | None:
        """None when there is no such list."""
        try:
            names = sorted(os.listdir(self._path(listing)))
        except FileNotFoundError:
            return None
        return [_read(os.path.join(self._path(listing), name)) for name in names]

    def get(self, listing: Reference, entry: Reference) -> Entry | None:
        path = self._path(listing, entry)
        return _read(path) if os.path.lexists(path) else None

    def put(self, listing: Reference, entry: Reference, content: Entry) -> None:
        path = self._path(listing, entry)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        new = f"{self._path(listing)}.{os.getpid()}.new"
        with open(new, "w", encoding="utf-8") as file:
            file.write(described(content))
        os.replace(new, path)

    def remove(self, listing: Reference) -> bool:
        """→ whether there was such a list."""
        entries = self._path(listing)
        try:
            names = os.listdir(entries)
        except FileNotFoundError:
            return False
        for name in names:
            os.unlink(os.path.join(entries, name))
        os.rmdir(entries)
        return True


def _read(path: str) -> Entry:
    import binascii
    from base64 import b64decode

    from wherry.errors import InvalidArgument
    from wherry.spec.image import Manifest, digest_of, parse_document
    from wherry.spec.reference import parse
    from wherry.wire.fastjson import loads

    try:
        with open(path, "rb") as file:
            document: Any = loads(file.read(MAX_FILE))
        descriptor = document["Descriptor"]
        data = b64decode(document["Raw"], validate=True)
        platform = _checked(descriptor.get("platform") or {}, path)
        entry = Entry(parse(document["Ref"]), str(descriptor["mediaType"]), data, platform)
        if digest_of(data) != descriptor["digest"] or not isinstance(parse_document(data, entry.media_type), Manifest):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, InvalidArgument):
        raise CliError(f"invalid manifest file {path}: remove the list, and create it again") from None
    return entry


# --- in a registry -----------------------------------------------------------------------------------------------------------------------


def named(text: str) -> Reference:
    from wherry.spec.reference import parse

    reference = parse(text)
    return reference if reference.digest else reference.tagged()


def fetch(app: App, reference: Reference, *, insecure: bool) -> Entry | list[Entry]:
    """The image's manifest, or those that an index lists."""

    async def look(repository: Repository, _: Target | None) -> Entry | list[Entry]:
        from wherry.distribution.errors import RegistryError

        try:
            return await _look(repository, reference)
        except RegistryError as error:
            if error.status in (401, 403, 404):
                raise CliError(f"no such manifest: {reference}") from None
            raise

    return with_registry(app, reference, look, insecure=insecure, writing=False)


async def _look(repository: Repository, reference: Reference) -> Entry | list[Entry]:
    from wherry.spec.image import Index

    fetched = await repository.manifest(reference.digest or reference.tag or "")
    document = _document(fetched)
    if not isinstance(document, Index):
        return await _entry(repository, reference, fetched, document)
    found = []
    for listed in document.manifests:
        inner = await repository.manifest(listed.digest, listed.size)
        child = _document(inner, listed.media_type)
        if isinstance(child, Index):
            raise CliError(
                f"{reference}: {listed.digest} is an index inside an index, which wherry manifest does not show"
            )
        entry = await _entry(repository, replaced(reference, digest=listed.digest), inner, child)
        raw = next(one for one in document.raw["manifests"] if one.get("digest") == listed.digest)
        platform = _checked(raw.get("platform") or {"architecture": "", "os": ""}, f"{reference}: {listed.digest}")
        found.append(replaced(entry, platform=platform))
    return found


def _document(fetched: Fetched, media_type: str = "") -> Manifest | Index:
    from wherry.spec.image import parse_document

    return parse_document(fetched.data, media_type or fetched.media_type)


async def _entry(repository: Repository, reference: Reference, fetched: Fetched, document: Manifest | Index) -> Entry:
    """With the platform that the image's config says."""
    from wherry.spec.image import MAX_CONFIG, Manifest, decode

    assert isinstance(document, Manifest)
    config = decode(await repository.blob(document.config, MAX_CONFIG), f"config {document.config.digest}")
    platform = {key: config[key] for key in _PLATFORM_KEYS if config.get(key)}
    platform = _checked({"architecture": "", "os": "", **platform}, f"config {document.config.digest}")
    return Entry(reference, document.media_type, fetched.data, platform)


def _checked(platform: Any, where: str) -> dict[str, Any]:
    """InvalidArgument when it is not what a platform is."""
    from wherry.errors import InvalidArgument
    from wherry.spec.image import platform_from_json

    platform_from_json(platform, where)
    features = platform.get("os.features") or []
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise InvalidArgument(f"{where}: os.features is not a list of strings")
    return dict(platform)
