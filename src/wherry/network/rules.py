"""The text of the instance's nftables table. Pure; `firewall` hands it to the kernel.

Which packet meets which chain (priorities are nft's names; `BR` is the bridge):

    from the wire or a container ─► guard (raw) ─► prerouting (dstnat) ─► forwarding (filter) ─► postrouting (srcnat)
    from a process of the host  ─────────────────► local (-100)      ──────────────────────────► postrouting (srcnat)

- guard: the bridge has route_localnet on, so that 127.0.0.1:PORT can be published; without this chain a container, or a neighbour on the wire, could
  reach what listens on the host's loopback alone (CVE-2020-8558 is this mistake elsewhere).
- prerouting, local: destination address and port → container, by one look-up in a map: first the ports published on one address, then those
  published on every address of the host (`fib daddr type local`). A port published on 127.0.0.1 is translated for the host's own processes only.
- postrouting: what leaves the bridge's subnet for elsewhere takes the host's address (NAT). A container that reaches another one, or itself, through
  the host's address is masked too, else the answer would go to it directly and not be recognised; so is 127.0.0.1, which no container could answer.
- forwarding: towards the bridge only answers, published ports and the bridge's own containers pass; a host on the same wire cannot route to
  a container's unpublished port.
- router: only when this engine has switched forwarding on: then two hardware interfaces are not connected by that.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from wherry.network.ports import PublishedPort

_TRANSLATE = """\
add rule ip {table} {chain} meta l4proto {{ tcp, udp }} dnat ip to meta l4proto . ip daddr . th dport map @ports
add rule ip {table} {chain} meta l4proto {{ tcp, udp }} fib daddr type local dnat ip to meta l4proto . th dport map @ports_any
"""

_RULES = """\
add table ip {table}
add map ip {table} ports {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}
add map ip {table} ports_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add chain ip {table} guard {{ type filter hook prerouting priority raw; policy accept; }}
add chain ip {table} prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
add chain ip {table} local {{ type nat hook output priority -100; policy accept; }}
add chain ip {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
add chain ip {table} forwarding {{ type filter hook forward priority filter; policy accept; }}
add chain ip {table} router
flush table ip {table}
add rule ip {table} guard iifname != "lo" ip daddr 127.0.0.0/8 drop
add rule ip {table} guard iifname "{bridge}" ip saddr 127.0.0.0/8 drop
{prerouting}{local}\
add rule ip {table} postrouting ip saddr {subnet} oifname != "{bridge}" masquerade
add rule ip {table} postrouting ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade
add rule ip {table} postrouting ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
add rule ip {table} forwarding oifname "{bridge}" ct state established,related accept
add rule ip {table} forwarding iifname "{bridge}" accept
add rule ip {table} forwarding oifname "{bridge}" ct status dnat accept
add rule ip {table} forwarding oifname "{bridge}" drop
add rule ip {table} forwarding jump router
"""

_HARDWARE = "hardware"
"""No kind of interface has this name: `!=` matches every interface that has a kind, and a hardware interface has none."""
_ROUTER = """\
add rule ip {table} router meta iifkind != "{hardware}" return
add rule ip {table} router meta oifkind != "{hardware}" return
add rule ip {table} router drop
"""


def ruleset(table: str, bridge: str, subnet: IPv4Network, *, guard_forwarding: bool) -> str:
    """Commands that make the table, or bring an existing one to this state, in one transaction; elements of its maps stay."""
    text = _RULES.format(
        table=table,
        bridge=bridge,
        subnet=subnet,
        prerouting=_TRANSLATE.format(table=table, chain="prerouting"),
        local=_TRANSLATE.format(table=table, chain="local"),
    )
    return text + (_ROUTER.format(table=table, hardware=_HARDWARE) if guard_forwarding else "")


def delete_commands(table: str) -> str:
    """Commands that remove the table whether or not it is there."""
    return f"add table ip {table}\ndelete table ip {table}\n"


def element(port: PublishedPort, target: IPv4Address) -> str:
    """`MAP { key : value }` of a port published on an IPv4 address."""
    value = f"{target} . {port.port}"
    if port.host_ip.is_unspecified:
        return f"ports_any {{ {port.protocol} . {port.host_port} : {value} }}"
    return f"ports {{ {port.protocol} . {port.host_ip} . {port.host_port} : {value} }}"
