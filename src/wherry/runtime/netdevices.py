"""`linux.netDevices`: network devices of the host's that move into the container's network namespace.

The parent moves them, while the container's first process waits in its namespaces. Loaded only where a configuration
has some. Renaming and moving are one request, so no name of the host's is ever in the way. Kept are the permanent
addresses of global scope, IPv4 and IPv6, which the kernel takes away with the move. What the kernel does with a device
when the namespace ends is left to it. Source: OCI config-linux.md "Network Devices", rtnetlink(7).
"""

from __future__ import annotations

import errno
import os
import struct

from wherry.errors import InvalidArgument, StartError, SyscallError
from wherry.linux import namespaces
from wherry.linux.netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkSocket, attribute, attributes
from wherry.runtime import channel as messages
from wherry.runtime import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from wherry.spec import oci

_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
_IFINFO = struct.Struct("=BxHiII")  # family, hardware type, index, flags, mask of changed flags
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_IFLA_IFNAME, _IFLA_NET_NS_FD = 3, 28
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_PERMANENT, _SCOPE_GLOBAL, _IFF_UP = 0x80, 0, 1
_IF_NAMELEN = 16


def check(devices: dict[str, oci.NetDevice], *, own: set[str]) -> list[tuple[str, str]]:
    """(name on the host, name in the container) pairs. InvalidArgument for a name that no device can have."""
    if "network" not in own:
        raise InvalidArgument("linux.netDevices: unable to move network devices without a NET namespace")
    pairs = []
    for name, device in devices.items():
        wanted = device.get("name") or name
        for text in (name, wanted):
            raw = os.fsencode(text)
            if not raw or len(raw) >= _IF_NAMELEN or text in (".", "..") or any(c in "/:" or c.isspace() for c in text):
                raise InvalidArgument(f"linux.netDevices: invalid network device name {text!r}")
        if "%" in name or wanted.count("%") != wanted.count("%d") or wanted.count("%") > 1:
            raise InvalidArgument(f"linux.netDevices.{name}: {wanted!r} is no name, nor a pattern with one %d")
        pairs.append((name, wanted))
    return pairs


def move(devices: list[tuple[str, str]], target: int) -> None:
    """Moves the devices from our own network namespace into `target`, by a process made for that, which alone changes its own.

    StartError "netDevices" naming the device.
    """
    ours, theirs = messages.pair()
    try:
        helper, pidfd = namespaces.clone()
        if helper == 0:
            spawn.guard(lambda channel: _help(devices, target, channel), theirs)
        os.close(pidfd)
        theirs.close()
        message, _ = messages.receive(ours)
        os.waitpid(helper, 0)
        if message[:1] == messages.FAILED:
            raise messages.read_failure(message)
        if message[:1] != messages.READY:
            raise StartError("netDevices", "the process that moves network devices died", 0)
    finally:
        ours.close()
        theirs.close()


def _help(devices: list[tuple[str, str]], target: int, channel: _socket.socket) -> None:
    here = NetlinkSocket()
    namespaces.join(target, "network")
    there = NetlinkSocket()
    for name, wanted in devices:
        try:
            _move(here, there, name, wanted, target)
        except SyscallError as error:
            raise StartError("netDevices", f"linux.netDevices.{name}: {error}", error.errno) from None
    messages.send(channel, messages.READY)
    os._exit(0)


def _move(here: NetlinkSocket, there: NetlinkSocket, name: str, wanted: str, target: int) -> None:
    before = _names(there)
    if wanted in before:  # the kernel would move it first, and only then find that it cannot be called so
        raise SyscallError("netlink", f"move {name} to the container as {wanted}", errno.EEXIST)
    index = _index(here, name)
    addresses = _permanent_addresses(here, index)
    down = _IFINFO.pack(0, 0, index, 0, _IFF_UP)
    here.request(_RTM_NEWLINK, 0, down, subject=f"link {name}")
    body = _IFINFO.pack(0, 0, index, 0, 0) + attribute(_IFLA_IFNAME, wanted) + attribute(_IFLA_NET_NS_FD, target)
    here.request(_RTM_NEWLINK, 0, body, subject=f"move {name} to the container as {wanted}")
    moved = wanted if "%d" not in wanted else (_names(there) - before).pop()
    index = _index(there, moved)
    for family, prefix, fields in addresses:
        body = _IFADDR.pack(family, prefix, 0, _SCOPE_GLOBAL, index)
        for kind in (_IFA_LOCAL, _IFA_ADDRESS, _IFA_BROADCAST):
            if kind in fields:
                body += attribute(kind, fields[kind])
        there.request(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, subject=f"address of {moved}")
    up = _IFINFO.pack(0, 0, index, _IFF_UP, _IFF_UP)
    there.request(_RTM_NEWLINK, 0, up, subject=f"link {moved}")


def _index(socket: NetlinkSocket, name: str) -> int:
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(_IFLA_IFNAME, name)
    answer = socket.request(_RTM_GETLINK, 0, body, subject=f"link {name}")[0]
    return int(_IFINFO.unpack_from(answer)[2])


def _names(socket: NetlinkSocket) -> set[str]:
    found = set()
    for answer in socket.dump(_RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), subject="links"):
        name = attributes(answer[_IFINFO.size :]).get(_IFLA_IFNAME, b"")
        found.add(name.partition(b"\0")[0].decode("utf-8", "replace"))
    return found


def _permanent_addresses(socket: NetlinkSocket, wanted: int) -> list[tuple[int, int, dict[int, bytes]]]:
    """(family, prefix length, attributes) of the addresses that go along."""
    found = []
    for answer in socket.dump(_RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), subject="addresses"):
        family, prefix, flags, scope, index = _IFADDR.unpack_from(answer)
        fields = attributes(answer[_IFADDR.size :])
        if _IFA_FLAGS in fields:
            (flags,) = struct.unpack("=I", fields[_IFA_FLAGS])
        if index == wanted and flags & _IFA_F_PERMANENT and scope == _SCOPE_GLOBAL:
            found.append((family, prefix, fields))
    return found
