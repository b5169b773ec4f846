"""What the engine asks of registries for its users' sake, beside images: whether a login is right. Implements `api.backend.RegistryBackend`."""

from __future__ import annotations

from urllib.parse import urlsplit

from wherry.distribution.connection import Connection, new_session
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import InvalidArgument, PermissionDenied, Unavailable
from wherry.spec.calls import Json, RegistryAuth
from wherry.spec.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN, split_domain


class Registries:
    def __init__(self, hosts: RegistryHosts) -> None:
        self._hosts = hosts

    async def authenticate(self, auth: RegistryAuth) -> Json:
        """The body of POST /auth. PermissionDenied when the registry refuses, Unavailable when it is not there."""
        domain = domain_of(auth.server_address)
        failure: Exception | None = None
        async with new_session() as session:
            for endpoint in self._hosts.endpoints(domain):
                if endpoint.mirror:
                    continue
                try:
                    identity = await Connection(session, endpoint, auth).log_in()
                except Unavailable as error:
                    failure = error
                    continue
                except RegistryError as error:
                    if error.status in (401, 403):
                        raise PermissionDenied(f'Get "{endpoint.base}{endpoint.prefix}/": {error}') from None
                    raise Unavailable(str(error)) from None
                return {"Status": "Login Succeeded", "IdentityToken": identity}
        assert failure is not None  # the registry itself is always among the endpoints
        raise failure


def registry_config(hosts: RegistryHosts) -> Json:
    """`RegistryConfig` of GET /info."""
    names = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in sorted(hosts.insecure_names)
    }
    hub = {"Name": DEFAULT_DOMAIN, "Mirrors": [f"{url}/" for url in hosts.mirrors], "Secure": True, "Official": True}
    return {
        "InsecureRegistryCIDRs": [str(network) for network in hosts.insecure_networks],
        "IndexConfigs": {DEFAULT_DOMAIN: hub, **names},
        "Mirrors": [f"{url}/" for url in hosts.mirrors],
    }


def domain_of(address: str) -> str:
    """The registry that a login's server address means: "" and Docker Hub's old URL are docker.io, a URL is its host."""
    host = urlsplit(address).netloc if "://" in address else address.partition("/")[0]
    if host in ("", DEFAULT_DOMAIN, LEGACY_DOMAIN, "registry-1.docker.io"):
        return DEFAULT_DOMAIN
    domain, _ = split_domain(f"{host}/x")
    if domain == DEFAULT_DOMAIN and host != DEFAULT_DOMAIN:
        raise InvalidArgument(f"invalid registry address: {address[:200]}")
    return host
