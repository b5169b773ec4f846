"""Rules in another engine's filter table, from what nft lists."""

from __future__ import annotations

from typing import Any

from wherry.network.foreign import allow_commands, dropping_chains, withdraw_commands


def listing(*items: dict[str, Any]) -> dict[str, Any]:
    return {"nftables": [{"metainfo": {}}, *items]}


def chain(name: str, **more: str) -> dict[str, Any]:
    return {"chain": {"family": "ip", "table": "filter", "name": name, **more}}


FORWARD = chain("FORWARD", hook="forward", policy="drop")
OURS = {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 7, "comment": "wherry: wherry0"}}
OTHER = {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "handle": 8, "comment": "wherry: whc0ffee"}}


def test_without_a_dropping_filter_nothing_is_written() -> None:
    assert allow_commands({}, "wherry0") == ""
    assert allow_commands(listing(chain("FORWARD", policy="accept")), "wherry0") == ""


def test_a_dropping_filter_gets_two_rules_in_the_users_chain_if_there_is_one() -> None:
    assert allow_commands(listing(FORWARD), "wherry0").splitlines() == [
        'insert rule ip filter FORWARD iifname "wherry0" counter accept comment "wherry: wherry0"',
        'insert rule ip filter FORWARD oifname "wherry0" counter accept comment "wherry: wherry0"',
    ]
    assert allow_commands(listing(FORWARD, chain("DOCKER-USER")), "wherry0").count("filter DOCKER-USER ") == 2


def test_the_rules_are_written_once_and_another_instances_do_not_count() -> None:
    assert allow_commands(listing(FORWARD, OURS), "wherry0") == ""
    assert allow_commands(listing(FORWARD, OTHER), "wherry0") != ""


def test_only_our_own_rules_are_withdrawn() -> None:
    assert withdraw_commands(listing(FORWARD, OURS, OTHER), "wherry0") == "delete rule ip filter FORWARD handle 7\n"
    assert withdraw_commands({}, "wherry0") == ""


def test_other_chains_that_drop_are_named() -> None:
    by_hand = {"chain": {"family": "inet", "table": "mine", "name": "fw", "hook": "forward", "policy": "drop"}}
    for_ipv6 = {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}}
    assert dropping_chains(listing(FORWARD, by_hand, for_ipv6)) == ["inet mine fw"]
