"""Published ports as data: what was asked for, what was given, and the JSON of both.

Runs in wherryd; pure. The shapes are the Engine API's `PortBindings` and `NetworkSettings.Ports`. `host_ports` binds the host's side.

Deliberately absent: SCTP (refused by name), ranges on the container's side (clients expand them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol

from wherry import errors
from wherry.errors import InvalidArgument

PROTOCOLS = ("tcp", "udp")


class Binding(Protocol):
    """`wire.engine.PortBinding`, as far as it is read here."""

    @property
    def host_ip(self) -> str: ...
    @property
    def host_port(self) -> str: ...


@dataclass(frozen=True, slots=True)
class PortRequest:
    """`host_ip` None: all of the host's addresses, IPv4 and IPv6. `host_ports`: the first free one of this range; None: any free port."""

    port: int
    protocol: str
    host_ip: IPv4Address | IPv6Address | None = None
    host_ports: range | None = None


@dataclass(frozen=True, slots=True)
class PublishedPort:
    port: int
    protocol: str
    host_ip: IPv4Address | IPv6Address
    host_port: int

    def saved(self) -> dict[str, Any]:
        return {
            "port": self.port,
            "protocol": self.protocol,
            "host_ip": str(self.host_ip),
            "host_port": self.host_port,
        }

    @staticmethod
    def from_saved(saved: Mapping[str, Any]) -> PublishedPort:
        """KeyError, ValueError when damaged."""
        if saved["protocol"] not in PROTOCOLS:
            raise ValueError(saved["protocol"])
        return PublishedPort(
            _port_number(saved["port"]),
            saved["protocol"],
            ip_address(saved["host_ip"]),
            _port_number(saved["host_port"]),
        )


def parse_port(key: str) -> tuple[int, str]:
    """(80, "tcp") of "80/tcp" or "80". InvalidArgument."""
    number, _, protocol = key.partition("/")
    protocol = (protocol or "tcp").lower()
    if protocol not in (*PROTOCOLS, "sctp"):
        raise InvalidArgument(f"invalid port specification: {key!r}: unknown protocol")
    try:
        return _port_number(number), protocol
    except ValueError:
        raise InvalidArgument(f"invalid port specification: {key!r}") from None


def port_requests(
    bindings: Mapping[str, Iterable[Binding] | None] | None, exposed: Iterable[str] = (), *, publish_all: bool = False
) -> tuple[PortRequest, ...]:
    """What `PortBindings`, and with `publish_all` the exposed ports without a binding, ask for. InvalidArgument, NotImplemented."""
    requests = []
    bound = set()
    for key, wishes in (bindings or {}).items():
        port, protocol = parse_port(key)
        for wish in wishes or ():
            bound.add((port, protocol))
            requests.append(_request(key, port, protocol, wish))
    if publish_all:
        unbound = sorted({parse_port(key) for key in exposed} - bound)
        requests += [_publishable(f"{port}/{protocol}", PortRequest(port, protocol)) for port, protocol in unbound]
    return tuple(requests)


def ports_json(published: Iterable[PublishedPort], exposed: Iterable[str] = ()) -> dict[str, Any]:
    """`NetworkSettings.Ports`: null for a port that is exposed only."""
    answer: dict[str, Any] = {}
    for key in exposed:
        port, protocol = parse_port(key)
        answer[f"{port}/{protocol}"] = None
    for item in published:
        key = f"{item.port}/{item.protocol}"
        answer[key] = (answer.get(key) or []) + [{"HostIp": str(item.host_ip), "HostPort": str(item.host_port)}]
    return answer


def ports_summary(published: Iterable[PublishedPort], exposed: Iterable[str] = ()) -> list[dict[str, Any]]:
    """`Ports` of the list of containers."""
    answer: list[dict[str, Any]] = []
    shown = set()
    for item in published:
        shown.add((item.port, item.protocol))
        answer.append(
            {"IP": str(item.host_ip), "PrivatePort": item.port, "PublicPort": item.host_port, "Type": item.protocol}
        )
    rest = sorted({parse_port(key) for key in exposed} - shown)
    return answer + [{"PrivatePort": port, "Type": protocol} for port, protocol in rest]


def _request(key: str, port: int, protocol: str, wish: Binding) -> PortRequest:
    host_ip = None
    if wish.host_ip:
        try:
            host_ip = ip_address(wish.host_ip.strip("[]"))
        except ValueError:
            raise InvalidArgument(f"invalid host IP address of port {key}: {wish.host_ip!r}") from None
    first, dash, last = wish.host_port.partition("-")
    host_ports = None
    if wish.host_port not in ("", "0"):
        try:
            host_ports = range(_port_number(first), _port_number(last if dash else first) + 1)
        except ValueError:
            raise InvalidArgument(f"invalid port specification: {wish.host_port!r}") from None
        if not host_ports:
            raise InvalidArgument(f"invalid port specification: {wish.host_port!r}: the range ends before it begins")
    return _publishable(key, PortRequest(port, protocol, host_ip, host_ports))


def _publishable(key: str, request: PortRequest) -> PortRequest:
    if request.protocol not in PROTOCOLS:
        raise errors.NotImplemented(f"port {key}: publishing {request.protocol} ports is not supported")
    return request


def _port_number(value: object) -> int:
    number = (
        int(value) if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()) else 0
    )
    if not 0 < number < 65536:
        raise ValueError(value)
    return number
