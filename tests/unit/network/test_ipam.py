"""Subnets and addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from wherry.network.ipam import AddressPool, choose_subnet, default_subnets, mac_of, parse_bridge_address


def test_the_first_subnet_is_dockers() -> None:
    assert choose_subnet([]) == IPv4Interface("172.17.0.1/16")


def test_a_subnet_that_overlaps_a_route_in_either_direction_is_passed_over() -> None:
    taken = [IPv4Network("172.17.5.0/24"), IPv4Network("172.18.0.0/15"), IPv4Network("10.0.0.0/8")]
    assert choose_subnet(taken) == IPv4Interface("172.20.0.1/16")


def test_no_free_subnet_is_an_error_that_says_so() -> None:
    with pytest.raises(FailedPrecondition, match="non-overlapping"):
        choose_subnet(default_subnets())


@pytest.mark.parametrize("text", ["", "x", "10.0.0.0/24", "10.0.0.255/24", "10.0.0.1/31", "10.0.0.1", "fd00::1/64"])
def test_a_bridge_address_beside_which_there_is_no_room_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="bridge address"):
        parse_bridge_address(text)
    assert parse_bridge_address("10.0.0.254/24") == IPv4Interface("10.0.0.254/24")


def test_a_mac_follows_from_the_address() -> None:
    assert mac_of(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"


def test_an_address_is_given_again_as_late_as_possible() -> None:
    pool = AddressPool(IPv4Interface("10.0.0.1/29"))
    first, second = pool.take(), pool.take()
    assert (str(first), str(second)) == ("10.0.0.2", "10.0.0.3")
    pool.free(first)
    assert [str(pool.take()) for _ in range(4)] == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(FailedPrecondition):
        pool.take()
    pool.free(second)
    assert pool.take() == second


def test_network_broadcast_and_gateway_are_never_given() -> None:
    pool = AddressPool(IPv4Interface("10.0.0.6/29"))
    assert [str(pool.take()) for _ in range(5)] == [f"10.0.0.{last}" for last in range(1, 6)]
    pool.free(IPv4Address("10.0.0.6"))
    with pytest.raises(FailedPrecondition):
        pool.take()


def test_a_reserved_address_is_not_given_and_not_reserved_twice() -> None:
    pool = AddressPool(IPv4Interface("10.0.0.1/29"))
    pool.reserve(IPv4Address("10.0.0.2"))
    assert str(pool.take()) == "10.0.0.3"
    with pytest.raises(AlreadyExists):
        pool.reserve(IPv4Address("10.0.0.3"))
    for outside in ("10.0.0.0", "10.0.0.7", "10.0.1.1"):
        with pytest.raises(InvalidArgument):
            pool.reserve(IPv4Address(outside))


@given(st.lists(st.booleans(), max_size=60))
def test_no_address_has_two_owners(steps: list[bool]) -> None:
    pool = AddressPool(IPv4Interface("10.0.0.1/28"))
    owned: list[IPv4Address] = []
    for take in steps:
        if take and len(owned) < 13:
            address = pool.take()
            assert address not in owned and address != pool.gateway and address in pool.network
            owned.append(address)
        elif owned:
            pool.free(owned.pop(0))
