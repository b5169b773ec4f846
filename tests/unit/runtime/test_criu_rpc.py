"""CRIU's protocol: against bytes written out by hand from rpc.proto, and hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import DataLoss, Internal
from wherry.runtime import criu_rpc as rpc


def test_a_request_is_what_the_protocol_says() -> None:
    request = {
        "type": rpc.DUMP,
        "opts": {"images_dir_fd": 4, "pid": 300, "leave_running": True, "ext_mnt": [{"key": "/a", "val": "b"}], "root": None},
    }  # fmt: skip
    assert rpc.encode(request) == bytes.fromhex("0801 1211 0804 10ac02 1801 ba0107 0a022f61 120162".replace(" ", ""))


def test_a_negative_number_takes_ten_bytes_and_comes_back() -> None:
    data = rpc.encode({"images_dir_fd": -1}, {"images_dir_fd": (1, "int")})
    assert data == bytes.fromhex("08ffffffffffffffffff01")
    assert rpc.decode(data, {"images_dir_fd": (1, "int")}) == {"images_dir_fd": -1}


def test_a_field_without_a_place_in_the_protocol_is_a_defect() -> None:
    with pytest.raises(Internal, match="no field 'colour'"):
        rpc.encode({"colour": 1})


def test_an_answer_is_read_and_what_is_unknown_passed_over() -> None:
    data = bytes.fromhex("0806 1001 2a0e 0a0a 7072652d726573756d65 102a 9a060161 f80601 a50601020304".replace(" ", ""))
    assert rpc.decode(data) == {"type": rpc.NOTIFY, "success": True, "notify": {"script": "pre-resume", "pid": 42}}


@pytest.mark.parametrize(
    "data", ["08", "0880", "2a05", "2a020a05", "0a0161", "0b", "08ffffffffffffffffffffff01", "2800", "0d0102"]
)
def test_a_damaged_answer_is_data_loss(data: str) -> None:
    with pytest.raises(DataLoss):
        rpc.decode(bytes.fromhex(data))


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    try:
        rpc.decode(data)
    except DataLoss:
        pass


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.booleans(), st.text(max_size=40))
def test_what_is_encoded_is_decoded(number: int, truth: bool, text: str) -> None:
    values = {"type": number, "success": truth, "cr_errmsg": text, "notify": {"script": text, "pid": number}}
    assert rpc.decode(rpc.encode(values, rpc.RESPONSE)) == values
