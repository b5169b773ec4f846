"""The three predefined networks, bridge, host and none: their ids, which last, and their description in Docker's JSON.

Runs in wherryd. The ids are rows of the engine's database; everything else about a predefined network follows from the configuration.

Deliberately absent: user-defined networks.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Interface
from typing import Any, Protocol, TypeVar

from wherry.errors import InvalidArgument, NotFound

T = TypeVar("T")
Json = dict[str, Any]
PREDEFINED = ("bridge", "host", "none")
_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}
_SCHEMA = "create table if not exists networks (name text primary key, id text not null unique, created text not null)"


class Database(Protocol):
    """`core.db.Database`, as far as it is used here."""

    async def run(self, transaction: Callable[[sqlite3.Connection], T]) -> T: ...


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """What the description of the bridge network tells."""

    link: str
    address: IPv4Interface
    mtu: int
    host_ip: str


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    id: str
    created: str


class Catalog:
    """Names and ids. `open` first."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._rows: dict[str, _Row] = {}

    async def open(self) -> None:
        self._rows = await self._db.run(_load)

    def id(self, name: str) -> str:
        return self._rows[name].id

    def resolve(self, ref: str) -> str:
        """The name of the network that a name, an id or a unique beginning of an id means. NotFound, InvalidArgument."""
        if ref in self._rows:
            return ref
        found = [row.name for row in self._rows.values() if ref and row.id.startswith(ref)]
        if len(found) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {ref} not found")
        return found[0]

    def describe(self, name: str, bridge: BridgeFacts | None, containers: Mapping[str, Json]) -> Json:
        """One network as GET /networks/{id} gives it. `containers`: endpoint summaries by container id."""
        row = self._rows[name]
        config: list[Json] = []
        options: dict[str, str] = {}
        if name == "bridge" and bridge is not None:
            config = [{"Subnet": str(bridge.address.network), "Gateway": str(bridge.address.ip)}]
            options = {
                "com.docker.network.bridge.default_bridge": "true",
                "com.docker.network.bridge.enable_icc": "true",
                "com.docker.network.bridge.enable_ip_masquerade": "true",
                "com.docker.network.bridge.host_binding_ipv4": bridge.host_ip,
                "com.docker.network.bridge.name": bridge.link,
                "com.docker.network.driver.mtu": str(bridge.mtu),
            }
        return {
            "Name": row.name,
            "Id": row.id,
            "Created": row.created,
            "Scope": "local",
            "Driver": _DRIVERS[name],
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": config},
            "Internal": False,
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": dict(containers),
            "Options": options,
            "Labels": {},
        }


def _load(connection: sqlite3.Connection) -> dict[str, _Row]:
    connection.execute(_SCHEMA)
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    for name in PREDEFINED:
        connection.execute("insert or ignore into networks values (?, ?, ?)", (name, secrets.token_hex(32), created))
    return {
        name: _Row(name, id, made) for name, id, made in connection.execute("select name, id, created from networks")
    }
