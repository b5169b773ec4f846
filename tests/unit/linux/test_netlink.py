"""The netlink codec: what it writes it reads; lengths that do not fit are refused, in both directions."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import DataLoss, InvalidArgument
from wherry.linux.netlink import (
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NetlinkError,
    NetlinkSocket,
    _check_error,
    attribute,
    attributes,
    message,
    nested,
    split_messages,
    text,
)
from wherry.linux.rtnetlink import Interfaces, Link, check_name, mac_bytes

kinds = st.integers(0, 0x3FFF)


@given(st.dictionaries(kinds, st.binary(max_size=200), max_size=8))
def test_attributes_survive_the_way_to_bytes_and_back(found: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in found.items())
    assert len(data) % 4 == 0
    assert attributes(data) == found
    assert attributes(attributes(nested(5, data))[5]) == found


@given(
    st.lists(
        st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=99))
    )
)
def test_messages_survive_the_way_to_bytes_and_back(found: list[tuple[int, int, int, bytes]]) -> None:
    assert list(split_messages(b"".join(message(*one) for one in found))) == found


@given(st.binary(max_size=300))
def test_no_bytes_from_outside_do_more_than_be_refused(data: bytes) -> None:
    for read in (attributes, lambda given: list(split_messages(given)), lambda given: Link(given.ljust(16, b"\0"))):
        try:
            read(data)
        except DataLoss:
            pass


@pytest.mark.parametrize("length", [0xFFFF - 4 + 1, 0x10000, 0x10004, 0x20000])
def test_cve_2021_43784_a_length_that_does_not_fit_is_refused_and_never_wraps(length: int) -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        attribute(1, b"x" * length)
    with pytest.raises(InvalidArgument, match="too long"):
        nested(1, *(attribute(2, b"x" * 1000) for _ in range(length // 1000 + 1)))


def test_the_longest_attribute_that_fits_is_taken() -> None:
    value = b"x" * (0xFFFF - 4)
    assert attributes(attribute(1, value)) == {1: value}


def test_a_message_beyond_the_limit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        message(16, 0, 1, bytes(1 << 20))


@pytest.mark.parametrize("claimed", [0, 3, 9, 0xFFFF])
def test_an_attribute_that_claims_an_impossible_length_is_refused(claimed: int) -> None:
    with pytest.raises(DataLoss):
        attributes(struct.pack("=HHI", claimed, 1, 0))


@pytest.mark.parametrize("claimed", [0, 15, 17, 0xFFFFFFFF])
def test_a_message_that_claims_an_impossible_length_is_refused(claimed: int) -> None:
    with pytest.raises(DataLoss):
        list(split_messages(struct.pack("=IHHII", claimed, 1, 0, 0, 0)))


def test_an_error_carries_the_kernels_own_words() -> None:
    body = struct.pack("=i", -errno.EINVAL) + bytes(16) + attribute(1, "the reason")
    with pytest.raises(NetlinkError, match=r"netlink link x: invalid argument \(the reason\)") as refused:
        _check_error(body, NLM_F_ACK_TLVS | NLM_F_CAPPED, "link x")
    assert (refused.value.errno, refused.value.detail) == (errno.EINVAL, "the reason")
    with pytest.raises(NetlinkError, match=r"netlink link x: invalid argument$"):
        _check_error(body, 0, "link x")


def test_text_ends_at_its_nul() -> None:
    assert text(b"eth0\0\0\0") == "eth0"
    assert text(b"\xff") == "\ufffd"


@pytest.mark.parametrize("name", ["", "x" * 16, "a/b", "a b", "a:b", ".", "..", "a\0b", "a\n", "ä" * 8])
def test_a_name_the_kernel_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid interface name"):
        check_name(name)


@pytest.mark.parametrize(
    "mac", ["", "02:42", "02:42:ac:11:00:02:03", "zz:42:ac:11:00:02", "01:00:5e:00:00:01", "0242ac110002"]
)
def test_a_mac_that_is_none_or_a_group_is_refused(mac: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid MAC"):
        mac_bytes(mac)
    assert mac_bytes("02:42:ac:11:00:02") == b"\x02\x42\xac\x11\x00\x02"


def test_the_kernel_tells_of_loopback_and_answers_without_privileges() -> None:
    with Interfaces() as here:
        loopback = here.link("lo")
        assert loopback.index == 1 and loopback.kind == "" and loopback.mac == "00:00:00:00:00:00"
        assert "lo" in {link.name for link in here.links()}
        with pytest.raises(NetlinkError) as refused:
            here.link("there-is-none")
        assert refused.value.errno == errno.ENODEV
        assert here.link("lo").index == 1, "an error leaves the socket usable"


def test_a_socket_is_not_inherited_and_waiting_for_nothing_ends_at_once() -> None:
    with NetlinkSocket(groups=[1]) as listening:
        assert not os.get_inheritable(listening.fileno())
        listening.receive_events()
