"""The default bridge: a link of the host with the gateway's address, made or taken over from an engine that was killed.

Runs in wherryd, in the sandbox thread or at start-up; every call blocks for well under a millisecond, deletion for tens.

**Invariants**: only the instance's own bridge and the sysctls named here are touched; an existing bridge keeps its address, for containers may be
using it. What cannot be set is a warning for `info`, not an end.

Deliberately absent: IPv6 (switched off on the bridge), bridges of other engines.
"""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Interface, IPv4Network

from wherry.errors import FailedPrecondition
from wherry.linux.netlink import NetlinkError
from wherry.linux.rtnetlink import Interfaces, Link
from wherry.network.ipam import choose_subnet, mac_of

_IP_FORWARD = "/proc/sys/net/ipv4/ip_forward"


def open_bridge(
    interfaces: Interfaces, name: str, address: IPv4Interface | None, mtu: int
) -> tuple[Link, IPv4Interface]:
    """The bridge, up and with an address: `address`, or the one it has, or the first predefined subnet that collides with nothing."""
    link = _make_or_adopt(interfaces, name, address, mtu)
    existing = [held for index, held in interfaces.addresses() if index == link.index]
    if address is None and existing:
        return interfaces.link(name), existing[0]
    for _attempt in range(8):  # another instance may choose the same subnet at the same moment
        wanted = address or choose_subnet(_networks_in_use(interfaces))
        if wanted in existing:
            break
        for stale in existing:
            interfaces.delete_address(link.index, stale)
        interfaces.add_address(link.index, wanted)
        rivals = [
            index
            for index, held in interfaces.addresses()
            if index != link.index and held.network.overlaps(wanted.network)
        ]
        if address is not None or not any(index < link.index for index in rivals):
            break
        existing = [wanted]
    if link.mac != mac_of(wanted.ip):
        interfaces.set_link(link.index, mac=mac_of(wanted.ip))
    return interfaces.link(name), wanted


def _make_or_adopt(interfaces: Interfaces, name: str, address: IPv4Interface | None, mtu: int) -> Link:
    try:
        interfaces.add_bridge(name, mac=mac_of(address.ip) if address else "02:42:00:00:00:00", mtu=mtu)
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise
    link = interfaces.link(name)
    if link.kind != "bridge":
        raise FailedPrecondition(f"the interface {name} is no bridge (it is of kind {link.kind or 'hardware'!r})")
    if not link.up:
        write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")
        interfaces.set_link(link.index, up=True)
    return link


def _networks_in_use(interfaces: Interfaces) -> list[IPv4Network]:
    return [*interfaces.routes(), *(held.network for _index, held in interfaces.addresses())]


def configure_kernel(name: str) -> list[str]:
    """Lets the bridge route 127.0.0.0/8 (the table's `guard` chain keeps strangers out). → warnings."""
    if write_sysctl(f"ipv4/conf/{name}/route_localnet", "1"):
        return []
    return ["ports published on 127.0.0.1 do not work: route_localnet cannot be set"]


def is_forwarding() -> bool | None:
    """None when the kernel does not say."""
    try:
        with open(_IP_FORWARD, encoding="ascii") as file:
            return file.read().strip() != "0"
    except OSError:
        return None


def write_sysctl(key: str, value: str) -> bool:
    """Writes /proc/sys/net/`key` of the calling thread's namespace; False when that is not possible."""
    try:
        fd = os.open(f"/proc/sys/net/{key}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError:
        return False
    return True
