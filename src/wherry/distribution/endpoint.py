"""One place at which a registry, or a mirror of it, is reached."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

HUB = "registry-1.docker.io"
"""Where docker.io is."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`base`: scheme and host, without a slash at the end. `tls`: verified (True), not verified (False), or verified by that context.
    `prefix`: where the API is below it. `headers` go with every request to it. A `mirror` gets none of the registry's credentials."""

    base: str
    tls: bool | ssl.SSLContext = True
    prefix: str = "/v2"
    headers: Mapping[str, str] = field(default_factory=dict)
    mirror: bool = False
    may_pull: bool = True
    may_push: bool = True
    may_resolve: bool = True
    """Whether it is believed what a tag stands for; a digest needs no belief."""
