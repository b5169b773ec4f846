"""A container's root file system as data: what the engine asks of the snapshots, and the shim mounts in its own mount namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverlayRoot:
    lower: Sequence[str]
    """Topmost first."""
    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class FuseOverlayRoot:
    """As `OverlayRoot`, served by fuse-overlayfs."""

    lower: Sequence[str]
    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class ErofsRoot:
    """As `OverlayRoot`; all but the first of `lower` hold an erofs image and the tar that its files lie in (`mounts.open_erofs`)."""

    lower: Sequence[str]
    upper: str
    work: str


@dataclass(frozen=True, slots=True)
class BindRoot:
    """A directory that holds the whole tree."""

    path: str


Root = OverlayRoot | FuseOverlayRoot | ErofsRoot | BindRoot
