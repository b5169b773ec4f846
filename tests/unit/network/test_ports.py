"""Published ports as data, and the text that nftables gets of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import errors
from wherry.errors import InvalidArgument
from wherry.network.ports import PortRequest, PublishedPort, parse_port, port_requests, ports_json, ports_summary
from wherry.network.rules import delete_commands, element, ruleset
from wherry.wire.engine import PortBinding


def test_bindings_become_requests() -> None:
    bindings = {
        "80/tcp": [PortBinding(host_port="8080"), PortBinding(host_ip="127.0.0.1", host_port="9000-9010")],
        "53/udp": [PortBinding()],
        "443": [PortBinding(host_ip="::1", host_port="0")],
        "22/tcp": None,
        "23/tcp": [],
    }
    assert port_requests(bindings) == (
        PortRequest(80, "tcp", None, range(8080, 8081)),
        PortRequest(80, "tcp", ip_address("127.0.0.1"), range(9000, 9011)),
        PortRequest(53, "udp"),
        PortRequest(443, "tcp", ip_address("::1")),
    )


def test_publish_all_adds_the_exposed_ports_that_have_no_binding() -> None:
    bindings = {"80/tcp": [PortBinding(host_port="8080")]}
    found = port_requests(bindings, ["80/tcp", "53/udp", "443"], publish_all=True)
    assert found[1:] == (PortRequest(53, "udp"), PortRequest(443, "tcp"))
    assert len(port_requests(bindings, ["53/udp"])) == 1


@pytest.mark.parametrize(
    ("key", "binding"),
    [
        ("x", PortBinding()),
        ("0/tcp", PortBinding()),
        ("65536/tcp", PortBinding()),
        ("80/icmp", PortBinding()),
        ("-80", PortBinding()),
        ("80-90/tcp", PortBinding()),
        ("٨٠/tcp", PortBinding()),
        ("80/tcp", PortBinding(host_port="x")),
        ("80/tcp", PortBinding(host_port="65536")),
        ("80/tcp", PortBinding(host_port="20-10")),
        ("80/tcp", PortBinding(host_port="10-")),
        ("80/tcp", PortBinding(host_ip="nope")),
        ("80/tcp", PortBinding(host_ip="1.2.3.4; flush ruleset")),
    ],
)
def test_a_malformed_port_is_refused(key: str, binding: PortBinding) -> None:
    with pytest.raises(InvalidArgument):
        port_requests({key: [binding]})


def test_sctp_may_be_exposed_and_is_refused_by_name_when_published() -> None:
    assert parse_port("9/sctp") == (9, "sctp")
    with pytest.raises(errors.NotImplemented, match="sctp"):
        port_requests({"9/sctp": [PortBinding()]})


def test_the_json_of_ports_is_dockers() -> None:
    published = [
        PublishedPort(80, "tcp", ip_address("0.0.0.0"), 8080),
        PublishedPort(80, "tcp", ip_address("::"), 8080),
    ]
    assert ports_json(published, ["80/tcp", "443"]) == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "443/tcp": None,
    }
    assert ports_summary(published, ["80/tcp", "443"]) == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]


@given(
    st.builds(
        PublishedPort,
        st.integers(1, 65535),
        st.sampled_from(["tcp", "udp"]),
        st.one_of(st.ip_addresses()),
        st.integers(1, 65535),
    )
)
def test_a_published_port_survives_being_saved(port: PublishedPort) -> None:
    assert PublishedPort.from_saved(port.saved()) == port


def test_an_element_leads_from_the_hosts_port_to_the_containers() -> None:
    target = IPv4Address("172.17.0.2")
    assert element(PublishedPort(80, "tcp", ip_address("0.0.0.0"), 8080), target) == (
        "ports_any { tcp . 8080 : 172.17.0.2 . 80 }"
    )
    assert element(PublishedPort(53, "udp", ip_address("127.0.0.1"), 5353), target) == (
        "ports { udp . 127.0.0.1 . 5353 : 172.17.0.2 . 53 }"
    )


def test_the_rules_name_only_the_instances_table_and_bridge() -> None:
    text = ruleset("wherry_c0ffee", "whc0ffee", IPv4Network("172.17.0.0/16"), guard_forwarding=True)
    for line in text.splitlines():
        assert line.split()[:4:2] == ["add", "ip"] or line.split()[:3] == ["flush", "table", "ip"]
        assert " ip wherry_c0ffee" in line
    assert "router drop" in text
    assert "router drop" not in ruleset("t", "b", IPv4Network("172.17.0.0/16"), guard_forwarding=False)
    assert delete_commands("t") == "add table ip t\ndelete table ip t\n"
