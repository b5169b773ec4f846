"""Published ports on a real kernel: from the host, its loopback in both families, other containers, the world; TCP and UDP; conflicts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import uvloop
from tests.root.network_lab import (
    OUTSIDE,
    Lab,
    can_connect,
    lab,
    networks,
    nft,
    run_in,
    tcp_ask,
    tcp_server,
    udp_ask,
    udp_exchange,
    udp_server,
)

from wherry.network import BridgeConfig, Endpoint, EndpointRequest, proxy
from wherry.network.host_ports import PortUnavailable
from wherry.network.networks import Networks
from wherry.network.ports import PortRequest, PublishedPort

pytestmark = pytest.mark.requires("nftables")
ONE, TWO = "a" * 64, "b" * 64
ANY4, ANY6 = IPv4Address("0.0.0.0"), IPv6Address("::")


@pytest.fixture
def machine() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(params=["0", "1"])
def br_netfilter(machine: Lab, request: pytest.FixtureRequest) -> None:
    """With "1" (where the module is loaded) the bridge itself shows its frames to the tables, and translates between its ports."""
    path = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if path.exists():
        path.write_text(request.param)


def at(port: int) -> range:
    return range(port, port + 1)


def request(*ports: PortRequest) -> EndpointRequest:
    return EndpointRequest("web", ports)


async def ask(namespace: int, host: str, port: int, *, udp: bool = False) -> str:
    return (await asyncio.to_thread(udp_ask if udp else tcp_ask, namespace, host, port)).decode()


async def every_way(machine: Lab, made: Networks, server: Endpoint, other: Endpoint, *, udp: bool) -> None:
    """The addresses that the server sees are part of what is promised: its clients' own, wherever the kernel allows it."""
    gateway = str(made.gateway)
    assert await ask(machine.machine, OUTSIDE, 8080, udp=udp) == f"{OUTSIDE} hello"
    assert await ask(machine.machine, "127.0.0.1", 8080, udp=udp) == f"{gateway} hello"
    assert await ask(machine.machine, "::1", 8080, udp=udp) == f"{gateway} hello"
    assert await ask(machine.world, OUTSIDE, 8080, udp=udp) == "198.51.100.2 hello"
    for through in (gateway, OUTSIDE):
        assert await ask(other.netns_fd, through, 8080, udp=udp) == f"{gateway} hello"
        assert await ask(server.netns_fd, through, 8080, udp=udp) == f"{gateway} hello"


def test_a_tcp_port_is_reachable_from_everywhere(machine: Lab, br_netfilter: None, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            server = await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            other = await made.connect(TWO, EndpointRequest("other"))
            assert server.ports == (PublishedPort(80, "tcp", ANY4, 8080), PublishedPort(80, "tcp", ANY6, 8080))
            with tcp_server(server.netns_fd, ("0.0.0.0", 80)):
                await every_way(machine, made, server, other, udp=False)

    uvloop.run(scenario())


def test_a_udp_port_is_reachable_from_everywhere(machine: Lab, br_netfilter: None, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            server = await made.connect(ONE, request(PortRequest(53, "udp", None, at(8080))))
            other = await made.connect(TWO, EndpointRequest("other"))
            with udp_server(server.netns_fd, ("0.0.0.0", 53)):
                await every_way(machine, made, server, other, udp=True)

    uvloop.run(scenario())


@pytest.mark.parametrize("udp", [False, True])
def test_without_nftables_the_proxy_serves_the_hosts_addresses(machine: Lab, tmp_path: Path, udp: bool) -> None:
    async def scenario() -> None:
        async with networks(tmp_path, BridgeConfig(use_nftables=False)) as made:
            assert any("nftables is not used" in warning for warning in made.warnings)
            protocol = "udp" if udp else "tcp"
            server = await made.connect(ONE, request(PortRequest(80, protocol, None, at(8080))))
            with (udp_server if udp else tcp_server)(server.netns_fd, ("0.0.0.0", 80)):
                for namespace, host in (
                    (machine.machine, "127.0.0.1"),
                    (machine.machine, OUTSIDE),
                    (machine.machine, "::1"),
                    (machine.world, OUTSIDE),
                    (server.netns_fd, str(made.gateway)),
                ):
                    assert await ask(namespace, host, 8080, udp=udp) == f"{made.gateway} hello"
        assert nft("list", "ruleset") == ""

    uvloop.run(scenario())


def test_the_proxy_passes_large_streams_and_half_closes(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            server = await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            data = bytes(range(256)) * 40000
            with tcp_server(server.netns_fd, ("0.0.0.0", 80)):
                answer = await asyncio.to_thread(tcp_ask, machine.machine, "::1", 8080, data)
                assert answer.partition(b" ")[2] == data

    uvloop.run(scenario())


def test_the_proxy_holds_no_more_connections_than_its_limit(
    machine: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_CONNECTIONS", 1)

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            server = await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            with tcp_server(server.netns_fd, ("0.0.0.0", 80)):
                first = run_in(machine.machine, lambda: socket.create_connection(("::1", 8080)))
                with first:
                    await asyncio.sleep(0)
                    with contextlib.suppress(OSError):
                        while await ask(machine.machine, "::1", 8080) != "":
                            pass
                while not (answer := await _answer_or_nothing(machine)):
                    pass
                assert answer == f"{made.gateway} hello"

    uvloop.run(scenario())


async def _answer_or_nothing(machine: Lab) -> str:
    try:
        return await ask(machine.machine, "::1", 8080)
    except OSError:
        return ""


def test_a_port_nobody_listens_on_inside_ends_the_connection(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            with pytest.raises(ConnectionRefusedError):
                await ask(machine.machine, "127.0.0.1", 8080)
            with contextlib.suppress(OSError):
                assert await ask(machine.machine, "::1", 8080) == ""

    uvloop.run(scenario())


def test_a_port_published_on_loopback_is_for_the_host_alone(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            server = await made.connect(ONE, request(PortRequest(80, "tcp", IPv4Address("127.0.0.1"), at(8080))))
            other = await made.connect(TWO, EndpointRequest("other"))
            with tcp_server(server.netns_fd, ("0.0.0.0", 80)):
                assert await ask(machine.machine, "127.0.0.1", 8080) == f"{made.gateway} hello"
                for namespace, host in (
                    (machine.world, OUTSIDE),
                    (machine.machine, OUTSIDE),
                    (machine.machine, "::1"),
                    (other.netns_fd, str(made.gateway)),
                ):
                    assert not await asyncio.to_thread(can_connect, namespace, host, 8080)

    uvloop.run(scenario())


def test_one_host_port_on_two_addresses_leads_to_two_containers(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, request(PortRequest(80, "tcp", IPv4Address("127.0.0.1"), at(8080))))
            two = await made.connect(TWO, request(PortRequest(81, "tcp", IPv4Address(OUTSIDE), at(8080))))
            with tcp_server(one.netns_fd, ("0.0.0.0", 80)), tcp_server(two.netns_fd, ("0.0.0.0", 81)):
                assert await ask(machine.machine, "127.0.0.1", 8080) == f"{made.gateway} hello"
                assert await ask(machine.world, OUTSIDE, 8080) == "198.51.100.2 hello"

    uvloop.run(scenario())


def test_a_port_taken_by_another_container_is_refused_in_dockers_words_and_undone(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            with pytest.raises(PortUnavailable) as refused:
                await made.connect(
                    TWO, request(PortRequest(70, "tcp", None, at(7070)), PortRequest(80, "tcp", None, at(8080)))
                )
            text = str(refused.value)
            assert text.startswith("driver failed programming external connectivity on endpoint web (")
            assert text.endswith("): Bind for 0.0.0.0:8080 failed: port is already allocated")
            assert made.endpoint(TWO) is None and "7070" not in nft("list", "table", "ip", made.table_name)
            await made.connect(TWO, request(PortRequest(70, "tcp", None, at(7070))))

    uvloop.run(scenario())


def test_a_port_taken_by_another_program_is_refused_in_dockers_words(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            with tcp_server(machine.machine, ("127.0.0.1", 8080)):
                with pytest.raises(
                    PortUnavailable, match=r"failed to bind host port for 0\.0\.0\.0:8080:.*/tcp: address already"
                ):
                    await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            with pytest.raises(PortUnavailable, match="cannot assign requested address"):
                await made.connect(ONE, request(PortRequest(80, "tcp", IPv4Address("203.0.113.1"), at(8080))))

    uvloop.run(scenario())


def test_a_published_port_cannot_be_taken_by_another_program(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            await made.connect(
                ONE, request(PortRequest(80, "tcp", None, at(8080)), PortRequest(53, "udp", None, at(5353)))
            )
            for kind, port in ((socket.SOCK_STREAM, 8080), (socket.SOCK_DGRAM, 5353)):
                for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                    with socket.socket(family, kind) as rival, pytest.raises(OSError, match="in use"):
                        rival.bind((host, port))

    uvloop.run(scenario())


def test_of_a_range_the_first_free_port_is_taken_and_without_a_port_an_ephemeral_one(
    machine: Lab, tmp_path: Path
) -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range", "r+") as limits:
        limits.write("40000 40003")

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            with tcp_server(machine.machine, ("127.0.0.1", 9000)):
                one = await made.connect(ONE, request(PortRequest(80, "tcp", None, range(9000, 9003))))
            two = await made.connect(TWO, request(PortRequest(80, "tcp", None, range(9000, 9003))))
            assert {port.host_port for port in (*one.ports, *two.ports)} == {9001, 9000}
            some = [await made.connect(str(n) * 64, request(PortRequest(80, "tcp"))) for n in range(4)]
            assert sorted(endpoint.ports[0].host_port for endpoint in some) == [40000, 40001, 40002, 40003]
            assert all(endpoint.ports[0].host_port == endpoint.ports[1].host_port for endpoint in some)
            with pytest.raises(PortUnavailable, match="already allocated"):
                await made.connect("9" * 64, request(PortRequest(80, "tcp")))

    uvloop.run(scenario())


def test_a_ports_end_frees_it_and_its_clients_are_not_left_with_the_dead(machine: Lab, tmp_path: Path) -> None:
    """A UDP client that keeps sending reaches the next container, though the kernel had a translation to the old one."""

    async def scenario() -> None:
        async with networks(tmp_path) as made:
            client = run_in(machine.world, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            with client:
                client.connect((OUTSIDE, 5353))
                for id in (ONE, TWO):
                    endpoint = await made.connect(id, request(PortRequest(53, "udp", None, at(5353))))
                    with udp_server(endpoint.netns_fd, ("0.0.0.0", 53)):
                        answer = await asyncio.to_thread(udp_exchange, client, id[:1].encode())
                        assert answer == b"198.51.100.2 " + id[:1].encode()
                    await made.disconnect(id)
            assert "elements" not in nft("list", "table", "ip", made.table_name)

    uvloop.run(scenario())


def test_a_flushed_ruleset_is_written_anew(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            with tcp_server(one.netns_fd, ("0.0.0.0", 80)):
                await asyncio.to_thread(nft, "flush", "ruleset")
                while "8080" not in await asyncio.to_thread(nft, "list", "ruleset"):
                    pass
                assert await ask(machine.world, OUTSIDE, 8080) == "198.51.100.2 hello"
            await made.disconnect(ONE)
            assert "8080" not in nft("list", "table", "ip", made.table_name)

    uvloop.run(scenario())


def test_a_port_is_published_though_the_table_is_gone_at_that_moment(machine: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with networks(tmp_path) as made:
            one = await made.connect(ONE, request(PortRequest(80, "tcp", None, at(8080))))
            nft("flush", "ruleset")  # the loop has not yet heard of it
            await made.connect(TWO, request(PortRequest(80, "tcp", None, at(8081))))
            with tcp_server(one.netns_fd, ("0.0.0.0", 80)):
                assert await ask(machine.world, OUTSIDE, 8080) == "198.51.100.2 hello"
            nft("flush", "ruleset")
            await made.disconnect(ONE)
            assert nft("list", "table", "ip", made.table_name).count(" 8081 ") == 1

    uvloop.run(scenario())
