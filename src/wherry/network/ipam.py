"""Addresses: which subnet the default bridge gets, and which address the next container.

Runs in wherryd, on its event loop; pure data. **Invariant**: an address is given to one endpoint at a time, and as late as possible again: the next
one is looked for behind the last one given, so that a neighbour's memory of an old owner has time to fade.

Deliberately absent: IPv6, address ranges within the subnet, remote IPAM drivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument


def default_subnets() -> Iterator[IPv4Network]:
    """Docker's predefined pools, in its order: 172.17.0.0/16 … 172.31.0.0/16, then 192.168.0.0/20 …"""
    yield from (IPv4Network(f"172.{second}.0.0/16") for second in range(17, 32))
    yield from IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def choose_subnet(taken: Iterable[IPv4Network]) -> IPv4Interface:
    """The bridge's own address (the first host) in the first predefined subnet that overlaps none of `taken`."""
    taken = list(taken)
    for subnet in default_subnets():
        if not any(subnet.overlaps(other) for other in taken):
            return first_host(subnet)
    raise FailedPrecondition(
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
    )


def first_host(subnet: IPv4Network) -> IPv4Interface:
    return IPv4Interface((subnet.network_address + 1, subnet.prefixlen))


def parse_bridge_address(text: str) -> IPv4Interface:
    """The configured address of the bridge, "10.1.0.1/24". InvalidArgument when no container could have an address beside it."""
    try:
        interface = IPv4Interface(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid bridge address {text!r}: {error}") from None
    network = interface.network
    if network.prefixlen > 30 or interface.ip in (network.network_address, network.broadcast_address):
        raise InvalidArgument(
            f"invalid bridge address {text!r}: not a host's address in a subnet of at least two hosts"
        )
    return interface


def mac_of(address: IPv4Address) -> str:
    """The address as MAC, 02:42 and its four bytes, as Docker's default bridge does: an address used again keeps its MAC."""
    return (b"\x02\x42" + address.packed).hex(":")


class AddressPool:
    """The addresses of one subnet. `gateway` is the bridge's own."""

    def __init__(self, bridge: IPv4Interface) -> None:
        self.gateway = bridge.ip
        self.network = bridge.network
        self._first = int(self.network.network_address) + 1
        self._count = self.network.num_addresses - 2
        self._taken = {int(bridge.ip)}
        self._next = 0

    def take(self) -> IPv4Address:
        """The next free address. FailedPrecondition when the subnet is full."""
        for step in range(self._count):
            offset = (self._next + step) % self._count
            if self._first + offset not in self._taken:
                self._taken.add(self._first + offset)
                self._next = offset + 1
                return IPv4Address(self._first + offset)
        raise FailedPrecondition("no available IPv4 addresses on this network's address pools: bridge")

    def reserve(self, address: IPv4Address) -> None:
        """Marks an address that a running container has. AlreadyExists when another has it, InvalidArgument outside the subnet."""
        if not self._first <= int(address) < self._first + self._count:
            raise InvalidArgument(f"address {address} is not in {self.network}")
        if int(address) in self._taken:
            raise AlreadyExists(f"address {address} is in use")
        self._taken.add(int(address))

    def free(self, address: IPv4Address) -> None:
        if address != self.gateway:
            self._taken.discard(int(address))
