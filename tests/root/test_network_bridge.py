"""The default bridge on a real kernel: containers reach each other and the world, nobody reaches them uninvited, and nothing is left at the end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
import uvloop
from tests.root.network_lab import (
    OUTSIDE,
    TIMEOUT,
    WORLD,
    Lab,
    can_connect,
    lab,
    networks,
    nft,
    route_world_to,
    run_in,
    tcp_ask,
    tcp_server,
)

from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from wherry.linux.rtnetlink import Interfaces
from wherry.network import BridgeConfig, EndpointRequest, Networks

pytestmark = pytest.mark.requires("nftables")
ONE, TWO = "a" * 64, "b" * 64


@pytest.fixture
def machine() -> Iterator[Lab]:
    with lab() as made:
        yield made


def shell(namespace: int, *words: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", *words],
        pass_fds=[namespace],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def links() -> set[str]:
    with Interfaces() as here:
        return {link.name for link in here.links()}


def test_two_containers_reach_each_other_and_the_world_through_nat(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, EndpointRequest("one"))
            two = await made.connect(TWO, EndpointRequest("two"))
            with tcp_server(two.netns_fd, ("0.0.0.0", 80)):
                answer = await asyncio.to_thread(tcp_ask, one.netns_fd, str(two.address), 80)
                assert answer == f"{one.address} hello".encode()
            with tcp_server(machine.world, ("0.0.0.0", 7777)):
                assert await asyncio.to_thread(tcp_ask, one.netns_fd, WORLD, 7777) == f"{OUTSIDE} hello".encode()

    uvloop.run(scenario())


def test_a_container_has_eth0_with_a_mac_from_its_address_and_no_ipv6_but_loopback(
    machine: Lab, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with networks(tmp_path, BridgeConfig(mtu=1400)) as made:
            one = await made.connect(ONE, EndpointRequest("one"))
            assert (str(one.address), one.prefix, str(one.gateway)) == ("172.17.0.2", 16, "172.17.0.1")
            assert one.mac == "02:42:ac:11:00:02"

            def look() -> None:
                with Interfaces() as inside:
                    (loopback, link) = inside.links()
                    assert loopback.up and loopback.name == "lo"
                    assert link.up and (link.name, link.mac, link.mtu) == ("eth0", one.mac, 1400)
                    assert inside.addresses() == [
                        (1, IPv4Interface("127.0.0.1/8")),
                        (2, IPv4Interface("172.17.0.2/16")),
                    ]

            run_in(one.netns_fd, look)
            assert shell(one.netns_fd, "ip", "route").splitlines()[0].split()[:3] == ["default", "via", "172.17.0.1"]
            addresses6 = shell(one.netns_fd, "ip", "-6", "-o", "address").splitlines()
            assert len(addresses6) == 1 and "::1/128" in addresses6[0]
            with tcp_server(one.netns_fd, ("::1", 80), socket.AF_INET6):
                assert await asyncio.to_thread(tcp_ask, one.netns_fd, "::1", 80) == b"::1 hello"

    uvloop.run(scenario())


def test_a_requested_mac_is_given(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, EndpointRequest("one", mac="02:00:00:00:00:aa"))
            assert one.mac == "02:00:00:00:00:aa"
            assert one.mac in shell(one.netns_fd, "ip", "link", "show", "eth0")
            with pytest.raises(InvalidArgument):
                await made.connect(TWO, EndpointRequest("two", mac="01:00:00:00:00:aa"))

    uvloop.run(scenario())


def test_an_isolated_namespace_has_loopback_and_nothing_else(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            namespace = await made.isolated()
            assert shell(namespace, "ip", "-o", "link").count("\n") == 1
            with tcp_server(namespace, ("127.0.0.1", 80)):
                assert await asyncio.to_thread(tcp_ask, namespace, "127.0.0.1", 80) == b"127.0.0.1 hello"
            with pytest.raises(OSError, match="unreachable"):
                tcp_ask(namespace, str(made.gateway), 80)

    uvloop.run(scenario())


def test_a_neighbour_on_the_wire_cannot_route_to_a_container(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, EndpointRequest("one"))
            route_world_to(machine, IPv4Network("172.17.0.0/16"))
            with tcp_server(one.netns_fd, ("0.0.0.0", 80)):
                assert not await asyncio.to_thread(can_connect, machine.world, str(one.address), 80)
                nft("flush", "chain", "ip", made.table_name, "forwarding")
                assert await asyncio.to_thread(can_connect, machine.world, str(one.address), 80, TIMEOUT)

    uvloop.run(scenario())


def test_a_container_cannot_reach_what_listens_on_the_hosts_loopback(machine: Lab, tmp_path: Path) -> None:
    """CVE-2020-8558: the bridge routes 127.0.0.0/8, and only the guard chain stands before it."""

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, EndpointRequest("one"))
            shell(one.netns_fd, "ip", "address", "del", "127.0.0.1/8", "dev", "lo")
            shell(one.netns_fd, "ip", "route", "add", "127.0.0.1", "via", str(made.gateway))
            shell(one.netns_fd, "sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
            with tcp_server(machine.machine, ("127.0.0.1", 5000)):
                assert not await asyncio.to_thread(can_connect, one.netns_fd, "127.0.0.1", 5000)
                nft("flush", "chain", "ip", made.table_name, "guard")
                assert await asyncio.to_thread(can_connect, one.netns_fd, "127.0.0.1", 5000, TIMEOUT)

    uvloop.run(scenario())


def test_many_containers_at_once_get_different_addresses(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            names = [f"{number:064x}" for number in range(20)]
            endpoints = await asyncio.gather(*(made.connect(name, EndpointRequest(name)) for name in names))
            assert len({endpoint.address for endpoint in endpoints}) == 20
            assert len({endpoint.netns_fd for endpoint in endpoints}) == 20

    uvloop.run(scenario())


def test_ready_namespaces_are_taken_in_the_order_of_their_addresses_and_never_more_than_the_pool_holds(
    machine: Lab, tmp_path: Path
) -> None:
    async def filled(made: Networks) -> set[str]:
        while len(found := {name for name in links() if name.startswith("wv")}) < 4:
            await asyncio.sleep(0.01)
        return found

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            ready = await filled(made)
            assert len(ready) == 4
            endpoints = [await made.connect(str(number) * 64, EndpointRequest("x")) for number in range(4)]
            assert [str(endpoint.address) for endpoint in endpoints] == [f"172.17.0.{last}" for last in range(2, 6)]
            assert {endpoint.host_link for endpoint in endpoints} == ready
            for _ in range(20):
                await asyncio.sleep(0.005)
                assert len([name for name in links() if name.startswith("wv")]) <= 8

    uvloop.run(scenario())


def test_a_full_subnet_is_an_error_and_an_address_comes_back_when_its_veth_is_gone(
    machine: Lab, tmp_path: Path
) -> None:
    async def scenario() -> None:
        config = BridgeConfig(address=IPv4Interface("10.99.0.1/29"), pool_size=2)
        async with networks(tmp_path, config) as made:
            held = [await made.connect(str(n) * 64, EndpointRequest("x")) for n in range(5)]
            assert {str(endpoint.address) for endpoint in held} == {f"10.99.0.{n}" for n in range(2, 7)}
            with pytest.raises(FailedPrecondition, match="no available IPv4 addresses"):
                await made.connect("5" * 64, EndpointRequest("x"))
            await made.disconnect("3" * 64)
            while True:  # the kernel removes the veth in its own time
                try:
                    again = await made.connect("5" * 64, EndpointRequest("x"))
                    break
                except FailedPrecondition:
                    await asyncio.sleep(0.01)
            assert again.address == held[3].address
            assert held[3].host_link not in links()

    uvloop.run(scenario())


def test_the_subnet_collides_with_no_route_of_the_host(machine: Lab, tmp_path: Path) -> None:
    with Interfaces() as here:
        outer = here.link("outer").index
        here.add_address(outer, IPv4Interface("172.17.200.1/24"))
        here.add_route(outer, gateway=IPv4Address(WORLD), destination=IPv4Network("172.16.0.0/12"))
        here.add_route(outer, gateway=IPv4Address(WORLD), destination=IPv4Network("192.168.0.0/22"))

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            assert str(made.gateway) == "192.168.16.1"

    uvloop.run(scenario())


def test_a_container_is_connected_once(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            await made.connect(ONE, EndpointRequest("one"))
            with pytest.raises(AlreadyExists):
                await made.connect(ONE, EndpointRequest("one"))
            await made.disconnect(ONE)
            await made.disconnect(ONE)
            await made.connect(ONE, EndpointRequest("one"))

    uvloop.run(scenario())


def test_nothing_is_left_after_a_clean_stop_without_containers(machine: Lab, tmp_path: Path) -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "r+") as switch:
        switch.write("0")
    before = links()

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            assert made.warnings == []
            await made.connect(ONE, EndpointRequest("one"))
            assert links() > before
            with open("/proc/sys/net/ipv4/ip_forward") as switch:
                assert switch.read() == "1\n"
            assert "iifkind" in nft("list", "chain", "ip", made.table_name, "router")
            await made.disconnect(ONE)
            await made.isolated()

    uvloop.run(scenario())
    assert links() == before
    assert nft("list", "ruleset") == ""


def test_iptables_dropping_by_default_is_told_to_let_the_bridge_through(machine: Lab, tmp_path: Path) -> None:
    """What dockerd makes of the filter table, in the form iptables-nft gives it."""
    nft("add table ip filter")
    nft("add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }")
    nft("add chain ip filter DOCKER-USER")
    nft("add rule ip filter FORWARD counter jump DOCKER-USER")
    before = nft("list", "ruleset")

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, EndpointRequest("one"))
            with tcp_server(machine.world, ("0.0.0.0", 7777)):
                assert await asyncio.to_thread(tcp_ask, one.netns_fd, WORLD, 7777) == f"{OUTSIDE} hello".encode()
            assert nft("list", "chain", "ip", "filter", "DOCKER-USER").count(made.bridge_name) == 4

    uvloop.run(scenario())
    assert [line.split(" packets ")[0] for line in nft("list", "ruleset").splitlines()] == [
        line.split(" packets ")[0] for line in before.splitlines()
    ]


def test_the_predefined_networks_keep_their_ids_and_describe_themselves(machine: Lab, tmp_path: Path) -> None:
    ids = []

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, EndpointRequest("one"))
            assert [network["Name"] for network in made.list()] == ["bridge", "host", "none"]
            bridge = made.inspect("bridge")
            ids.append(bridge["Id"])
            assert made.inspect(bridge["Id"][:12]) == bridge
            assert bridge["Containers"] == {ONE: one.summary()}
            assert bridge["IPAM"]["Config"] == [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]
            assert made.inspect("none", {"none": {TWO: {"Name": "two"}}})["Containers"] == {TWO: {"Name": "two"}}
            assert made.network_id("bridge") == bridge["Id"] and made.network_id("container:x") == ""
            with pytest.raises(NotFound, match="network nope not found"):
                made.inspect("nope")

    uvloop.run(scenario())
    uvloop.run(scenario())
    assert ids[0] == ids[1]
