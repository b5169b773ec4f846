"""A container as `docker inspect` and `docker ps` show it. Pure but for sizes. Source: Engine API, ContainerInspectResponse and ContainerSummary."""

from __future__ import annotations

import time

import msgspec

from wherry.core.rootfs import BindRoot
from wherry.engine import security
from wherry.engine.records import Container, MountPoint, Record, Status
from wherry.engine.services import Services
from wherry.engine.start import log_path
from wherry.engine.times import human_duration, rfc3339_nano
from wherry.network.ports import ports_json, ports_summary
from wherry.spec.calls import Json


def inspect(services: Services, container: Container, *, api_version: tuple[int, int]) -> Json:
    record = container.record
    folder = services.settings.container_dir(record.id)
    has_own_files = not record.host_config.network_mode.startswith("container:")
    driver = (record.host_config.log_config.type if record.host_config.log_config else "") or "json-file"
    return {
        "Id": record.id,
        "Created": rfc3339_nano(record.created_ns),
        "Path": record.path,
        "Args": record.args,
        "State": _state(container),
        "Image": record.image,
        "ResolvConfPath": f"{folder}/resolv.conf" if has_own_files else "",
        "HostnamePath": f"{folder}/hostname" if has_own_files else "",
        "HostsPath": f"{folder}/hosts" if has_own_files else "",
        "LogPath": log_path(services, record.id) if driver == "json-file" else "",
        "Name": f"/{record.name}",
        "RestartCount": record.state.restart_count,
        "Driver": services.snapshots.driver.name,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": security.parse_options(record.host_config.security_opt).apparmor,
        "ExecIDs": list(container.open_exec_ids) or None,
        "HostConfig": host_config(services, record),
        "GraphDriver": _graph_driver(services, record.id),
        "Mounts": [
            _mount(services, point) for point in record.mounts if point.type != "tmpfs" or point.from_mounts_api
        ],
        "Config": _config(record),
        "NetworkSettings": _network_settings(services, container),
    }


def _graph_driver(services: Services, id: str) -> Json:
    root = services.snapshots.mounts(id)
    data = None
    if not isinstance(root, BindRoot):
        data = {"LowerDir": ":".join(root.lower), "MergedDir": "", "UpperDir": root.upper, "WorkDir": root.work}
    return {"Name": services.snapshots.driver.name, "Data": data}


def _state(container: Container) -> Json:
    state = container.record.state
    status = state.status
    return {
        "Status": status.value,
        "Running": status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING),
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339_nano(state.started_at_ns),
        "FinishedAt": rfc3339_nano(state.finished_at_ns),
    }


def _config(record: Record) -> Json:
    config: Json = msgspec.to_builtins(record.config)
    config["Image"] = record.image_ref
    config["OnBuild"] = None
    config.pop("ArgsEscaped", None)
    for key in ("ExposedPorts", "StopTimeout", "StopSignal", "Healthcheck"):
        if config.get(key) in (None, "", {}):
            config.pop(key, None)
    config["Entrypoint"] = config["Entrypoint"] or None
    config["Cmd"] = config["Cmd"] or None
    return config


def host_config(services: Services, record: Record) -> Json:
    host: Json = msgspec.to_builtins(record.host_config)
    host["Runtime"] = host["Runtime"] or services.settings.default_runtime
    host["LogConfig"] = {
        "Type": (host["LogConfig"] or {}).get("Type") or "json-file",
        "Config": (host["LogConfig"] or {}).get("Config") or {},
    }
    host["RestartPolicy"] = host["RestartPolicy"] or {"Name": "no", "MaximumRetryCount": 0}
    host["RestartPolicy"]["Name"] = host["RestartPolicy"]["Name"] or "no"
    host["IpcMode"] = host["IpcMode"] or "private"
    host["CgroupnsMode"] = host["CgroupnsMode"] or "private"
    host["ShmSize"] = host["ShmSize"] or 64 * 1024 * 1024
    host["PortBindings"] = host["PortBindings"] or {}
    host["MaskedPaths"] = host["MaskedPaths"] if host["MaskedPaths"] is not None else list(security.MASKED_PATHS)
    host["ReadonlyPaths"] = (
        host["ReadonlyPaths"] if host["ReadonlyPaths"] is not None else list(security.READONLY_PATHS)
    )
    if record.host_config.privileged:
        host["MaskedPaths"] = host["ReadonlyPaths"] = None
    host["ConsoleSize"] = host["ConsoleSize"] or [0, 0]
    for key in ("Annotations", "Init", "Mounts", "Sysctls", "Tmpfs"):
        if host[key] is None:
            del host[key]
    for mount in host.get("Mounts", ()):
        for key in ("BindOptions", "Consistency", "ReadOnly", "TmpfsOptions", "VolumeOptions"):
            if not mount[key]:
                del mount[key]
    host.update(
        {
            "Links": None,
            "CpuRealtimePeriod": 0,
            "CpuRealtimeRuntime": 0,
        }
    )
    host.update(
        {
            "CpuCount": 0,
            "CpuPercent": 0,
            "IOMaximumIOps": 0,
            "IOMaximumBandwidth": 0,
            "DeviceRequests": None,
            "Cgroup": "",
        }
    )
    return host


def _mount(services: Services, point: MountPoint) -> Json:
    source = point.source
    shown: Json = {"Type": point.type}
    if point.type == "volume":
        source = services.volumes.path(point.name) if services.volumes.exists(point.name) else ""
        shown |= {"Name": point.name, "Source": source, "Destination": point.destination, "Driver": "local"}
    else:
        shown |= {"Source": source, "Destination": point.destination}
    propagation = "" if point.type != "bind" else point.propagation
    return {
        **shown,
        "Mode": point.mode,
        "RW": not point.read_only and "ro" not in point.options,
        "Propagation": propagation,
    }


_NO_ENDPOINT = {
    "IPAMConfig": None,
    "Links": None,
    "Aliases": None,
    "MacAddress": "",
    "DriverOpts": None,
    "GwPriority": 0,
    "EndpointID": "",
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "DNSNames": None,
}
_OLD_FIELDS = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


def _network_settings(services: Services, container: Container) -> Json:
    record, endpoint = container.record, container.endpoint
    mode = record.host_config.network_mode
    attached = endpoint.network_settings() if endpoint else {**_NO_ENDPOINT, "NetworkID": ""}
    settings: Json = {
        "Bridge": "",
        "SandboxID": endpoint.sandbox_id if endpoint else "",
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if record.state.pid else "",
        "Ports": ports_json(endpoint.ports, record.config.exposed_ports or {}) if endpoint else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{field: attached[field] for field in _OLD_FIELDS},
        "Networks": {},
    }
    if not mode.startswith("container:"):
        attached["NetworkID"] = services.networks.network_id(mode)
        settings["Networks"] = {mode: attached}
    return settings


def status_text(container: Container, now_ns: int) -> str:
    """ps's STATUS column: "Up 3 minutes (Paused)", "Exited (1) 2 hours ago" …"""
    state = container.record.state
    since_start = human_duration((now_ns - state.started_at_ns) / 1e9)
    since_end = human_duration((now_ns - state.finished_at_ns) / 1e9)
    match state.status:
        case Status.RUNNING:
            return f"Up {since_start}"
        case Status.PAUSED:
            return f"Up {since_start} (Paused)"
        case Status.RESTARTING:
            return f"Restarting ({state.exit_code}) {since_end} ago"
        case Status.REMOVING:
            return "Removal In Progress"
        case Status.DEAD:
            return "Dead"
        case Status.CREATED:
            return "Created"
        case Status.EXITED:
            return f"Exited ({state.exit_code}) {since_end} ago" if state.finished_at_ns else "Created"


def _is_called(services: Services, record: Record) -> bool:
    """Whether the name that the container was made from still leads to its image."""
    image = services.images.find(record.image_ref)
    return image is not None and any(variant.id == record.image for variant in services.images.variants(image))


def summary(services: Services, container: Container) -> Json:
    """One entry of GET /containers/json."""
    record = container.record
    mode = record.host_config.network_mode
    networks = _network_settings(services, container)["Networks"]
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image_ref if _is_called(services, record) else record.image,
        "ImageID": record.image,
        "Command": " ".join(
            [record.path, *(f"'{item}'" if any(c.isspace() for c in item) else item for item in record.args)]
        ),
        "Created": record.created_ns // 1_000_000_000,
        "Ports": ports_summary(container.endpoint.ports, record.config.exposed_ports or {})
        if container.endpoint
        else [],
        "Labels": record.config.labels or {},
        "State": record.state.status.value,
        "Status": status_text(container, time.time_ns()),
        "HostConfig": {
            "NetworkMode": mode,
            **({"Annotations": record.host_config.annotations} if record.host_config.annotations else {}),
        },
        "NetworkSettings": {"Networks": networks},
        "Mounts": [
            _mount(services, point) for point in record.mounts if point.type != "tmpfs" or point.from_mounts_api
        ],
    }
