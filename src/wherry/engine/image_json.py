"""Images as Docker's API shows them: ImageSummary, ImageInspect, history. Pure. Source: the Engine API's description, v1.56."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wherry.core.images import Image, Images
from wherry.core.snapshots import Snapshots
from wherry.engine.times import parse_rfc3339_nano
from wherry.spec.calls import Json, JsonList
from wherry.spec.ids import ImageId
from wherry.spec.reference import Reference

RUN_KEYS = (
    "User",
    "ExposedPorts",
    "Env",
    "Cmd",
    "Healthcheck",
    "ArgsEscaped",
    "Volumes",
    "WorkingDir",
    "Entrypoint",
    "OnBuild",
    "Labels",
    "StopSignal",
    "Shell",
)


def created_ns(image: Image) -> int:
    """When the image was made, as it says itself; 0 if it does not, or nonsense."""
    try:
        return parse_rfc3339_nano(image.created)
    except ValueError:
        return 0


def labels(image: Image) -> Mapping[str, str]:
    found: Mapping[str, str] = image.run.get("Labels") or {}
    return found


def summary(image: Image) -> Json:
    return {
        "Id": image.id,
        "ParentId": image.parent or "",
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": created_ns(image) // 1_000_000_000,
        "Size": image.size,
        "SharedSize": -1,
        "Labels": dict(labels(image)) or None,
        "Containers": -1,
        "Descriptor": image.target.to_json(),
    }


def identity(names: Iterable[Reference]) -> Json | None:
    """Where an image came from, which no name given here can change: a name by digest is given by a pull or a push alone. None when it was made here.
    Signatures are the trust policy's, and are not told here; there are no builds yet."""
    repositories = sorted({name.name for name in names if name.digest is not None})
    return {"Pull": [{"Repository": repository} for repository in repositories]} if repositories else None


def shared_sizes(images: Images) -> dict[ImageId, int]:
    """By image: the bytes of the layers that another image has as well."""
    found = images.all()
    users = Counter(chain for image in found for chain in image.layers)
    sizes = {layer.chain_id: layer.size for layer in images.snapshots.layers()}
    return {image.id: sum(sizes.get(chain, 0) for chain in image.layers if users[chain] > 1) for image in found}


def inspect(image: Image, snapshots: Snapshots) -> Json:
    """What the image does not say is left out, as in Docker since API 1.52."""
    config = image.config
    answer: Json = {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Config": {key: image.run[key] for key in RUN_KEYS if image.run.get(key) not in (None, "", False)},
        "Architecture": config.get("architecture") or "",
        "Os": config.get("os") or ("" if image.is_artifact else "linux"),
        "Size": image.size,
        "GraphDriver": {"Name": snapshots.driver.name, "Data": _driver_data(image, snapshots)},
        "RootFS": {"Type": "layers", "Layers": list((config.get("rootfs") or {}).get("diff_ids") or [])},
        "Metadata": {"LastTagTime": image.tagged_at} if image.tagged_at else {},
        "Descriptor": image.target.to_json(),
    }
    optional = (
        ("Parent", image.parent),
        ("Comment", _comment(config)),
        ("Created", image.created),
        ("Author", config.get("author")),
        ("DockerVersion", config.get("docker_version")),
        ("Variant", config.get("variant")),
        ("OsVersion", config.get("os.version")),
    )
    answer.update((key, value) for key, value in optional if value)
    return answer


def _comment(config: Mapping[str, Any]) -> str:
    """The image's own, or that of its last step."""
    history = config.get("history") or []
    return str(config.get("comment") or (history[-1].get("comment") if history else "") or "")


def _driver_data(image: Image, snapshots: Snapshots) -> dict[str, str]:
    stack = [] if image.damage else snapshots.lower(image.top)
    if not stack:
        return {}
    data = {"UpperDir": stack[0]}
    if len(stack) > 1:
        data["LowerDir"] = ":".join(stack[1:])
    return data


def history(image: Image, snapshots: Snapshots, ancestors: Sequence[Image]) -> JsonList:
    """Newest first. `ancestors`: the images that this one was built on here, nearest first; other steps have no id."""
    sizes = [layer.size if (layer := snapshots.layer(chain_id)) else 0 for chain_id in image.layers]
    entries: JsonList = []
    position = 0
    for step in image.config.get("history") or []:
        size = 0
        if not step.get("empty_layer") and position < len(sizes):
            size = sizes[position]
            position += 1
        entries.append(
            {
                "Id": "<missing>",
                "Created": _seconds(step.get("created")),
                "CreatedBy": step.get("created_by") or "",
                "Tags": None,
                "Size": size,
                "Comment": step.get("comment") or "",
            }
        )
    entries.reverse()
    for entry, owner in zip(entries, (image, *ancestors), strict=False):
        entry["Id"] = owner.id
        entry["Tags"] = list(owner.repo_tags) or None
    return entries


def _seconds(created: object) -> int:
    try:
        return parse_rfc3339_nano(str(created)) // 1_000_000_000 if created else 0
    except ValueError:
        return 0
