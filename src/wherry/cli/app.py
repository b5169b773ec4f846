"""What a verb is given: the engine's client, the streams, the settings of the command line as a whole."""

from __future__ import annotations

import os

from wherry.client.errors import ConnectionFailed
from wherry.client.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.address import Address
    from wherry.client.containers import Containers
    from wherry.client.images import Images
    from wherry.client.registries import Registries
    from wherry.client.system import System
    from wherry.client.volumes import Networks, Volumes


class App:
    """One invocation. The session connects when first used, starting the engine if that is allowed."""

    def __init__(
        self, address: Address, *, debug: bool = False, config_folder: str = "", autostart: bool = False
    ) -> None:
        self.address = address
        self.debug = debug
        self.config_folder = config_folder
        self._autostart = autostart
        self._session: Session | None = None
        self.path = ""
        """The verb as it was typed: "container ls"."""

    # -- the engine ------------------------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session of the main thread."""
        if self._session is None:
            if self._autostart:
                self._ensure_engine()
            self._session = Session(self.address)
        return self._session

    def another_session(self) -> Session:
        """A session of its own, for a signal handler or a thread."""
        return Session(self.address)

    def _ensure_engine(self) -> None:
        try:
            self.address.connect().close()
        except ConnectionFailed as error:
            if not error.refused:
                raise
            from .autostart import start_engine

            start_engine(self)

    @property
    def containers(self) -> Containers:
        from wherry.client.containers import Containers

        return Containers(self.session)

    @property
    def images(self) -> Images:
        from wherry.client.images import Images

        return Images(self.session)

    @property
    def volumes(self) -> Volumes:
        from wherry.client.volumes import Volumes

        return Volumes(self.session)

    @property
    def networks(self) -> Networks:
        from wherry.client.volumes import Networks

        return Networks(self.session)

    @property
    def registries(self) -> Registries:
        from wherry.client.registries import Registries

        return Registries(self.session)

    @property
    def system(self) -> System:
        from wherry.client.system import System

        return System(self.session)

    # -- the streams -----------------------------------------------------------------------------------------------------------------------

    def out(self, text: str) -> None:
        """Text to stdout, as it is."""
        write_all(1, text.encode("utf-8", "surrogateescape"))

    def err(self, text: str) -> None:
        write_all(2, text.encode("utf-8", "surrogateescape"))

    def log(self, text: str) -> None:
        """A line for `--debug`."""
        if self.debug:
            self.err(f"wherry: debug: {text}\n")


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of `data`, however many writes it takes; also to a descriptor that someone has made non-blocking."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            from select import POLLOUT, poll

            ready = poll()
            ready.register(fd, POLLOUT)
            ready.poll()
