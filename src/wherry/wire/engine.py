"""The Engine API's request bodies as typed data (msgspec): Docker's JSON names, unknown fields refused by the decoder that cares.

Source: the Engine API's OpenAPI description, v1.56. A field that wherry does not carry out yet is not declared here: `unsupported` finds those that a
request sets to something other than their zero value, so that nothing asked for is ignored in silence.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from wherry.errors import InvalidArgument

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What Go's int64 holds: a number that no kernel takes is refused before it is stored."""


class Body(msgspec.Struct, rename="pascal", kw_only=True, omit_defaults=False):
    """Base: attributes are snake_case, JSON keys PascalCase; keys that do not follow are named one by one."""


class LogConfig(Body):
    type: str = ""
    config: dict[str, str] | None = None


class RestartPolicy(Body):
    name: str = ""
    maximum_retry_count: Int64 = 0


class PortBinding(Body):
    host_ip: str = ""
    host_port: str = ""


class DeviceMapping(Body):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class ThrottleDevice(Body):
    path: str = ""
    rate: Int64 = 0


class WeightDevice(Body):
    path: str = ""
    weight: Int64 = 0


class Ulimit(Body):
    name: str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class BindOptions(Body):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Body):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Body):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Body):
    size_bytes: Int64 = 0
    mode: Int64 = 0
    options: list[list[str]] | None = None


class Mount(Body):
    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class HostConfig(Body):
    binds: list[str] | None = None
    mounts: list[Mount] | None = None
    tmpfs: dict[str, str] | None = None
    log_config: LogConfig | None = None
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    publish_all_ports: bool = False
    restart_policy: RestartPolicy | None = None
    auto_remove: bool = False
    console_size: list[Int64] | None = None
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    oom_score_adj: Int64 = 0
    pid_mode: str = ""
    privileged: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    uts_mode: str = msgspec.field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: Int64 = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    init: bool | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    container_id_file: str = msgspec.field(name="ContainerIDFile", default="")
    # resources
    cgroup_parent: str = ""
    cpu_shares: Int64 = 0
    nano_cpus: Int64 = 0
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory: Int64 = 0
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: list[Ulimit] | None = None
    blkio_weight: Int64 = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice] | None = msgspec.field(name="BlkioDeviceWriteIOps", default=None)
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None


class EndpointSettings(Body):
    """Per-network settings of create. Only what the predefined networks can do; the rest is refused."""

    network_id: str = msgspec.field(name="NetworkID", default="")
    aliases: list[str] | None = None
    mac_address: str = ""


class NetworkingConfig(Body):
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class Healthcheck(Body):
    """Of a create, only what says that there is none: `--no-healthcheck`."""

    test: list[str] | None = None


class ContainerConfig(Body):
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, dict[str, Any]] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | str | None = None
    image: str = ""
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: Int64 | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False


class ContainerCreate(ContainerConfig):
    """POST /containers/create."""

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class ExecCreate(Body):
    """POST /containers/{id}/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[Int64] | None = None
    detach: bool = False
    """Sent by the docker CLI; it is the start that says whether the exec is detached."""
    detach_keys: str = ""
    tty: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


class ExecStart(Body):
    """POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[Int64] | None = None


class VolumeCreate(Body):
    """POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


# Fields that Docker's own clients send and that carry no wish: read, and left.
_WITHOUT_EFFECT = {
    "Container",  # of an exec: docker-py repeats what the path says
}


def _is_zero(value: object) -> bool:
    return (
        value in (None, False, 0, "", -1) or value == [] or value == {} or (isinstance(value, list) and not any(value))
    )


@dataclass(frozen=True, slots=True)
class _Field:
    """`nested`: the bodies that its value, or the items of that, may be; `by_key`: those that the values of its mapping may be."""

    name: str
    nested: tuple[type[Body], ...]
    by_key: tuple[type[Body], ...] | None


@functools.cache
def _fields(body: type[Body]) -> dict[str, _Field]:
    """By their names in JSON. To find them out takes milliseconds."""
    found = {}
    for info in msgspec.structs.fields(body):
        of_mapping = _values_of_mapping(info.type)
        by_key = None if of_mapping is None else tuple(_nested(of_mapping))
        found[info.encode_name] = _Field(info.encode_name, tuple(_nested(info.type)), by_key)
    return found


@functools.cache
def _fields_in_any_case(body: type[Body]) -> dict[str, _Field]:
    return {name.lower(): field for name, field in _fields(body).items()}


def unsupported(raw: object, body: type[Body], prefix: str = "") -> list[str]:
    """The names ("HostConfig.VolumesFrom") of the fields of `raw` that ask for something that `body` does not declare."""
    if not isinstance(raw, dict):
        return []
    known = _fields(body)
    found: list[str] = []
    for key, value in raw.items():
        field = known.get(key)
        if field is None:
            if not _is_zero(value) and key not in _WITHOUT_EFFECT:
                found.append(prefix + key)
            continue
        for nested in field.nested if field.by_key is None else field.by_key:
            if field.by_key is not None and isinstance(value, dict):
                values = [item for entry in value.values() for item in (entry if isinstance(entry, list) else [entry])]
            else:
                values = value if isinstance(value, list) else [value]
            for item in values:
                found += unsupported(item, nested, f"{prefix}{key}.")
    return found


def _as_go_reads_it(raw: object, body: type[Body]) -> object:
    """`raw` without what Go's decoder does not mind, and some clients rely on: keys in another case than `body`'s, null for any field."""
    if not isinstance(raw, dict):
        return raw
    known = _fields_in_any_case(body)
    renamed: dict[str, object] = {}
    for key, value in raw.items():
        field = known.get(key.lower())
        if value is None:
            continue
        if field is None:
            renamed[key] = value
        elif field.name == key or field.name not in raw:
            (nested,) = field.nested or (None,)
            if nested is not None:
                value = (
                    [_as_go_reads_it(item, nested) for item in value]
                    if isinstance(value, list)
                    else _as_go_reads_it(value, nested)
                )
            renamed[field.name] = value
    return renamed


def _values_of_mapping(annotation: Any) -> Any:
    """V of `dict[str, V]` or `dict[str, V] | None`, None of anything else."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if getattr(part, "__origin__", None) is dict:
            return part.__args__[1]
    return None


def _nested(annotation: Any) -> list[type[Body]]:
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is dict:
        return []
    return [found for argument in arguments for found in _nested(argument)]


_T = TypeVar("_T", bound=Body)


def parse(data: bytes, body: type[_T]) -> tuple[_T, list[str]]:
    """The typed body, and the names of fields set that wherry does not support. InvalidArgument when it is not JSON or has wrong types."""
    try:
        raw = msgspec.json.decode(data)
        if not unsupported(raw, body):
            with contextlib.suppress(msgspec.ValidationError):
                return msgspec.convert(raw, body), []
        raw = _as_go_reads_it(raw, body)
        return msgspec.convert(raw, body), unsupported(raw, body)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
