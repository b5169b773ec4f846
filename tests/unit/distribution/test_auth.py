"""Challenges of registries, and which two URLs are the same place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.distribution.auth import Challenge, origin, parse_challenges
from wherry.distribution.errors import registry_error


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ("", []),
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="r"', [Challenge("basic", {"realm": "r"})]),
        (
            'Bearer realm="https://a/token",service="s",scope="repository:x/y:pull,push"',
            [Challenge("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:x/y:pull,push"})],
        ),
        ('bearer REALM = "a\\"b" , x=token', [Challenge("bearer", {"realm": 'a"b', "x": "token"})]),
        (
            'Negotiate, Basic realm="r", Bearer realm="t"',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "r"}), Challenge("bearer", {"realm": "t"})],
        ),
        ('Bearer realm="unfinished', [Challenge("bearer", {})]),
    ],
)
def test_challenges_are_read(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


@given(st.text(alphabet='Bearr ="\\,realmé\t', max_size=200))
def test_any_header_is_read_without_an_error(header: str) -> None:
    parse_challenges(header)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("https://A.example/x") == origin("https://a.example:443/y?z") == ("https", "a.example", 443)
    assert origin("http://a.example") != origin("https://a.example")
    assert origin("https://a.example") != origin("https://a.example:444")


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', "manifest unknown: manifest unknown"),
        (403, b'{"errors":[{"code":"DENIED","message":"no\\u001b[31m"}]}', "denied: no [31m"),
        (401, b"", "unauthorized: unexpected status code 401"),
        (500, b"<html>oops</html>", "unknown: <html>oops</html>"),
        (404, b'{"errors":[]}', "name unknown: unexpected status code 404"),
        (404, b'{"errors":[1]}', "name unknown: unexpected status code 404"),
        (429, b'{"errors":[{"code":7,"message":{}}]}', "unknown"),
        (418, b"[" * 100_000, "unknown: unexpected status code 418"),
    ],
)  # fmt: skip
def test_a_registrys_error_is_shown_whatever_its_form(status: int, body: bytes, text: str) -> None:
    error = registry_error(status, body)
    assert (str(error), error.status) == (text, status)
