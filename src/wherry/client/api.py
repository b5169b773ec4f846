"""`Client`: the Engine API by resource."""

from __future__ import annotations

from .address import from_environment, parse
from .session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .address import Tls
    from .containers import Containers
    from .images import Images
    from .registries import Registries
    from .system import System
    from .volumes import Networks, Volumes


class Client:
    """A client of one engine, for one thread. No connection is made before the first call.

    `host` is an engine's address (`unix:///run/wherry.sock`, `tcp://host:2376` …); without it WHERRY_HOST and DOCKER_HOST say where the engine is.
    """

    def __init__(self, host: str | None = None, *, tls: Tls | None = None, api_version: str | None = None) -> None:
        self.session = Session(parse(host, tls) if host else from_environment(), api_version=api_version)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.session.close()

    @property
    def containers(self) -> Containers:
        from .containers import Containers

        return Containers(self.session)

    @property
    def images(self) -> Images:
        from .images import Images

        return Images(self.session)

    @property
    def volumes(self) -> Volumes:
        from .volumes import Volumes

        return Volumes(self.session)

    @property
    def networks(self) -> Networks:
        from .volumes import Networks

        return Networks(self.session)

    @property
    def registries(self) -> Registries:
        from .registries import Registries

        return Registries(self.session)

    @property
    def system(self) -> System:
        from .system import System

        return System(self.session)
