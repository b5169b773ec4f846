"""Which registries are spoken to without TLS: only those that the user or the configuration names."""

from __future__ import annotations

import pytest

from wherry.distribution.hosts import RegistryHosts, host_of
from wherry.errors import InvalidArgument


@pytest.mark.parametrize(
    "domain",
    [
        "localhost",
        "localhost:5000",
        "127.0.0.1",
        "127.9.9.9:5000",
        "[::1]:5000",
        "own.example:8080",
        "any.example:1",
        "10.1.2.3:5000",
    ],
)
def test_loopback_and_listed_registries_may_be_insecure(domain: str) -> None:
    hosts = RegistryHosts(["own.example:8080", "any.example", "10.0.0.0/8"])
    assert [endpoint.base for endpoint in hosts.endpoints(domain)] == [f"https://{domain}", f"http://{domain}"]


@pytest.mark.parametrize(
    "domain",
    [
        "docker.io",
        "quay.io",
        "own.example",
        "own.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "128.0.0.1",
        "[::2]:1",
    ],
)
def test_every_other_registry_is_spoken_to_with_verified_tls_only(domain: str) -> None:
    [endpoint] = RegistryHosts(["own.example:8080"]).endpoints(domain)
    assert endpoint.base.startswith("https://") and endpoint.tls is True


def test_docker_hub_has_another_address_than_name() -> None:
    assert RegistryHosts().endpoints("docker.io")[0].base == "https://registry-1.docker.io"


@pytest.mark.parametrize("entry", ["http://a.example", "a.example/path", ""])
def test_an_insecure_registry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument, match="insecure registry"):
        RegistryHosts([entry])


def test_a_host_is_told_from_its_port() -> None:
    assert [host_of(text) for text in ("a:1", "a", "[::1]:5", "[::1]")] == ["a", "a", "[::1]", "[::1]"]
