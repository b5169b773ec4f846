"""All routes of the Engine API: the contents page of this package."""

from __future__ import annotations

from wherry.api import unimplemented
from wherry.api.backend import Backends
from wherry.api.container_files import ContainerFileRoutes
from wherry.api.container_streams import ContainerStreamRoutes
from wherry.api.containers import ContainerRoutes
from wherry.api.execs import ExecRoutes
from wherry.api.images import ImageRoutes
from wherry.api.networks import NetworkRoutes
from wherry.api.plugins import PluginRoutes
from wherry.api.registries import RegistryRoutes
from wherry.api.router import Route
from wherry.api.server import Api
from wherry.api.system import SystemRoutes
from wherry.api.volumes import VolumeRoutes


def all_routes(backends: Backends) -> list[Route]:
    return [
        *SystemRoutes(backends.system).table(),
        *ContainerRoutes(backends.containers).table(),
        *ContainerFileRoutes(backends.containers).table(),
        *ContainerStreamRoutes(backends.containers).table(),
        *ExecRoutes(backends.execs).table(),
        *ImageRoutes(backends.images).table(),
        *NetworkRoutes(backends.networks).table(),
        *VolumeRoutes(backends.volumes).table(),
        *RegistryRoutes(backends.registries).table(),
        *PluginRoutes().table(),
        *unimplemented.table(),
    ]


def build_api(backends: Backends) -> Api:
    """The HTTP application; `.server()` is the protocol factory for each socket."""
    return Api(backends, all_routes(backends))
