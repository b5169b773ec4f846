"""Proxies are chosen as Go chooses them."""

from __future__ import annotations

import pytest

from wherry.distribution.proxies import checked, proxy_for, shown
from wherry.errors import InvalidArgument

BOTH = {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "q:2"}


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("http://a.example/x", BOTH, "http://p:1"),
        ("https://a.example/x", BOTH, "http://q:2"),
        ("https://a.example/x", {"HTTP_PROXY": "http://p:1"}, None),
        ("http://a.example/x", {"http_proxy": "http://low:1"}, "http://low:1"),
        ("http://a.example/x", {"http_proxy": "http://low:1", **BOTH}, "http://p:1"),
        ("http://localhost:5000/", BOTH, None),
        ("http://127.9.9.9/", BOTH, None),
        ("http://[::1]:80/", BOTH, None),
    ],
)
def test_the_scheme_chooses(url: str, environment: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, environment) == proxy


@pytest.mark.parametrize(
    ("exceptions", "direct", "through"),
    [
        ("*", "a.example", ""),
        ("a.example", "a.example", "ba.example"),
        ("a.example", "A.Example", "a.example.org"),
        ("a.example", "x.a.example", ""),
        (".a.example", "x.a.example", "a.example"),
        ("*.a.example", "x.a.example", "a.example"),
        ("b, a.example:80 ,c", "a.example", "a.example:81"),
        ("10.0.0.0/8", "10.1.2.3", "11.1.2.3"),
        ("10.1.2.3", "10.1.2.3:9", "10.1.2.33"),
        ("10.1.2.3:9", "10.1.2.3:9", "10.1.2.3"),
        ("fd00::/8", "[fd00::1]", "[fe00::1]"),
        ("[fd00::1]:80", "[fd00::1]", "[fd00::1]:81"),
        ("10.0.0.0/99,,", "", "10.0.0.1"),
    ],
)
def test_exceptions_are_asked_directly(exceptions: str, direct: str, through: str) -> None:
    environment = {**BOTH, "NO_PROXY": exceptions}
    if direct:
        assert proxy_for(f"http://{direct}/", environment) is None
    if through:
        assert proxy_for(f"http://{through}/", environment) == "http://p:1"


@pytest.mark.parametrize("proxy", ["socks5://p:1", "http://", "http://p:x", "ftp://a:secret@p"])
def test_what_is_no_proxy_of_http_is_refused_without_its_password(proxy: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid proxy") as caught:
        checked(proxy)
    assert "secret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    assert shown("HTTP_PROXY", {"HTTP_PROXY": "http://me:secret@p:1"}) == "http://xxxxx:xxxxx@p:1"
    assert shown("HTTP_PROXY", {"HTTP_PROXY": "me:secret@p:1"}) == "xxxxx:xxxxx@p:1"
    assert shown("NO_PROXY", {"NO_PROXY": "a,b"}) == "a,b"
    assert shown("HTTPS_PROXY", {}) == ""
