"""Living with another engine's or a firewall's filter: packets of the bridge must pass every chain on their way, not only ours.

Pure: reads `nft -j list …`, gives commands. Where iptables (its nf_tables variant) drops forwarded packets by default, as Docker
and ufw make it do, two rules go into its chain for the user's own rules (DOCKER-USER) or, without Docker, into FORWARD: written
so that iptables itself still understands its table. What the bridge may receive our own table decides all the same.

Deliberately absent: rules in tables that people write by hand; a chain there that drops by default is reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Listing = dict[str, Any]
_FORWARD, _USER_CHAIN = "FORWARD", "DOCKER-USER"


def _comment(bridge: str) -> str:
    return f"wherry: {bridge}"


def _items(listing: Listing, kind: str) -> Iterator[dict[str, Any]]:
    return (item[kind] for item in listing.get("nftables", ()) if kind in item)


def allow_commands(filter_table: Listing, bridge: str) -> str:
    """Commands for table `ip filter` that let the bridge's packets through; "" when nothing drops them or the rules are there."""
    chains = {chain["name"]: chain for chain in _items(filter_table, "chain")}
    if chains.get(_FORWARD, {}).get("policy") != "drop":
        return ""
    if any(rule.get("comment") == _comment(bridge) for rule in _items(filter_table, "rule")):
        return ""
    chain = _USER_CHAIN if _USER_CHAIN in chains else _FORWARD
    return "".join(
        f'insert rule ip filter {chain} {side} "{bridge}" counter accept comment "{_comment(bridge)}"\n'
        for side in ("iifname", "oifname")
    )


def withdraw_commands(filter_table: Listing, bridge: str) -> str:
    """Commands that remove those rules again, wherever they are."""
    return "".join(
        f"delete rule ip filter {rule['chain']} handle {rule['handle']}\n"
        for rule in _items(filter_table, "rule")
        if rule.get("comment") == _comment(bridge)
    )


def dropping_chains(all_chains: Listing) -> list[str]:
    """Other chains that drop forwarded IPv4 packets by default, as "family table chain"."""
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in _items(all_chains, "chain")
        if chain.get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("ip", "inet")
        and (chain["family"], chain["table"]) != ("ip", "filter")
    ]
