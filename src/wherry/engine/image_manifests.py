"""What an image's target holds, manifest by manifest: Docker's `Manifests` (what `docker images --tree` shows), and its attestations.

In wherryd; blocking, for threads: documents are read from the content store. Source: Engine API, ImageManifestSummary, AttestationStatement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from wherry.core.content import Content
from wherry.core.images import Image
from wherry.core.manifests import REFERENCE_DIGEST, Node, is_attached, is_attestation, manifest_of, walk
from wherry.errors import DataLoss
from wherry.spec.calls import Json, JsonList, Names
from wherry.spec.ids import Digest
from wherry.spec.image import Descriptor, Index, Manifest, platform_to_json

_PREDICATE_TYPE = "in-toto.io/predicate-type"
_STATEMENT = "application/vnd.in-toto+json"
MAX_STATEMENT = 16 << 20


def manifests(
    content: Content, target: Descriptor, images: Mapping[str, Image], users: Callable[[Image], Names]
) -> JsonList:
    """Every manifest below `target`, in its order. `images`: those that are here, by config digest."""
    return [
        _summary(content, node, images, users)
        for node in walk(content, target)
        if not isinstance(node.document, Index) and not node.descriptor.is_index
    ]


def _summary(content: Content, node: Node, images: Mapping[str, Image], users: Callable[[Image], Names]) -> Json:
    described, document = node.descriptor, node.document
    parts: list[Descriptor] = []
    if isinstance(document, Manifest):
        parts = [document.config, *document.layers]
    here = {part.digest for part in parts if content.has(part.digest)}
    size = sum(content.size(digest) for digest in here)
    size += content.size(described.digest) if document is not None else 0
    image = images.get(document.config.digest) if isinstance(document, Manifest) else None
    answer: Json = {
        "ID": described.digest,
        "Descriptor": described.to_json(),
        "Available": document is not None and all(part.digest in here for part in parts),
        "Size": {"Content": size, "Total": size + (image.size if image else 0)},
        "Kind": _kind(described, document),
    }
    match answer["Kind"]:
        case "attestation":
            answer["AttestationData"] = {"For": described.annotations.get(REFERENCE_DIGEST, "")}
        case "image":
            platform = described.platform or (image.platform if image else None)
            answer["ImageData"] = {
                "Platform": platform_to_json(platform) if platform else {},
                "Containers": users(image) if image else [],
                "Size": {"Unpacked": image.size if image else 0},
            }
    return answer


def _kind(described: Descriptor, document: Manifest | Index | None) -> str:
    if is_attestation(described):
        return "attestation"
    if isinstance(document, Manifest):
        return "unknown" if is_attached(described, document) else "image"
    return "image" if described.platform is not None and described.platform.os != "unknown" else "unknown"


def attestations(
    content: Content, image: Image, target: Descriptor, predicate_types: Sequence[str], *, statement: bool
) -> JsonList:
    """The in-toto statements about `image` that are here. Their bodies if `statement`; DataLoss when one is no JSON."""
    described, _ = manifest_of(content, target, image.id)
    found: JsonList = []
    for layer in _statements(content, target, described.digest):
        predicate = layer.annotations.get(_PREDICATE_TYPE, "")
        if predicate_types and predicate not in predicate_types:
            continue
        entry: Json = {"Descriptor": layer.to_json(), "PredicateType": predicate}
        if statement:
            entry["Statement"] = _read(content, layer)
        found.append(entry)
    return found


def _statements(content: Content, target: Descriptor, subject: Digest) -> Iterator[Descriptor]:
    for node in walk(content, target):
        if not is_attestation(node.descriptor) or node.descriptor.annotations.get(REFERENCE_DIGEST) != subject:
            continue
        if isinstance(node.document, Manifest):
            for layer in node.document.layers:
                if layer.media_type == _STATEMENT and content.has(layer.digest):
                    yield layer


def _read(content: Content, layer: Descriptor) -> Json:
    try:
        value = json.loads(content.read(layer.digest, MAX_STATEMENT))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataLoss(f"the statement {layer.digest} is not a JSON object")
    return value
