"""`POST /containers/create`: from a request and an image to a container that can be started.

The order is: everything that can be refused, then everything that is made (name, volumes, snapshot, row), each undone when a later one fails.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import re
import secrets
import time
from contextlib import AsyncExitStack

from wherry import errors
from wherry.core.images import Image
from wherry.engine import log_options, mounts, names, oci_config, resources, security, signals
from wherry.engine.records import Container, MountPoint, Record
from wherry.engine.room import make_room
from wherry.engine.services import Services
from wherry.engine.store import RowChange, describe
from wherry.errors import InvalidArgument, NotFound
from wherry.network.files import parse_extra_host, resolv_conf
from wherry.network.ports import port_requests
from wherry.spec import seccomp
from wherry.spec.ids import ContainerId
from wherry.spec.image import parse_platform
from wherry.wire.engine import ContainerConfig, ContainerCreate, HostConfig

_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}\Z")


async def create_container(
    services: Services, name: str | None, request: ContainerCreate, *, platform: str | None
) -> tuple[ContainerId, list[str]]:
    """→ id, warnings. NotFound for an absent image, Conflict for a taken name, InvalidArgument for the rest."""
    host = request.host_config or HostConfig()
    wanted_name = names.check(name) if name else None
    if not request.image:
        raise InvalidArgument("no image specified")  # dockerd would start from an empty root, which nobody can run
    await make_room(services)
    image = await services.images.resolve(
        request.image,
        parse_platform(platform) if platform else None,
        adopt=services.admission.accepts(request.image),
    )
    if image.is_artifact:
        raise InvalidArgument(
            f"{request.image} is not a container image, but another artifact: nothing of it can be run"
        )
    with services.images.in_use(image):
        await services.admission.at_run(request.image, image)
        return await _create(services, image, request, host, wanted_name)


async def _create(
    services: Services, image: Image, request: ContainerCreate, host: HostConfig, wanted_name: str | None
) -> tuple[ContainerId, list[str]]:
    id = ContainerId(secrets.token_hex(32))
    config = merge(request, image)
    warnings = check(services, config, host)
    if config.healthcheck is None and _checks_health(image):
        warnings.append("wherry does not run health checks yet: the image's is ignored (--no-healthcheck says so)")
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    check_network(services, config, host, request)
    if not config.hostname:
        config.hostname = _default_hostname(services, host.network_mode, id)
    entrypoint, command = _as_list(config.entrypoint), _as_list(config.cmd)
    argv = [*entrypoint, *command]
    if not argv:
        raise InvalidArgument("no command specified")
    record = Record(
        id=id,
        name="",
        created_ns=time.time_ns(),
        image=image.id,
        image_ref=request.image,
        config=config,
        host_config=host,
        path=argv[0],
        args=argv[1:],
        mounts=mounts.resolve(host, config.volumes or {}, lambda ref: _joined(services, ref).record.mounts),
        mac_address=_mac_address(host, request),
    )
    _check_configuration(record)
    async with AsyncExitStack() as undo:
        record.name = _reserve_name(services, wanted_name, id)
        undo.callback(services.containers.release, record.name)
        volume_rows, new_volumes = [], []
        for point in record.mounts:
            if (row := await _prepare_mount(services, point, host, undo)) is not None:
                volume_rows.append(row)
                new_volumes.append(point.name)
        await services.snapshots.prepare(id, image.layers[-1] if image.layers else None)
        undo.push_async_callback(services.snapshots.remove, id)
        os.makedirs(services.settings.container_dir(id), 0o710)
        undo.callback(_remove_dir, services.settings.container_dir(id))
        await services.containers.add(_created(record), volume_rows)
        undo.pop_all()
    for volume in new_volumes:
        services.events.publish("volume", "create", volume, {"driver": "local"})
    services.events.publish("container", "create", id, describe(record))
    return id, warnings


def _checks_health(image: Image) -> bool:
    check = (image.config.get("config") or {}).get("Healthcheck") or {}
    return (check.get("Test") or ["NONE"]) != ["NONE"]


def _created(record: Record) -> Container:
    container = Container(record)
    container.exited.set()  # nothing runs yet: who follows its log has nothing to wait for
    return container


def _remove_dir(path: str) -> None:
    os.rmdir(path)


def _check_configuration(record: Record) -> None:
    """What the OCI configuration refuses is refused at create, not at start."""
    volume_paths = {point.name: "/" for point in record.mounts}
    oci_config.build(record, oci_config.Surroundings("", "", "", "/", None, False, volume_paths=volume_paths))


def _reserve_name(services: Services, wanted: str | None, id: ContainerId) -> str:
    if wanted:
        services.containers.reserve(wanted, id)
        return wanted
    name = names.generate()
    while services.containers.is_taken(name):
        name = f"{names.generate()}{secrets.randbelow(100)}"
    services.containers.reserve(name, id)
    return name


async def _prepare_mount(
    services: Services, point: MountPoint, host: HostConfig, undo: AsyncExitStack
) -> RowChange | None:
    """→ what makes a new volume last; called in the transaction of the container's row."""
    if point.type == "volume":
        labels, options = mounts.volume_settings(host, point)
        row = await services.volumes.stage(point.name, labels, options)
        if row is not None:
            undo.push_async_callback(services.volumes.remove, point.name, force=True)
        return row
    if point.type == "bind":
        await asyncio.to_thread(mounts.create_bind_source, point)
    return None


def merge(request: ContainerCreate, image: Image) -> ContainerConfig:
    """The request's configuration with the image's defaults where the request is silent. As dockerd's `merge`."""
    config = ContainerConfig(**{name: getattr(request, name) for name in ContainerConfig.__struct_fields__})
    base = image.config.get("config") or {}
    config.user = config.user or base.get("User") or ""
    config.working_dir = config.working_dir or base.get("WorkingDir") or ""
    config.stop_signal = config.stop_signal or base.get("StopSignal") or ""
    config.exposed_ports = {
        **{port: {} for port in base.get("ExposedPorts") or {}},
        **(config.exposed_ports or {}),
    } or None
    config.volumes = {**{path: {} for path in base.get("Volumes") or {}}, **(config.volumes or {})} or None
    config.labels = {**(base.get("Labels") or {}), **(config.labels or {})}
    given = {item.partition("=")[0] for item in config.env or []}
    config.env = [*(config.env or []), *(item for item in base.get("Env") or [] if item.partition("=")[0] not in given)]
    entrypoint = _as_list(config.entrypoint)
    if entrypoint == [""]:  # --entrypoint "" takes the image's away
        config.entrypoint = []
        config.cmd = _as_list(config.cmd)
    elif not entrypoint:
        config.entrypoint = list(base.get("Entrypoint") or [])
        config.cmd = _as_list(config.cmd) or list(base.get("Cmd") or [])
    else:
        config.entrypoint = entrypoint
        config.cmd = _as_list(config.cmd)
    # "KEY" alone, without "=", takes a variable away
    config.env = [item for item in config.env if "=" in item]
    return config


def _as_list(value: list[str] | str | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def check(services: Services, config: ContainerConfig, host: HostConfig) -> list[str]:
    """What can be refused without looking at the machine's state. → warnings."""
    warnings = resources.check(host)
    security.effective_capabilities(host)
    options = security.parse_options(host.security_opt)
    if options.seccomp not in ("builtin", "unconfined"):
        seccomp.parse_profile(options.seccomp)
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.working_dir:
        config.working_dir = posixpath.normpath("/" + config.working_dir.lstrip("/"))
    if config.healthcheck and (config.healthcheck.test or ["NONE"]) != ["NONE"]:
        raise errors.NotImplemented("wherry does not support Healthcheck yet")
    signals.parse(config.stop_signal or "SIGTERM")
    for item in [
        *(config.env or []),
        *_as_list(config.entrypoint),
        *_as_list(config.cmd),
        config.working_dir,
        config.user,
    ]:
        if "\0" in item:
            raise InvalidArgument("invalid configuration: a string has a NUL byte")
    for item in config.env or []:
        if item.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {item}")
    if len(config.hostname) > 64:
        raise InvalidArgument(f"invalid hostname format: {config.hostname[:80]}")
    log_options.check(host)
    restart = host.restart_policy
    if restart:
        if restart.name not in ("", "no", "always", "on-failure", "unless-stopped"):
            raise InvalidArgument(
                f"invalid restart policy: unknown policy '{restart.name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )
        count = restart.maximum_retry_count
        if count and restart.name not in ("", "on-failure"):
            raise InvalidArgument(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'"
                + (" and cannot be negative" if count < 0 else "")
            )
        if count < 0:
            raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
        if host.auto_remove and restart.name not in ("", "no"):
            raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    if host.runtime and host.runtime != "wherry" and host.runtime not in services.settings.runtimes:
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    if host.init and not services.settings.init_path:
        raise InvalidArgument("--init: no init binary: install the package tini, or set init-path in daemon.json")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"invalid isolation '{host.isolation}' on linux")
    if host.volume_driver not in ("", "local"):
        raise InvalidArgument(
            f'error looking up volume plugin {host.volume_driver}: plugin "{host.volume_driver}" not found'
        )
    if host.userns_mode not in ("", "host"):
        raise InvalidArgument(f"invalid userns mode: {host.userns_mode}")
    if host.uts_mode not in ("", "host"):
        raise InvalidArgument(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidArgument(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.cgroup_parent:
        raise errors.NotImplemented("wherry does not support HostConfig.CgroupParent yet")
    for mode, flag, words in (
        (host.pid_mode, "PID", ("", "private", "host")),
        (host.ipc_mode, "IPC", ("", "private", "shareable", "host", "none")),
    ):
        if mode not in words and not (mode.startswith("container:") and len(mode) > len("container:")):
            raise InvalidArgument(f"invalid {flag} mode: {mode}")
    for key in host.sysctls or {}:
        _check_sysctl(key, host)
    return warnings


_NAMESPACED_SYSCTLS = (
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
)


def _check_sysctl(key: str, host: HostConfig) -> None:
    """Only what a namespace of the container's own holds (CVE-2022-0811: nothing may reach the machine's)."""
    normal = key.replace("/", ".")
    if "\n" in key or "\0" in key or ".." in normal:
        raise InvalidArgument(f"sysctl '{key}' is not allowed")
    if normal.startswith("net."):
        if host.network_mode == "host":
            raise InvalidArgument(f"sysctl '{key}' not allowed in host network namespace")
    elif normal in _NAMESPACED_SYSCTLS or normal.startswith("fs.mqueue."):
        if host.ipc_mode == "host":
            raise InvalidArgument(f"sysctl '{key}' not allowed in host ipc namespace")
    else:
        raise InvalidArgument(f"sysctl '{key}' is not allowed")


def _mac_address(host: HostConfig, request: ContainerCreate) -> str:
    """--mac-address on the bridge. InvalidArgument for what is none."""
    endpoints = (request.networking_config.endpoints_config if request.networking_config else None) or {}
    wanted = next((settings.mac_address for settings in endpoints.values() if settings and settings.mac_address), "")
    if wanted and not _MAC.match(wanted):
        raise InvalidArgument(f"invalid MAC address: {wanted!r}")
    if wanted and host.network_mode != "bridge":
        raise InvalidArgument("conflicting options: mac-address and the network mode")
    return wanted.lower()


def _joined(services: Services, ref: str) -> Container:
    """The container that another one is to share something with. InvalidArgument: clients take a 404 of create for a missing image, and pull."""
    try:
        return services.containers.get(ref.removeprefix("container:"))
    except NotFound as error:
        raise InvalidArgument(str(error)) from None


def _default_hostname(services: Services, network_mode: str, id: ContainerId) -> str:
    """As Docker: who shares a network also bears the name that its addresses go by."""
    if network_mode == "host":
        return os.uname().nodename
    if network_mode.startswith("container:"):
        return services.containers.get(network_mode.removeprefix("container:")).record.config.hostname
    return id[:12]


def check_network(services: Services, config: ContainerConfig, host: HostConfig, request: ContainerCreate) -> None:
    """--network and what cannot go with it. The mode is normalised in place ("default" is "bridge")."""
    if host.network_mode in ("", "default"):
        host.network_mode = "bridge"
    mode = host.network_mode
    endpoints = (request.networking_config.endpoints_config if request.networking_config else None) or {}
    for network, settings in endpoints.items():
        if network not in (mode, "default") or (settings and settings.aliases):
            raise errors.NotImplemented(
                f"wherry does not support NetworkingConfig.EndpointsConfig of {network!r} yet: user-defined networks and aliases"
            )
    port_requests(
        host.port_bindings, config.exposed_ports or {}, publish_all=host.publish_all_ports
    )  # refuses malformed ones
    for entry in host.extra_hosts or []:
        parse_extra_host(entry, services.networks.gateway)
    resolv_conf(host.dns or [], host.dns_search or [], host.dns_options or [])  # refuses malformed ones
    if mode.startswith("container:"):
        _joined(services, mode)
        if request.hostname:
            raise InvalidArgument("conflicting options: hostname and the network mode")
        if host.dns:
            raise InvalidArgument("conflicting options: dns and the network mode")
        if host.extra_hosts:
            raise InvalidArgument("conflicting options: custom host-to-IP mapping and the network mode")
        if host.port_bindings or host.publish_all_ports:
            raise InvalidArgument("conflicting options: port publishing and the container type network mode")
        if request.exposed_ports:
            raise InvalidArgument("conflicting options: port exposing and the container type network mode")
    elif mode == "host" and host.uts_mode == "host" and request.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    elif mode not in ("bridge", "none", "host"):
        raise InvalidArgument(f"network {mode} not found")  # not 404: clients take that for a missing image, and pull
    if host.uts_mode == "host" and (request.hostname or request.domainname):
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    for mode in (host.pid_mode, host.ipc_mode):
        if mode.startswith("container:"):
            _joined(services, mode)
