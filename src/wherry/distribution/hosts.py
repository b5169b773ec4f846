"""Which registry is spoken to how: with TLS, with TLS that is not verified, or in the clear. Pure.

**Invariant**: the decision rests on what the user wrote (the reference) and on the configuration alone, never on what a name resolves to: a
name server must not be able to switch TLS off.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from wherry.errors import InvalidArgument
from wherry.spec.reference import DEFAULT_DOMAIN

_HUB = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`base`: scheme and host, without a slash at the end. `verify`: whether the certificate counts."""

    base: str
    verify: bool


class RegistryHosts:
    """`insecure`: the daemon's `insecure-registries`, each HOST, HOST:PORT or an address range in CIDR notation.

    The loopback addresses and "localhost" are insecure without being listed, as in Docker.
    """

    def __init__(self, insecure: Iterable[str] = ()) -> None:
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [
            ipaddress.ip_network("127.0.0.0/8"),
            ipaddress.ip_network("::1/128"),
        ]
        for entry in insecure:
            if "://" in entry:
                raise InvalidArgument(f"insecure registry {entry} should not contain '://'")
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if not entry or "/" in entry:
                    raise InvalidArgument(f"insecure registry {entry} is not valid: invalid host") from None
                self._names.add(entry)

    def endpoints(self, domain: str) -> list[Endpoint]:
        """What to try, in order, for a reference's domain."""
        host = _HUB if domain == DEFAULT_DOMAIN else domain
        if not self.is_insecure(domain):
            return [Endpoint(f"https://{host}", verify=True)]
        return [Endpoint(f"https://{host}", verify=False), Endpoint(f"http://{host}", verify=False)]

    def is_insecure(self, domain: str) -> bool:
        host = host_of(domain)
        if domain in self._names or host in self._names or host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return any(address in network for network in self._networks if network.version == address.version)


def host_of(domain: str) -> str:
    """Without the port."""
    host, colon, port = domain.rpartition(":")
    return host if colon and port.isdigit() else domain
