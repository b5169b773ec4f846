"""Sizes, durations, CPUs and times: read as Docker reads them, written as Docker writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli import units


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1024", 1024),
        ("1b", 1),
        ("1k", 1 << 10),
        ("1K", 1 << 10),
        ("1kb", 1 << 10),
        ("1KiB", 1 << 10),
        ("512m", 512 << 20),
        ("1.5g", 3 << 29),
        ("2 GB", 2 << 30),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
        (".5k", 512),
        ("-1", -1),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text: str, value: int) -> None:
    assert units.parse_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("x", "invalid size: 'x'"),
        ("-2", "invalid size: '-2'"),
        ("5x", "invalid suffix: 'x'"),
        ("5kx", "invalid suffix: 'kx'"),
        ("5kibx", "invalid suffix: 'kibx'"),
        ("5bb", "invalid suffix: 'bb'"),
        ("1.2.3", 'strconv.ParseFloat: parsing "1.2.3": invalid syntax'),
        ("1_0", 'strconv.ParseFloat: parsing "1_0": invalid syntax'),
    ],
)
def test_a_size_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        units.parse_bytes(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("size", "digits", "text"),
    [
        (0, 3, "0B"),
        (999, 3, "999B"),
        (1000, 3, "1kB"),
        (1984162, 3, "1.98MB"),
        (1984162, 4, "1.984MB"),
        (123456789, 3, "123MB"),
        (1e9, 4, "1GB"),
    ],
)
def test_sizes_of_images_are_written_in_powers_of_1000(size: float, digits: int, text: str) -> None:
    assert units.decimal_size(size, digits) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (331776, "324KiB"), (25275895808, "23.54GiB")]
)
def test_sizes_of_memory_are_written_in_powers_of_1024(size: float, text: str) -> None:
    assert units.binary_size(size) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 10**9),
        ("0.5", 5 * 10**8),
        (".25", 25 * 10**7),
        ("3/2", 1_500_000_000),
        ("1e-1", 10**8),
        ("2E0", 2 * 10**9),
    ],
)
def test_cpus_are_read_as_rational_numbers(text: str, value: int) -> None:
    assert units.parse_cpus(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1/0", "1/", "e5", "1e", "١", "1e99999999", "--1", "1 "])
def test_cpus_that_are_no_number_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="failed to parse"):
        units.parse_cpus(text)


def test_cpus_finer_than_a_nanocpu_are_refused() -> None:
    with pytest.raises(ValueError, match="value is too precise"):
        units.parse_cpus("1.0000000001")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1h2m3s", 3723 * 10**9),
        ("1.5s", 15 * 10**8),
        ("250ms", 25 * 10**7),
        ("-1m", -60 * 10**9),
        ("+1ns", 1),
        ("1us1µs", 2000),
        (".5s", 5 * 10**8),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert units.parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "1..5s", "-", "1s5"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time: "):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3540, "59 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (13 * 86400, "13 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (365 * 86400, "12 months"),
        (800 * 86400, "2 years"),
    ],
)
def test_durations_are_written_in_words(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-02T03:04:05.123456789Z", 1767323045123456789),
        ("2026-01-02T03:04:05+01:00", 1767319445 * 10**9),
        ("2026-01-02T03:04:05-01:30", 1767328445 * 10**9),
        ("2026-01-02", 1767312000 * 10**9),
        ("2026-01-02T03:04", 1767323040 * 10**9),
        ("2000-02-29T00:00:00Z", 951782400 * 10**9),
    ],
)
def test_times_are_read_as_rfc_3339(text: str, nanoseconds: int) -> None:
    assert units.parse_rfc3339(text) == nanoseconds


@given(st.integers(min_value=0, max_value=4_102_444_800))
def test_local_times_are_read_back(seconds: int) -> None:
    assert units.parse_rfc3339(units.local_time(seconds * units.SECOND)) == seconds * units.SECOND


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42m", "7480.000000000"),
        ("1970-01-01T00:00:05Z", "5.000000000"),
        ("1700000000", "1700000000"),
        ("1700000000.25", "1700000000.25"),
        ("0s", "10000.000000000"),
    ],
)
def test_since_is_a_duration_a_time_or_seconds(text: str, value: str) -> None:
    assert units.timestamp(text, now_ns=10_000 * units.SECOND) == value


@pytest.mark.parametrize("text", ["", "x", "2026-13-01", "1.x", "yesterday"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        units.timestamp(text)


@pytest.mark.parametrize(
    ("rfc3339", "expected"),
    [
        ("2026-01-02T03:04:05.123456Z", "2026-01-02 03:04:05.123456 +0000 UTC"),
        ("2026-01-02T03:04:05.048080Z", "2026-01-02 03:04:05.04808 +0000 UTC"),
        ("2026-01-02T03:04:05.000000Z", "2026-01-02 03:04:05 +0000 UTC"),
        ("2026-01-02T03:04:00Z", "2026-01-02 03:04:00 +0000 UTC"),
        ("2026-01-02T03:04:05.5+01:00", "2026-01-02 03:04:05.5 +0100 +0100"),
        ("2026-01-02T03:04:05-02:30", "2026-01-02 03:04:05 -0230 -0230"),
        ("", ""),
    ],
)
def test_times_are_shown_as_go_shows_them(rfc3339: str, expected: str) -> None:
    assert units.go_time(rfc3339) == expected
