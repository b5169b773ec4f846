"""The `reference` filter: Go's patterns."""

from __future__ import annotations

import pytest

from wherry.engine.image_listing import matches
from wherry.spec.reference import parse


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*", False),
        ("*/*", True),
        ("**/**", True),
        ("team/*", True),
        ("team/*:1.?", True),
        ("team/*:*2*", True),
        ("*m/*p*:1*2", True),
        ("*m/a*p*p*:1*2", True),
        ("*m/a*p*p*p*:1*2", False),
        ("team/[a-c]pp", True),
        ("team/[^a]pp", False),
        ("team/app:1.2*", True),
        ("team/app:1.2?", False),
        ("te\\am/app", True),
        ("", False),
        ("/".join("*a" * 50 for _ in range(2)) + "*b", False),
    ],
)
def test_a_pattern_fits_as_in_go(pattern: str, fits: bool) -> None:
    assert matches(parse("team/app:1.2"), [pattern]) is fits


def test_many_stars_cost_nothing() -> None:
    assert not matches(parse("a" * 200 + ":" + "a" * 100), ["*a" * 60 + "*b"])
    assert matches(parse("a" * 200), ["*a" * 60 + "*"])
