"""The storage drivers there are, and which one a data root gets."""

from __future__ import annotations

import os

from wherry.core.drivers.driver import Driver
from wherry.core.drivers.erofs import Erofs
from wherry.core.drivers.flat import Btrfs, Vfs
from wherry.core.drivers.fuse_overlayfs import FuseOverlayfs
from wherry.core.drivers.overlay import Overlay
from wherry.errors import FailedPrecondition

DRIVERS: dict[str, type[Driver]] = {driver.name: driver for driver in (Overlay, FuseOverlayfs, Btrfs, Vfs, Erofs)}
"""By name, the best first; vfs lives everywhere, so what follows it is chosen by name only."""


def choose_driver(directory: str, name: str | None) -> Driver:
    """The driver of that name; without one the best that can live in the directory. FailedPrecondition when it cannot, in dockerd's words."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if name is not None:
        if name not in DRIVERS:
            raise FailedPrecondition(f"error initializing graphdriver: driver not supported: {name}")
        driver = DRIVERS[name]()
        driver.probe(directory)
        return driver
    for kind in DRIVERS.values():
        driver = kind()
        try:
            driver.probe(directory)
        except FailedPrecondition:
            continue
        return driver
    raise FailedPrecondition("error initializing graphdriver: no supported storage driver found")
