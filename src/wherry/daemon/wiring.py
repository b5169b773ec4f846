"""The composition root: which parts the engine is made of, in which order they open, and in which they close.

The only module that knows every part. **Invariant**: a part is opened after all it stands on and closed before them; requests are answered only when
the containers of an earlier engine have been adopted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from wherry.api.backend import Backends
from wherry.core.admission import Admission
from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.drivers import choose_driver
from wherry.core.images import Images
from wherry.core.snapshots import Snapshots, driver_of
from wherry.core.tasks import ExitEvent, Tasks
from wherry.daemon.config import Config, changed
from wherry.daemon.roots import instance_of
from wherry.daemon.serve import RunningEngine
from wherry.distribution.hosts import RegistryHosts
from wherry.engine.background import Background
from wherry.engine.containers import Containers
from wherry.engine.events import Events
from wherry.engine.images import ImageObjects
from wherry.engine.objects import NetworkObjects, VolumeObjects
from wherry.engine.registries import Registries
from wherry.engine.services import Services, Settings
from wherry.engine.store import ContainerStore
from wherry.engine.system import System
from wherry.linux import cgroups
from wherry.network import BridgeConfig, Networks
from wherry.volumes import Volumes

log = logging.getLogger("wherry.daemon")

_RELOADED = (
    "insecure_registries",
    "registry_mirrors",
    "max_concurrent_downloads",
    "max_concurrent_uploads",
    "max_download_attempts",
    "trust",
)


@asynccontextmanager
async def compose(config: Config) -> AsyncIterator[RunningEngine]:
    """The engine, open; closed at the end. FailedPrecondition when this machine cannot have one."""
    cgroups.detect()
    instance = instance_of(config.data_root)
    async with AsyncExitStack() as stack:
        database = Database(os.path.join(config.data_root, "wherry.db"))
        stack.callback(database.close)
        snapshots_root = os.path.join(config.data_root, "snapshots")
        driver = choose_driver(snapshots_root, config.storage_driver or driver_of(snapshots_root))
        snapshots = Snapshots(snapshots_root, database, driver)
        images = Images(Content(os.path.join(config.data_root, "content")), snapshots, database)
        await snapshots.open()
        await images.open()
        volumes = Volumes(config.data_root, database)
        await volumes.open()
        bridge = BridgeConfig(address=config.bip, mtu=config.mtu, host_ip=config.ip)
        networks = Networks(exec_root=config.exec_root, instance=instance, db=database, config=bridge)
        await networks.open()
        stack.push_async_callback(networks.close)

        def on_exit(event: ExitEvent) -> None:
            containers.on_exit(event)

        stack.callback(_remove_cgroup_parent, _settings(config, instance).cgroup_parent)
        tasks = Tasks(config.exec_root, on_exit, log.warning)
        await tasks.open()
        stack.push_async_callback(tasks.close)
        _raise_file_limit()
        background = Background()
        stack.push_async_callback(background.drain)
        store = ContainerStore(database)
        admission = Admission(images, config.trust)
        services = Services(
            settings=_settings(config, instance),
            database=database,
            images=images,
            admission=admission,
            snapshots=snapshots,
            tasks=tasks,
            networks=networks,
            volumes=volumes,
            events=Events(),
            background=background,
            containers=store,
        )
        hosts = RegistryHosts(config.insecure_registries, config.registry_mirrors)
        image_objects = ImageObjects(services, hosts)
        stack.push_async_callback(image_objects.close)
        _limit(image_objects, config)
        containers = Containers(services, image_objects.committer)
        store.load()
        await snapshots.keep_only({container.id: images.top_of(container.record.image) for container in store.all()})
        await containers.lifecycle.restore()
        await networks.settle()
        system = System(services, hosts)
        backends = Backends(
            containers=containers,
            execs=containers.execs,
            images=image_objects,
            networks=NetworkObjects(services),
            volumes=VolumeObjects(services),
            registries=Registries(hosts),
            system=system,
        )

        def reload(new: Config) -> None:
            admission.renew(new.trust)
            hosts.renew(new.insecure_registries, new.registry_mirrors)
            _limit(image_objects, new)
            system.reloaded(
                {
                    "insecure-registries": json.dumps(new.insecure_registries),
                    "registry-mirrors": json.dumps(new.registry_mirrors),
                    "max-concurrent-downloads": str(new.max_concurrent_downloads),
                    "max-concurrent-uploads": str(new.max_concurrent_uploads),
                    "max-download-attempts": str(new.max_download_attempts),
                    "trust-policy": new.trust.path if new.trust else "",
                }
            )
            if kept := [name for name in changed(config, new) if name not in _RELOADED]:
                log.warning("the new %s will take effect when wherryd is restarted", ", ".join(kept))

        yield RunningEngine(backends, lambda: _stop(config, containers, services), reload)


def _limit(images: ImageObjects, config: Config) -> None:
    images.limit(
        downloads=config.max_concurrent_downloads,
        uploads=config.max_concurrent_uploads,
        attempts=config.max_download_attempts,
    )


async def _stop(config: Config, containers: Containers, services: Services) -> None:
    if config.live_restore:
        containers.lifecycle.close()
        return
    try:
        async with asyncio.timeout(_shutdown_seconds(config, services)):
            await containers.lifecycle.stop_all()
    except TimeoutError:
        log.warning("containers did not stop in time; they run on, and the next engine takes them over")


def _remove_cgroup_parent(path: str) -> None:
    """The group that all containers' groups were in; it stays while some still run."""
    directories = set(cgroups.open_group(path).paths.values())
    unified = cgroups.detect().unified
    if unified is not None:  # beside v1 hierarchies wherry does not use it, but an external runtime does
        directories.add(os.path.join(unified.mountpoint, path.strip("/")))
    for directory in directories:
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _shutdown_seconds(config: Config, services: Services) -> float | None:
    """As dockerd: the shutdown timeout, or the longest that a container asks for and five seconds; for ever if one asks for that."""
    if config.shutdown_timeout < 0:
        return None
    seconds = config.shutdown_timeout
    for container in services.containers.all():
        wanted = container.record.config.stop_timeout if container.is_running else None
        if wanted is not None and wanted < 0:
            return None
        seconds = max(seconds, (wanted or 0) + 5)
    return seconds


def _settings(config: Config, instance: str) -> Settings:
    return Settings(
        data_root=config.data_root,
        exec_root=config.exec_root,
        cgroup_parent=f"/wherry-{instance}" if instance else "/wherry",
        runtimes=_installed("runc", "crun") | dict(config.runtimes),
        default_runtime=config.default_runtime,
        init_path=config.init_path or next(iter(_installed("docker-init", "tini-static").values()), None),
        default_ulimits=config.default_ulimits,
        live_restore=config.live_restore,
        hosts=config.hosts,
    )


def _installed(*names: str) -> dict[str, str]:
    """Where the programs of these names are, those that there are."""
    return {name: path for name in names if (path := shutil.which(name))}


def _raise_file_limit() -> None:
    """Connections and pidfds are many. The zygote has been started before this: containers keep the limits that the engine was started with."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
