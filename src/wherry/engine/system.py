"""`docker info`, `docker version`, `docker system df`, `docker events`: implements `api.backend.SystemBackend`. Runs in wherryd."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping

from wherry import __version__
from wherry.core.cancellation import thread_to_the_end
from wherry.distribution import proxies
from wherry.distribution.hosts import RegistryHosts
from wherry.engine import disk_usage, image_json, inspect
from wherry.engine.records import Status
from wherry.engine.registries import registry_config
from wherry.engine.services import Services
from wherry.engine.times import rfc3339_nano
from wherry.linux import cgroups
from wherry.spec.calls import Json, Names

API_VERSION, MIN_API_VERSION = "1.56", "1.24"


class System:
    def __init__(self, services: Services, hosts: RegistryHosts) -> None:
        self._services = services
        self._hosts = hosts
        self._id = _engine_id(services.settings.data_root)
        self._measuring = asyncio.Lock()

    async def version(self) -> Json:
        uname = os.uname()
        built = rfc3339_nano(int(os.stat(__file__).st_mtime) * 1_000_000_000)
        details = {
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "Arch": _go_arch(uname.machine),
            "BuildTime": built,
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": uname.release,
            "Os": "linux",
            "Python": platform.python_version(),
        }
        return {
            "Platform": {"Name": f"wherry {__version__}"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": _go_arch(uname.machine),
            "KernelVersion": uname.release,
            "BuildTime": built,
        }

    async def info(self) -> Json:
        services = self._services
        containers = services.containers.all()
        running = sum(container.status is Status.RUNNING for container in containers)
        paused = sum(container.status is Status.PAUSED for container in containers)
        uname = os.uname()
        is_v2 = cgroups.detect().mode == "v2"
        runtimes = {services.settings.default_runtime: {"path": services.settings.default_runtime}}
        runtimes |= {"wherry": {"path": "wherry-runc"}}
        runtimes |= {name: {"path": path} for name, path in services.settings.runtimes.items()}
        return {
            "ID": self._id,
            "Containers": len(containers),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(containers) - running - paused,
            "Images": len(services.images.list()),
            "Driver": services.snapshots.driver.name,
            "DriverStatus": services.snapshots.driver.status(services.snapshots.root),
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "null"],
                "Authorization": None,
                "Log": ["json-file"],
            },
            "MemoryLimit": True,
            "SwapLimit": _can_limit_swap(),
            "CpuCfsPeriod": True,
            "CpuCfsQuota": True,
            "CPUShares": True,
            "CPUSet": True,
            "PidsLimit": True,
            "IPv4Forwarding": _reads("/proc/sys/net/ipv4/ip_forward") == "1",
            "Debug": False,
            "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": not is_v2,
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": rfc3339_nano(time.time_ns()),
            "LoggingDriver": "json-file",
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if is_v2 else "1",
            "NEventsListener": services.events.listeners,
            "KernelVersion": uname.release,
            "OperatingSystem": _os_release().get("PRETTY_NAME", "Linux"),
            "OSVersion": _os_release().get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": uname.machine,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": registry_config(self._hosts),
            "NCPU": len(os.sched_getaffinity(0)),
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "GenericResources": None,
            "DockerRootDir": services.settings.data_root,
            "HttpProxy": proxies.shown("HTTP_PROXY"),
            "HttpsProxy": proxies.shown("HTTPS_PROXY"),
            "NoProxy": proxies.shown("NO_PROXY"),
            "Name": uname.nodename,
            "Labels": [],
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": runtimes,
            "DefaultRuntime": services.settings.default_runtime,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            "LiveRestoreEnabled": services.settings.live_restore,
            "Isolation": "",
            "InitBinary": os.path.basename(services.settings.init_path or ""),
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": ""},
            "InitCommit": {"ID": ""},
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            "Warnings": list(services.networks.warnings) or None,
        }

    def reloaded(self, settings: Mapping[str, str]) -> None:
        """The event of an engine that has read its configuration again."""
        attributes = {"name": os.uname().nodename, **settings}
        self._services.events.publish("daemon", "reload", self._id, attributes)

    async def disk_usage(self, types: Names) -> Json:
        """All sizes are those on disk (`disk_usage`). "ImagesReclaimable" beside what the API has: what pruning all unused images frees."""
        services = self._services
        wanted = set(types) or {"container", "image", "volume", "build-cache"}
        answer: Json = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None, "BuildCache": None}
        store = None
        if wanted & {"container", "image"}:
            users = Counter(container.record.image for container in services.containers.all())
            async with self._measuring:  # each layer is walked through once
                store = await disk_usage.measure_store(services.images, lambda image: users[image.id] > 0)
        if store is not None and "image" in wanted:
            answer["LayersSize"], answer["ImagesReclaimable"] = store.total, store.reclaimable
            answer["Images"] = [
                {
                    **image_json.summary(image),
                    "Containers": sum(users[variant.id] for variant in services.images.variants(image)),
                    "Size": store.images[image.id].size,
                    "SharedSize": store.images[image.id].shared,
                }
                for image in services.images.list()
                if image.id in store.images
            ]
        if store is not None and "container" in wanted:
            entries = []
            for container in services.containers.all():
                size = await thread_to_the_end(services.snapshots.container_disk_usage, container.id)
                below = sum(store.layers.get(chain_id, 0) for chain_id in services.snapshots.stands_on(container.id))
                entries.append({**inspect.summary(services, container), "SizeRw": size, "SizeRootFs": size + below})
            answer["Containers"] = entries
        if "volume" in wanted:
            answer["Volumes"] = await services.volumes.usage(self._volume_users())
        return answer

    def _volume_users(self) -> dict[str, int]:
        users: dict[str, int] = {}
        for container in self._services.containers.all():
            for point in container.record.mounts:
                if point.type == "volume":
                    users[point.name] = users.get(point.name, 0) + 1
        return users

    def events(
        self, *, since_ns: int | None, until_ns: int | None, filters: Mapping[str, Names]
    ) -> AsyncIterator[Json]:
        return self._services.events.listen(since_ns=since_ns, until_ns=until_ns, filters=filters)


def _engine_id(data_root: str) -> str:
    """A random id, kept in the data root."""
    path = os.path.join(data_root, "engine-id")
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        text = secrets.token_hex(16)
        with open(path, "w") as file:
            file.write(f"{text}\n")
        return text


def _can_limit_swap() -> bool:
    """v1 needs the kernel's swap accounting, which shows as a file; v2 always has it."""
    layout = cgroups.detect()
    memory = next((hierarchy for hierarchy in layout.v1 if "memory" in hierarchy.controllers), None)
    return memory is None or os.path.exists(os.path.join(memory.mountpoint, "memory.memsw.limit_in_bytes"))


def _go_arch(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(machine, machine)


def _reads(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _os_release() -> dict[str, str]:
    values = {}
    for line in _reads("/etc/os-release").splitlines():
        key, separator, value = line.partition("=")
        if separator:
            values[key] = value.strip().strip('"')
    return values
