"""What the engine stands on: handed in once by the composition root, used by every part of the engine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from wherry.core.admission import Admission
from wherry.core.db import Database
from wherry.core.images import Images
from wherry.core.snapshots import Snapshots
from wherry.core.tasks import Tasks
from wherry.engine.background import Background
from wherry.engine.events import Events
from wherry.engine.store import ContainerStore
from wherry.network import Networks
from wherry.volumes import Volumes
from wherry.wire.engine import Ulimit

DEFAULT_RUNTIME = "wherry"


@dataclass(frozen=True, slots=True)
class Settings:
    """The daemon's settings that container semantics depend on."""

    data_root: str
    exec_root: str
    cgroup_parent: str
    runtimes: dict[str, str] = field(default_factory=dict)
    """Name → path of an external OCI runtime; the built-in one has no entry."""
    default_runtime: str = DEFAULT_RUNTIME
    init_path: str | None = None
    default_ulimits: tuple[Ulimit, ...] = ()
    live_restore: bool = False
    hosts: tuple[str, ...] = ()

    def container_dir(self, id: str) -> str:
        """Logs and the files mounted over /etc/hosts and its kin."""
        return os.path.join(self.data_root, "containers", id)


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    database: Database
    images: Images
    admission: Admission
    snapshots: Snapshots
    tasks: Tasks
    networks: Networks
    volumes: Volumes
    events: Events
    background: Background
    containers: ContainerStore
