"""resolv.conf and hosts."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from wherry.errors import InvalidArgument
from wherry.network.files import hosts_file, parse_extra_host, resolv_conf

HOST = """\
# a comment
; another
nameserver 127.0.0.53
nameserver 10.0.0.2
nameserver fd00::2
nameserver   10.0.0.3   trailing
search example.com example.org
options ndots:2 edns0
"""


def test_name_servers_a_container_cannot_reach_are_dropped() -> None:
    assert resolv_conf(host=HOST) == (
        "nameserver 10.0.0.2\nnameserver 10.0.0.3\nsearch example.com example.org\noptions ndots:2 edns0\n"
    )


@pytest.mark.parametrize(
    "host", ["", "nameserver 127.0.0.1\nnameserver ::1\n", "nameserver nonsense\n", "nameserver\n"]
)
def test_when_none_is_left_public_ones_take_their_place(host: str) -> None:
    assert resolv_conf(host=host) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_a_container_on_the_hosts_network_keeps_loopback_servers() -> None:
    assert resolv_conf(keep_loopback=True, host="nameserver 127.0.0.1\nnameserver ::1\n") == (
        "nameserver 127.0.0.1\nnameserver ::1\n"
    )
    assert resolv_conf(keep_loopback=True, host="") == ""


def test_what_the_user_sets_replaces_the_hosts() -> None:
    assert resolv_conf(["127.0.0.1", "fd00::1"], ["a.test", "b.test"], ["rotate"], host=HOST) == (
        "nameserver 127.0.0.1\nnameserver fd00::1\nsearch a.test b.test\noptions rotate\n"
    )


def test_a_dot_as_search_domain_means_none() -> None:
    assert "search" not in resolv_conf(search=["."], host=HOST)


def test_of_search_and_domain_the_last_line_counts() -> None:
    assert "search last.test\n" in resolv_conf(host="search a.test\ndomain last.test\nnameserver 10.0.0.1\n")


@pytest.mark.parametrize("server", ["", "x", "10.0.0.1\nnameserver 6.6.6.6", "10.0.0"])
def test_a_server_that_is_no_address_is_refused(server: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid IP address"):
        resolv_conf([server], host=HOST)


@pytest.mark.parametrize("word", ["", "a b", "a\nnameserver 6.6.6.6"])
def test_a_search_domain_or_option_cannot_bring_a_line_of_its_own(word: str) -> None:
    with pytest.raises(InvalidArgument):
        resolv_conf(search=[word], host=HOST)
    with pytest.raises(InvalidArgument):
        resolv_conf(options=[word], host=HOST)


def test_hosts_has_loopback_extras_and_the_container_itself() -> None:
    text = hosts_file(
        "web",
        "example.com",
        address=IPv4Address("172.17.0.2"),
        extra=["db:10.0.0.9", "six=fd00::9", "sixes:[fd00::8]", "host.docker.internal:host-gateway"],
        host_gateway=IPv4Address("172.17.0.1"),
    )
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-5:] == [
        "10.0.0.9\tdb",
        "fd00::9\tsix",
        "fd00::8\tsixes",
        "172.17.0.1\thost.docker.internal",
        "172.17.0.2\tweb.example.com web",
    ]


def test_hosts_without_an_address_names_only_loopback() -> None:
    assert "web" not in hosts_file("web")


@pytest.mark.parametrize(
    "entry", ["", "x", "x:", ":10.0.0.1", "a b:10.0.0.1", "x:nope", "x:10.0.0.1\n6.6.6.6 bank", "#:10.0.0.1"]
)
def test_a_malformed_extra_host_is_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="add-host"):
        parse_extra_host(entry, None)


def test_host_gateway_without_a_gateway_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="host-gateway"):
        parse_extra_host("x:host-gateway", None)


def test_hosts_has_the_first_word_of_a_full_name() -> None:
    address = IPv4Address("172.17.0.2")
    assert hosts_file("a.b.c", address=address).splitlines()[-1] == "172.17.0.2\ta.b.c a"
    assert hosts_file("a", address=address).splitlines()[-1] == "172.17.0.2\ta"
    assert hosts_file("a.b", "c", address=address).splitlines()[-1] == "172.17.0.2\ta.b.c a"
