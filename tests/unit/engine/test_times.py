from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.times import human_duration, parse_rfc3339_nano, parse_timestamp, rfc3339_nano
from wherry.errors import InvalidArgument


@given(st.integers(min_value=1, max_value=4_000_000_000_000_000_000))
def test_a_written_time_reads_back_as_itself(ns: int) -> None:
    assert parse_rfc3339_nano(rfc3339_nano(ns)) == ns


def test_zero_is_gos_zero_time() -> None:
    assert rfc3339_nano(0) == "0001-01-01T00:00:00Z"


def test_an_offset_is_taken_into_account() -> None:
    assert parse_rfc3339_nano("2026-01-01T02:00:00+02:00") == parse_rfc3339_nano("2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (3 * 3600, "3 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_durations_read_as_dockers(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(("text", "ns"), [("12.5", 12_500_000_000), ("10s", 90_000_000_000), ("1m30s", 10_000_000_000)])
def test_since_takes_seconds_and_durations(text: str, ns: int) -> None:
    assert parse_timestamp(text, now_ns=100_000_000_000) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "5x", "1m30", "s"])
def test_since_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_timestamp(text, now_ns=0)
