"""What changed between versions of the Engine API: requests brought up to the newest meaning, answers brought back to the shape asked for.

Backends speak the newest version only. Source: the Engine API's version history. Pure functions.
"""

from __future__ import annotations

import os

from wherry.api.version import Version
from wherry.errors import InvalidArgument, NotImplemented
from wherry.spec.calls import Json, JsonList
from wherry.wire.engine import ContainerCreate, HostConfig, Mount


def unsupported_parameter(name: str) -> NotImplemented:
    return NotImplemented(f"wherry does not support the parameter {name} yet")


# -- requests ------------------------------------------------------------------------------------------------------------------------


def adapt_create(request: ContainerCreate, version: Version) -> None:
    """Give an old client's request the meaning that it had in the client's version; refuse what that version has no word for."""
    host = request.host_config
    if host is None:
        host = request.host_config = HostConfig()
    for mount in host.mounts or ():
        _adapt_mount(mount, version)
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None  # 0 and -1 are both "unlimited"
    if version < (1, 40) and not host.ipc_mode:
        host.ipc_mode = "shareable"
    if version < (1, 41) and not host.cgroupns_mode and not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        host.cgroupns_mode = "host"
    if version < (1, 42):
        host.console_size = None
    if version < (1, 43):
        host.annotations = None
    networking = request.networking_config
    endpoints = (networking.endpoints_config or {}) if networking is not None else {}
    if version < (1, 44) and len(endpoints) > 1:
        raise InvalidArgument(
            f"Container cannot be created with multiple network endpoints: {', '.join(sorted(endpoints))}"
        )


def _adapt_mount(mount: Mount, version: Version) -> None:
    if version >= (1, 42):
        for name, options, kind in (
            ("VolumeOptions", mount.volume_options, "volume"),
            ("BindOptions", mount.bind_options, "bind"),
            ("TmpfsOptions", mount.tmpfs_options, "tmpfs"),
        ):
            if options is not None and mount.type != kind:
                raise InvalidArgument(f'{name} must not be specified on mount type "{mount.type}"')
    else:
        if mount.type != "volume":
            mount.volume_options = None
        if mount.type != "tmpfs":
            mount.tmpfs_options = None
        if mount.bind_options is not None:
            mount.bind_options.create_mountpoint = False
    bind = mount.bind_options
    if version < (1, 40) and bind is not None:
        bind.non_recursive = False
    if version < (1, 44) and mount.type == "bind" and bind is not None and bind.read_only_force_recursive:
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < (1, 45) and mount.volume_options is not None and mount.volume_options.subpath:
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48) and mount.type == "image":
        raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')


# -- answers -------------------------------------------------------------------------------------------------------------------------


def container_list(containers: JsonList, version: Version) -> JsonList:
    if version < (1, 52):
        for container in containers:
            container.pop("Health", None)
            if version < (1, 48):
                container.pop("ImageManifestDescriptor", None)
            if version < (1, 46):
                container.get("HostConfig", {}).pop("Annotations", None)
    return containers


def image_list(images: JsonList, version: Version) -> JsonList:
    for image in images:
        image["RepoTags"] = image.get("RepoTags") or []
        image["RepoDigests"] = image.get("RepoDigests") or []
        if version < (1, 51):
            image["Containers"] = -1
        if version < (1, 48):
            image.pop("Descriptor", None)
        if version < (1, 44):
            image["VirtualSize"] = image.get("Size", 0)
        if version < (1, 43) and not image["RepoTags"] and not image["RepoDigests"]:
            image["RepoTags"] = ["<none>:<none>"]
            image["RepoDigests"] = ["<none>@<none>"]
    return images


def image_inspect(image: Json, version: Version) -> Json:
    image["RepoTags"] = image.get("RepoTags") or []
    image["RepoDigests"] = image.get("RepoDigests") or []
    if version < (1, 53):
        image.pop("Identity", None)
    if version < (1, 52):
        for name in ("Parent", "Comment", "DockerVersion", "Author"):
            image.setdefault(name, "")
    if version < (1, 48):
        image.pop("Descriptor", None)
    if version < (1, 45):
        image.setdefault("Container", "")
        image.setdefault("ContainerConfig", image.get("Config"))
    if version < (1, 44):
        image["VirtualSize"] = image.get("Size", 0)
        image["Created"] = image.get("Created") or "0001-01-01T00:00:00Z"
    return image


def event(event: Json, version: Version) -> Json | None:
    """The event as the client's version knows it; None where it does not."""
    kind, actor = event.get("Type"), event.get("Actor", {})
    if version < (1, 46) and kind == "image" and event.get("Action") == "create":
        return None
    if version < (1, 52) and kind in ("container", "image"):
        old = {"status": event.get("Action", ""), "id": actor.get("ID", "")}
        if kind == "container":
            old["from"] = actor.get("Attributes", {}).get("image", "")
        return {**old, **event}
    return event


def info(info: Json, version: Version) -> Json:
    if version < (1, 53):
        info.pop("NRI", None)
    if version < (1, 50):
        info.pop("DiscoveredDevices", None)
        info.setdefault("BridgeNfIptables", False)
        info.setdefault("BridgeNfIp6tables", False)
    if version < (1, 49):
        info.pop("FirewallBackend", None)
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            commit = info.get(name)
            if isinstance(commit, dict):
                commit.setdefault("Expected", commit.get("ID", ""))
    if version < (1, 46):
        info.pop("Containerd", None)
    return info


def disk_usage(usage: Json, version: Version, *, verbose: bool) -> Json:
    """Until 1.51 lists of objects; from 1.52 sums, with the lists as their items if `verbose`, and beside the old fields if not."""
    reclaimable = usage.pop("ImagesReclaimable", 0)
    if version < (1, 52):
        for image in usage.get("Images") or () if version < (1, 44) else ():
            image["VirtualSize"] = image.get("Size", 0)
        return usage
    answer: Json = {} if verbose else dict(usage)
    for name, summary in _usage_summaries(usage, reclaimable):
        if verbose:
            summary["Items"] = usage[_ITEMS_OF[name]]
        answer[name] = summary
    return answer


_ITEMS_OF = {
    "ImageUsage": "Images",
    "ContainerUsage": "Containers",
    "VolumeUsage": "Volumes",
    "BuildCacheUsage": "BuildCache",
}


def _usage_summaries(usage: Json, reclaimable: int) -> list[tuple[str, Json]]:
    summaries: list[tuple[str, Json]] = []
    for name, items_name in _ITEMS_OF.items():
        if usage.get(items_name) is None:  # not asked for
            continue
        items: JsonList = usage[items_name]
        sizes = [(_is_active(name, item), _size(name, item)) for item in items]
        total, free = sum(size for _, size in sizes), sum(size for active, size in sizes if not active)
        if name == "ImageUsage":
            total, free = usage.get("LayersSize", 0), reclaimable
        summaries.append(
            (
                name,
                {
                    "ActiveCount": sum(active for active, _ in sizes),
                    "TotalCount": len(items),
                    "Reclaimable": free,
                    "TotalSize": total,
                },
            )
        )
    return summaries


def _is_active(usage: str, item: Json) -> bool:
    match usage:
        case "ImageUsage":
            return int(item.get("Containers", 0)) > 0
        case "ContainerUsage":
            return item.get("State") in ("running", "paused", "restarting")
        case "VolumeUsage":
            return int((item.get("UsageData") or {}).get("RefCount", 0)) > 0
        case _:
            return bool(item.get("InUse"))


def _size(usage: str, item: Json) -> int:
    match usage:
        case "ImageUsage":
            return int(item.get("Size", 0)) - max(int(item.get("SharedSize", 0)), 0)
        case "ContainerUsage":
            return int(item.get("SizeRw", 0))
        case "VolumeUsage":
            return max(int((item.get("UsageData") or {}).get("Size", 0)), 0)
        case _:
            return int(item.get("Size", 0))
