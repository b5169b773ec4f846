import pytest

from wherry.registry.sending import Unsatisfiable, is_unchanged, parse_range
from wherry.spec.ids import Digest


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=5-50", (5, 10)),
        ("Bytes = 5-6", (5, 7)),
        ("bytes=0-1,3-4", None),
        ("lines=1-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
    ],
)
def test_a_range_of_ten_bytes(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=5-4", "bytes=-0", "bytes=99-100"])
def test_a_range_that_is_not_there(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 10)


def test_an_empty_blob_has_no_ranges() -> None:
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=0-", 0)


def test_a_digest_is_the_entity_tag() -> None:
    digest = Digest("sha256:" + "0" * 64)
    assert is_unchanged(f'"a", W/"{digest}"', digest) and is_unchanged("*", digest)
    assert not is_unchanged('"a"', digest) and not is_unchanged(None, digest)
