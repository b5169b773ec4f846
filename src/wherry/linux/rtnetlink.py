"""Links, addresses and routes of a network namespace, by rtnetlink(7).

Runs in wherryd and in the runtime. `Interfaces` holds one socket and, with it, the namespace of the thread that made it. Every call is one request,
done or refused when it returns; NetlinkError names the interface and carries the kernel's own words.

Deliberately absent: IPv6 addresses and routes (the default bridge has none), link types other than bridge and veth, traffic control.
"""

from __future__ import annotations

import struct

from wherry.errors import InvalidArgument
from wherry.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv4Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTNLGRP_LINK = 1
_AF_INET, _AF_BRIDGE, _AF_INET6 = 2, 7, 10
_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_GROUP, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 27, 26, 28
_IFLA_PROTINFO, _IFLA_BRPORT_MODE = 12, 4
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_RT_TABLE_MAIN, _RTPROT_BOOT, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST = 254, 3, 0, 253, 1
_IFINFO = struct.Struct("=BxHiII")  # family, hardware type, index, flags, mask of changed flags
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NAME_LIMIT = 15


def check_name(name: str) -> str:
    """The name, if the kernel would take it for an interface. InvalidArgument otherwise."""
    if (
        not name
        or len(name.encode()) > _NAME_LIMIT
        or name in (".", "..")
        or any(c in "/:" or c.isspace() or c == "\0" for c in name)
    ):
        raise InvalidArgument(f"invalid interface name: {name!r}")
    return name


def mac_bytes(mac: str) -> bytes:
    """Six bytes of "02:42:ac:11:00:02". InvalidArgument when it is anything else, or a group address."""
    try:
        value = bytes.fromhex(mac.replace(":", "").replace("-", ""))
    except ValueError:
        value = b""
    if len(value) != 6 or len(mac) != 17 or value[0] & 1:
        raise InvalidArgument(f"invalid MAC address: {mac}")
    return value


class Link:
    """An interface. `kind` is "" for hardware; `master` is the index of the bridge it is attached to, or 0."""

    __slots__ = ("group", "index", "kind", "mac", "master", "mtu", "name", "up")

    def __init__(self, body: bytes) -> None:
        _family, _type, self.index, flags, _mask = _IFINFO.unpack_from(body)
        fields = attributes(body[_IFINFO.size :])
        info = attributes(fields.get(_IFLA_LINKINFO, b""))
        self.name = text(fields.get(_IFLA_IFNAME, b""))
        self.kind = text(info.get(_IFLA_INFO_KIND, b""))
        self.up = bool(flags & _IFF_UP)
        self.master = _u32(fields.get(_IFLA_MASTER))
        self.group = _u32(fields.get(_IFLA_GROUP))
        self.mac = fields.get(_IFLA_ADDRESS, b"").hex(":")
        self.mtu = _u32(fields.get(_IFLA_MTU))


class Interfaces:
    """The interfaces of the namespace in which the calling thread is. Use it with `with`, or close it."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()

    def __enter__(self) -> Interfaces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    # ---- links

    def links(self) -> list[Link]:
        """All interfaces."""
        return [Link(body) for body in self._netlink.dump(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), subject="links")]

    def link(self, name: str) -> Link:
        """NetlinkError (ENODEV) when there is none of that name."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, check_name(name))
        return Link(self._netlink.request(RTM_GETLINK, 0, body, subject=f"link {name}")[0])

    def add_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        """A bridge, down. EEXIST when the name is taken."""
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + attribute(_IFLA_IFNAME, check_name(name))
            + attribute(_IFLA_ADDRESS, mac_bytes(mac))
            + attribute(_IFLA_MTU, mtu)
            + nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, "bridge"))
        )
        self._netlink.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, subject=f"bridge {name}")

    def add_veth(
        self,
        name: str,
        *,
        mtu: int,
        master: int,
        group: int,
        peer: str,
        peer_index: int,
        peer_mac: str,
        netns_fd: int,
        hairpin: bool = False,
    ) -> None:
        """A pair: `name` here, attached to the bridge `master` and up; `peer` born inside the namespace and down.

        `hairpin`: the bridge may send a frame back through the port by which it came.
        """
        peer_body = (
            _IFINFO.pack(0, 0, peer_index, 0, 0)
            + attribute(_IFLA_IFNAME, check_name(peer))
            + attribute(_IFLA_ADDRESS, mac_bytes(peer_mac))
            + attribute(_IFLA_MTU, mtu)
            + attribute(_IFLA_NET_NS_FD, netns_fd)
        )
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + attribute(_IFLA_IFNAME, check_name(name))
            + attribute(_IFLA_MTU, mtu)
            + attribute(_IFLA_GROUP, group)
            + nested(
                _IFLA_LINKINFO,
                attribute(_IFLA_INFO_KIND, "veth"),
                nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, peer_body)),
            )
        )
        self._netlink.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, subject=f"veth {name}")
        body = (  # the kernel takes no address-generation mode at creation, and a device that is up has its address already
            _IFINFO.pack(0, 0, 0, _IFF_UP, _IFF_UP)
            + attribute(_IFLA_IFNAME, name)
            + attribute(_IFLA_MASTER, master)
            + _NO_LINK_LOCAL
        )
        self._netlink.request(RTM_NEWLINK, 0, body, subject=f"veth {name}")
        if hairpin:
            index = self.link(name).index
            body = _IFINFO.pack(_AF_BRIDGE, 0, index, 0, 0) + nested(
                _IFLA_PROTINFO, attribute(_IFLA_BRPORT_MODE, b"\1")
            )
            self._netlink.request(RTM_SETLINK, 0, body, subject=f"bridge port {name}")

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        name: str | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        master: int | None = None,
        group: int | None = None,
    ) -> None:
        """Changes what is given. Renaming needs the link down on kernels before 6.0."""
        body = _IFINFO.pack(0, 0, index, _IFF_UP if up else 0, 0 if up is None else _IFF_UP)
        if name is not None:
            body += attribute(_IFLA_IFNAME, check_name(name))
        if mac is not None:
            body += attribute(_IFLA_ADDRESS, mac_bytes(mac))
        for kind, value in ((_IFLA_MTU, mtu), (_IFLA_MASTER, master), (_IFLA_GROUP, group)):
            if value is not None:
                body += attribute(kind, value)
        self._netlink.request(RTM_NEWLINK, 0, body, subject=f"link {name or index}")

    def delete_link(self, name: str) -> None:
        """With a veth its peer goes too. Takes tens of milliseconds: the kernel waits until no packet is under way."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, check_name(name))
        self._netlink.request(RTM_DELLINK, 0, body, subject=f"link {name}")

    def delete_group(self, group: int) -> None:
        """All links of a group at once, for the price of one. ENODEV when there is none."""
        body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_GROUP, group)
        self._netlink.request(RTM_DELLINK, 0, body, subject=f"link group {group}")

    # ---- addresses and routes

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """(link index, IPv4 address with its prefix) of all interfaces."""
        from ipaddress import IPv4Interface

        found = []
        for body in self._netlink.dump(RTM_GETADDR, _IFADDR.pack(_AF_INET, 0, 0, 0, 0), subject="addresses"):
            _family, prefix, _flags, _scope, index = _IFADDR.unpack_from(body)
            fields = attributes(body[_IFADDR.size :])
            value = fields.get(_IFA_LOCAL) or fields.get(_IFA_ADDRESS)
            if value is not None and len(value) == 4:
                found.append((index, IPv4Interface((value, prefix))))
        return found

    def add_address(self, index: int, address: IPv4Interface) -> None:
        """EEXIST when it is there already."""
        body = (
            _IFADDR.pack(_AF_INET, address.network.prefixlen, 0, 0, index)
            + attribute(_IFA_LOCAL, address.packed)
            + attribute(_IFA_ADDRESS, address.packed)
            + attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
        )
        self._netlink.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, subject=f"address {address}")

    def delete_address(self, index: int, address: IPv4Interface) -> None:
        body = _IFADDR.pack(_AF_INET, address.network.prefixlen, 0, 0, index) + attribute(_IFA_LOCAL, address.packed)
        self._netlink.request(RTM_DELADDR, 0, body, subject=f"address {address}")

    def routes(self) -> list[IPv4Network]:
        """Destinations of the IPv4 unicast routes of all tables, default routes left out."""
        from ipaddress import IPv4Network

        found = []
        body = _RTMSG.pack(_AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        for answer in self._netlink.dump(RTM_GETROUTE, body, subject="routes"):
            fields = _RTMSG.unpack_from(answer)
            destination = attributes(answer[_RTMSG.size :]).get(_RTA_DST)
            if fields[7] == _RTN_UNICAST and destination is not None and len(destination) == 4:
                found.append(IPv4Network((destination, fields[1])))
        return found

    def add_route(
        self, index: int, *, gateway: IPv4Address | None = None, destination: IPv4Network | None = None
    ) -> None:
        """A route in the main table; without `destination` the default route, without `gateway` one on the link itself."""
        body = _RTMSG.pack(
            _AF_INET,
            destination.prefixlen if destination else 0,
            0,
            0,
            _RT_TABLE_MAIN,
            _RTPROT_BOOT,
            _RT_SCOPE_UNIVERSE if gateway else _RT_SCOPE_LINK,
            _RTN_UNICAST,
            0,
        )
        if destination:
            body += attribute(_RTA_DST, destination.network_address.packed)
        body += attribute(_RTA_OIF, index)
        if gateway:
            body += attribute(_RTA_GATEWAY, gateway.packed)
        subject = f"route {destination or 'default'} via {gateway or index}"
        self._netlink.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, subject=subject)


_NO_LINK_LOCAL = nested(_IFLA_AF_SPEC, nested(_AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))))
"""IFLA_AF_SPEC: the interface gives itself no IPv6 link-local address."""


def _u32(value: bytes | None) -> int:
    return struct.unpack("=I", value)[0] if value is not None and len(value) == 4 else 0
