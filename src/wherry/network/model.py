"""What connects the engine to its networks: the request, the endpoint that answers it, and the form in which the engine saves it.

Runs in wherryd; frozen data. `Endpoint.saved` is JSON; `Networks.restore` takes it back after a restart of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from wherry.errors import InvalidArgument
from wherry.network.ports import PortRequest, PublishedPort

Json = dict[str, Any]
DEFAULT_MTU = 1500


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """How the default bridge is to be. `address` None: the first predefined subnet that is free. `pool_size`: namespaces kept ready."""

    address: IPv4Interface | None = None
    mtu: int = DEFAULT_MTU
    host_ip: IPv4Address | None = None
    """Where ports are published when the request names no address; None: everywhere."""
    pool_size: int = 4
    use_nftables: bool = True


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """`name` is the container's, for error messages; `mac` "" for the one that follows from the address."""

    name: str
    ports: tuple[PortRequest, ...] = ()
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on the default bridge.

    `netns_fd` belongs to `Networks` and is valid until `disconnect`. `host_link` is the veth's name in the host's namespace.
    """

    container_id: str
    name: str
    network_id: str
    endpoint_id: str
    sandbox_id: str
    netns_fd: int = field(compare=False)
    address: IPv4Address
    prefix: int
    gateway: IPv4Address
    mac: str
    host_link: str
    ports: tuple[PublishedPort, ...] = ()

    def saved(self) -> Json:
        """All of it but the descriptor, as JSON."""
        return {
            "container_id": self.container_id,
            "name": self.name,
            "network_id": self.network_id,
            "endpoint_id": self.endpoint_id,
            "sandbox_id": self.sandbox_id,
            "address": str(self.address),
            "prefix": self.prefix,
            "gateway": str(self.gateway),
            "mac": self.mac,
            "host_link": self.host_link,
            "ports": [port.saved() for port in self.ports],
        }

    @staticmethod
    def from_saved(saved: Mapping[str, Any], netns_fd: int) -> Endpoint:
        """InvalidArgument when it is not what `saved` gave."""
        try:
            texts = {
                key: str(saved[key])
                for key in ("container_id", "name", "network_id", "endpoint_id", "sandbox_id", "mac", "host_link")
            }
            return Endpoint(
                **texts,
                netns_fd=netns_fd,
                address=IPv4Address(saved["address"]),
                prefix=int(saved["prefix"]),
                gateway=IPv4Address(saved["gateway"]),
                ports=tuple(PublishedPort.from_saved(port) for port in saved["ports"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(f"a saved endpoint is damaged: {error!r}") from None

    def network_settings(self) -> Json:
        """The container's entry under `NetworkSettings.Networks.bridge`."""
        return {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": None,
            "MacAddress": self.mac,
            "DriverOpts": None,
            "GwPriority": 0,
            "NetworkID": self.network_id,
            "EndpointID": self.endpoint_id,
            "Gateway": str(self.gateway),
            "IPAddress": str(self.address),
            "IPPrefixLen": self.prefix,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": None,
        }

    def summary(self) -> Json:
        """The container's entry under `Containers` of the network's own description."""
        return {
            "Name": self.name,
            "EndpointID": self.endpoint_id,
            "MacAddress": self.mac,
            "IPv4Address": f"{self.address}/{self.prefix}",
            "IPv6Address": "",
        }
