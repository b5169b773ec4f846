"""The query string and its values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.api.query import (
    as_dimension,
    as_filters,
    as_flag,
    as_integer,
    as_timestamp,
    parse_query,
    unescape,
)
from wherry.errors import InvalidArgument


@pytest.mark.parametrize("text", ["", "0", "no", "false", "none", "False", " NONE "])
def test_few_words_are_false(text: str) -> None:
    assert not as_flag(text)


@pytest.mark.parametrize("text", ["1", "true", "yes", "x"])
def test_all_other_words_are_true(text: str) -> None:
    assert as_flag(text)


def test_values_keep_their_order_and_their_escapes() -> None:
    assert parse_query("a=1&b=x%20y+z&a=2&c") == {"a": ["1", "2"], "b": ["x y z"], "c": [""]}


@pytest.mark.parametrize("text", ["a=%", "a=%z1", "%4=1", "a;b", "a=%ff"])
def test_a_malformed_query_is_invalid(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_query(text)


def test_numbers_are_of_64_bits() -> None:
    assert as_integer("-5") == -5
    assert as_integer("+7") == 7
    for text in ("x", "1.5", "0x1", "١", " 1", "1_0"):
        with pytest.raises(InvalidArgument, match="invalid syntax"):
            as_integer(text)
    for text in ("9223372036854775808", "9" * 5000):
        with pytest.raises(InvalidArgument, match="out of range"):
            as_integer(text)


def test_dimensions_are_of_32_bits() -> None:
    assert as_dimension("4294967295", "height") == 4294967295
    for text in ("", "x", "-1", "4294967296", "+1", "9" * 5000):
        with pytest.raises(InvalidArgument, match="invalid resize height"):
            as_dimension(text, "height")


def test_timestamps_are_nanoseconds() -> None:
    assert as_timestamp("", "since") is None
    assert as_timestamp("0", "since") == 0
    assert as_timestamp("1136073845.000000001", "since") == 1136073845000000001
    assert as_timestamp("1.5", "since") == 1500000000
    assert as_timestamp("1.", "since") == 1000000000
    for text in ("x", "1.x", "1e5", "2026-01-01", "1" * 40):
        with pytest.raises(InvalidArgument, match="invalid value for since"):
            as_timestamp(text, "since")


def test_filters_are_read_in_both_forms() -> None:
    assert as_filters("") == {}
    assert as_filters('{"status": {"running": true, "paused": true}}') == {"status": ["running", "paused"]}
    assert as_filters('{"status": ["running"], "x": {}}') == {"status": ["running"], "x": []}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": [1]}', '{"a": {"b": 1}}', "null", "[" * 5000])
def test_malformed_filters_are_invalid(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        as_filters(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_query, unescape, as_filters, as_integer, lambda t: as_timestamp(t, "x")):
        try:
            read(text)
        except InvalidArgument:
            pass
