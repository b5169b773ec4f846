"""Engine addresses: every form that Docker's clients accept, or a refusal that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.client import address
from wherry.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", "unix:///run/wherry.sock"),
        ("unix://", "unix:///run/wherry.sock"),
        ("unix:///a/b", "unix:///a/b"),
        ("tcp://host:5", "tcp://host:5"),
        ("tcp://host", "tcp://host:2375"),
        ("tcp://:5", "tcp://localhost:5"),
        (":5", "tcp://localhost:5"),
        ("host", "tcp://host:2375"),
        ("http://host:80/", "tcp://host:80"),
        ("https://host", "tcp://host:2376"),
        ("tcp://[::1]:5", "tcp://[::1]:5"),
        ("tcp://[::1]", "tcp://[::1]:2375"),
    ],
)
def test_an_address_has_one_canonical_form(text: str, canonical: str) -> None:
    assert address.parse(text).text == canonical


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unix://relative", "absolute path"),
        ("ssh://host", "ssh:// addresses are not supported"),
        ("npipe:////./pipe/x", "npipe:// addresses are not supported"),
        ("fd://", "fd:// addresses are not supported"),
        ("gopher://x", "unknown scheme 'gopher'"),
        ("tcp://host:x", "invalid port 'x'"),
        ("tcp://host:0", "invalid port '0'"),
        ("tcp://host:65536", "invalid port"),
        ("tcp://::1:5", "in brackets"),
        ("tcp://[::1", "invalid IPv6 address"),
    ],
)
def test_an_address_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        address.parse(text)
    assert words in str(caught.value)


def test_the_environment_names_the_engine() -> None:
    assert address.from_environment({"DOCKER_HOST": "tcp://a"}).text == "tcp://a:2375"
    assert address.from_environment({"DOCKER_HOST": "tcp://a", "WHERRY_HOST": "unix:///b"}).text == "unix:///b"
    assert address.from_environment({}).text == "unix:///run/wherry.sock"


def test_the_environment_asks_for_tls(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    found = address.from_environment(
        {"DOCKER_HOST": "tcp://a", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    )
    assert found.text == "tcp://a:2376"
    assert found.tls is not None
    assert (found.tls.verify, found.tls.ca) == (True, f"{tmp_path}/ca.pem")
    assert address.environment_tls({"DOCKER_TLS_VERIFY": ""}) is None
