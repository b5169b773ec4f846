"""The host's side of published ports: a socket bound for each, so that nobody else on the machine takes the port meanwhile.

Runs in wherryd, on its event loop. nftables carries the packets where it can; the sockets reserve, and `proxy` serves on them what nftables does not.

**Invariants**: a port is ours exactly as long as its socket is open; `reserve` gives all sockets of a request or none. The words of the errors are
Docker's, which clients look for.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from wherry.errors import Internal, InvalidArgument
from wherry.network.ports import PortRequest, PublishedPort

_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"
_DEFAULT_RANGE = range(32768, 61000)
_EVERYWHERE = (IPv4Address("0.0.0.0"), IPv6Address("::"))
_BACKLOG = 128


class PortUnavailable(Internal):
    """A host port cannot be had. Not a defect of wherry: the kind is what gives Docker's HTTP status, 500."""


@dataclass(frozen=True, slots=True)
class BoundPort:
    """A published port and the socket that holds it: listening (TCP) or bound (UDP), non-blocking, owned by the holder."""

    published: PublishedPort
    socket: socket.socket


class HostPorts:
    """The ports that this engine has published."""

    def __init__(self, default_ip: IPv4Address | None = None) -> None:
        self._default_ip = default_ip
        self._taken: dict[tuple[str, int], set[IPv4Address | IPv6Address]] = {}
        self._next_dynamic = 0

    def reserve(self, requests: Iterable[PortRequest], target: IPv4Address) -> list[BoundPort]:
        """Binds what is asked for, for a container with address `target`. PortUnavailable; then nothing is bound."""
        bound: list[BoundPort] = []
        try:
            for request in requests:
                bound += self._reserve_one(request, target)
        except BaseException:
            self.release(bound)
            raise
        return bound

    def reserve_again(self, published: PublishedPort, target: IPv4Address) -> BoundPort:
        """Exactly this one, for a container that runs already."""
        return self._bind(published, target)

    def release(self, bound: Iterable[BoundPort]) -> None:
        for item in bound:
            item.socket.close()
            self.forget(item.published)

    def forget(self, published: PublishedPort) -> None:
        """The port's socket is closed (its proxy closed it)."""
        key = (published.protocol, published.host_port)
        holders = self._taken.get(key, set())
        holders.discard(published.host_ip)
        if not holders:
            self._taken.pop(key, None)

    def _reserve_one(self, request: PortRequest, target: IPv4Address) -> list[BoundPort]:
        failure: PortUnavailable | None = None
        for host_port in self._candidates(request):
            try:
                return self._bind_everywhere(request, host_port, target)
            except PortUnavailable as error:
                failure = error
        raise failure or PortUnavailable("all ports are allocated")

    def _candidates(self, request: PortRequest) -> Iterator[int]:
        if request.host_ports is not None:
            yield from request.host_ports
            return
        ports = _dynamic_range()
        for _ in range(len(ports)):
            port = ports[self._next_dynamic % len(ports)]
            self._next_dynamic += 1
            yield port

    def _bind_everywhere(self, request: PortRequest, host_port: int, target: IPv4Address) -> list[BoundPort]:
        wished = request.host_ip or self._default_ip
        addresses: tuple[IPv4Address | IPv6Address, ...] = (wished,) if wished is not None else _EVERYWHERE
        bound: list[BoundPort] = []
        try:
            for host_ip in addresses:
                published = PublishedPort(request.port, request.protocol, host_ip, host_port)
                try:
                    bound.append(self._bind(published, target))
                except _NoSuchFamily:
                    if len(addresses) == 1:
                        raise
        except BaseException:
            self.release(bound)
            raise
        return bound

    def _bind(self, published: PublishedPort, target: IPv4Address) -> BoundPort:
        holders = self._taken.get((published.protocol, published.host_port), set())
        shown = f"[{published.host_ip}]" if published.host_ip.version == 6 else str(published.host_ip)
        shown = f"{shown}:{published.host_port}"
        if any(_overlap(published.host_ip, other) for other in holders):
            raise PortUnavailable(f"Bind for {shown} failed: port is already allocated")
        try:
            bound = _open(published)
        except OSError as error:
            kind = _NoSuchFamily if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) else PortUnavailable
            reason = os.strerror(error.errno or 0).lower()
            raise kind(
                f"failed to bind host port for {shown}:{target}:{published.port}/{published.protocol}: {reason}"
            ) from None
        self._taken.setdefault((published.protocol, published.host_port), set()).add(published.host_ip)
        return BoundPort(published, bound)


class _NoSuchFamily(PortUnavailable):
    """The host has no such address, or no IPv6 at all."""


def _open(published: PublishedPort) -> socket.socket:
    family = socket.AF_INET6 if published.host_ip.version == 6 else socket.AF_INET
    kind = socket.SOCK_STREAM if published.protocol == "tcp" else socket.SOCK_DGRAM
    opened = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not hold the port
        opened.bind((str(published.host_ip), published.host_port))
        if kind == socket.SOCK_STREAM:
            opened.listen(_BACKLOG)
    except BaseException:
        opened.close()
        raise
    return opened


def _overlap(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> bool:
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)


def _dynamic_range() -> range:
    """The kernel's range of ephemeral ports, as Docker takes it."""
    try:
        with open(_RANGE_FILE, encoding="ascii") as file:
            first, last = file.read().split()
        found = range(int(first), int(last) + 1)
    except (OSError, ValueError):
        return _DEFAULT_RANGE
    if not found or found[0] < 1 or found[-1] > 65535:
        raise InvalidArgument(f"{_RANGE_FILE} is not a range of ports: {found}")
    return found
