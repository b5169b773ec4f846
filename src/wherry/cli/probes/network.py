"""Probes of the network: bridge and veth made, nftables rules loaded – in a network namespace of their own."""

from __future__ import annotations

import os

from .finding import Finding, degraded, missing, ok
from .trial import attempt

_RULES = """
table inet wherry_doctor {
  map ports { type inet_proto . inet_service : ipv4_addr . inet_service; }
  chain post { type nat hook postrouting priority srcnat; oifname != "lo" masquerade; }
  chain pre { type nat hook prerouting priority dstnat; dnat ip to meta l4proto . th dport map @ports; }
}
"""


def links() -> Finding:
    """A bridge and a pair of veth devices."""
    from wherry.linux.namespaces import NEWNET

    def make() -> None:
        from wherry.linux import netns
        from wherry.linux.rtnetlink import Interfaces

        here = netns.current()
        with Interfaces() as interfaces:
            interfaces.add_bridge("doctor0", mac="02:00:00:00:00:01", mtu=1500)
            interfaces.add_veth(
                "doctor1",
                mtu=1500,
                master=interfaces.link("doctor0").index,
                group=0,
                peer="doctor2",
                peer_index=0,
                peer_mac="02:00:00:00:00:02",
                netns_fd=here,
            )
        os.close(here)

    problem = attempt(NEWNET, make)
    if problem:
        return missing(
            "bridge and veth",
            problem,
            "the default network is made of them",
            "modprobe bridge veth; or a kernel with CONFIG_BRIDGE and CONFIG_VETH",
        )
    return ok("bridge and veth", "made in a network namespace")


def firewall() -> Finding:
    """Address translation by nftables."""
    from wherry.linux.namespaces import NEWNET

    def load() -> None:
        from wherry.linux.nftables import Nftables

        with Nftables() as nft:
            nft.run(_RULES)

    problem = attempt(NEWNET, load)
    if problem:
        return missing(
            "nftables",
            problem.strip().splitlines()[0],
            "containers reach the outside, and published ports containers, through it",
            "install libnftables1 (Debian, Ubuntu: nftables); modprobe nf_tables nft_masq nft_nat",
        )
    return ok("nftables", "rules for address translation loaded in a network namespace")


def forwarding() -> Finding:
    """net.ipv4.ip_forward: the engine turns it on."""
    path = "/proc/sys/net/ipv4/ip_forward"
    try:
        with open(path, encoding="ascii") as file:
            on = file.read().strip() == "1"
    except OSError as error:
        return missing(
            "IP forwarding", f"{path}: {error.strerror}", "containers reach nothing outside", "use a kernel with IPv4"
        )
    if on:
        return ok("IP forwarding", "on")
    if os.access(path, os.W_OK):
        return ok("IP forwarding", "off now; the engine turns it on")
    return degraded(
        "IP forwarding",
        "off, and not to be changed from here",
        "containers reach nothing outside the host",
        "sysctl net.ipv4.ip_forward=1",
    )
