"""Connection tracking: forget the connections of an address that has gone.

Runs in wherryd. A translated flow lives in the kernel as long as packets come; without this a UDP client that keeps sending would reach the old,
dead address for ever, and a TCP client would hang instead of being reset. Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

Deliberately absent: events, counters, expectations, IPv6.
"""

from __future__ import annotations

import errno
import struct

from wherry.linux.netlink import NETFILTER, NLA_F_NESTED, NetlinkError, NetlinkSocket, attribute, attributes, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Address

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_AF_INET = 2
_NFGEN = struct.Struct("=BBH")  # family, version, resource id (big-endian zero)
_TUPLE_ORIG, _TUPLE_REPLY, _ZONE, _FILTER = 1, 2, 18, 25
_TUPLE_IP, _IP_V4_SRC = 1, 1
_FILTER_REPLY_FLAGS, _FLAG_IP_SRC = 2, 1
_GONE = (errno.ENOENT, errno.ENODEV)


def forget_replies_from(address: IPv4Address) -> int:
    """Deletes every IPv4 flow of the calling thread's namespace whose answers come from `address`; how many there were. NetlinkError."""
    header = _NFGEN.pack(_AF_INET, 0, 0)
    wanted = (
        nested(_TUPLE_REPLY, nested(_TUPLE_IP, attribute(_IP_V4_SRC, address.packed)))
        + nested(_FILTER, attribute(_FILTER_REPLY_FLAGS, _FLAG_IP_SRC))  # kernels before 5.8 ignore it and give all
    )
    deleted = 0
    with NetlinkSocket(NETFILTER) as netlink:
        for body in netlink.dump(_GET, header + wanted, subject="connections"):
            fields = attributes(body[_NFGEN.size :])
            reply = attributes(attributes(fields.get(_TUPLE_REPLY, b"")).get(_TUPLE_IP, b""))
            if reply.get(_IP_V4_SRC) != address.packed:
                continue
            flow = attribute(_TUPLE_ORIG | NLA_F_NESTED, fields[_TUPLE_ORIG])
            if _ZONE in fields:
                flow += attribute(_ZONE, fields[_ZONE])
            try:
                netlink.request(_DELETE, 0, header + flow, subject=f"connection to {address}")
                deleted += 1
            except NetlinkError as error:
                if error.errno not in _GONE:
                    raise
    return deleted
