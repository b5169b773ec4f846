"""Which registry is spoken to how: through which mirrors, with TLS, with TLS that is not verified, or in the clear.

**Invariant**: the decision rests on what the user wrote (the reference) and on the configuration alone, never on what a name resolves to: a
name server must not be able to switch TLS off.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from wherry.distribution.endpoint import HUB, Endpoint
from wherry.distribution.host_files import HostFiles
from wherry.errors import InvalidArgument
from wherry.spec.reference import DEFAULT_DOMAIN

CERTIFICATES = ("/etc/wherry/certs.d", "/etc/docker/certs.d", "/etc/containerd/certs.d")


class RegistryHosts:
    """`insecure`: the daemon's `insecure-registries`, each HOST, HOST:PORT or an address range in CIDR notation; the loopback addresses and
    "localhost" are insecure without being listed, as in Docker. `mirrors`: its `registry-mirrors`, URLs of mirrors of Docker Hub.
    `certificates`: directories of one directory for each registry (`host_files`), of which the first that has one for it counts.
    """

    def __init__(
        self, insecure: Iterable[str] = (), mirrors: Sequence[str] = (), certificates: Sequence[str] = CERTIFICATES
    ) -> None:
        self._files = HostFiles(certificates)
        self.renew(insecure, mirrors)

    def renew(self, insecure: Iterable[str], mirrors: Sequence[str]) -> None:
        """These from now on. InvalidArgument, and nothing has changed, when one of them is wrong."""
        names: set[str] = set()
        networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = [
            ipaddress.ip_network("127.0.0.0/8"),
            ipaddress.ip_network("::1/128"),
        ]
        for entry in insecure:
            if "://" in entry:
                raise InvalidArgument(f"insecure registry {entry} should not contain '://'")
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if not entry or "/" in entry:
                    raise InvalidArgument(f"insecure registry {entry} is not valid: invalid host") from None
                names.add(entry)
        self.mirrors = tuple(_mirror(url) for url in mirrors)
        self.insecure_names, self.insecure_networks = names, networks

    def endpoints(self, domain: str, *, push: bool = False) -> list[Endpoint]:
        """What to try, in order, for a reference's domain: mirrors first, the registry itself last. Reads the registry's directory;
        InvalidArgument when that is wrong."""
        files = self._files.read(domain)
        own = [files.server] if files.server is not None else self._own(domain, files.tls)
        mirrors = list(files.hosts)
        if not mirrors and domain == DEFAULT_DOMAIN:
            mirrors = [self._mirror(url) for url in self.mirrors]
        return [mirror for mirror in mirrors if (mirror.may_push if push else mirror.may_pull)] + own

    def _own(self, domain: str, tls: ssl.SSLContext | None) -> list[Endpoint]:
        """Without mirrors. Certificates for a loopback address say that it is to be verified; listing a registry as insecure says more."""
        host = HUB if domain == DEFAULT_DOMAIN else domain
        if tls is not None and not self._is_listed(domain):
            return [Endpoint(f"https://{host}", tls)]
        if not self.is_insecure(domain):
            return [Endpoint(f"https://{host}")]
        return [Endpoint(f"https://{host}", tls=False), Endpoint(f"http://{host}", tls=False)]

    def _mirror(self, url: str) -> Endpoint:
        host = urlsplit(url).netloc
        [*_, own] = self._own(host, self._files.read(host).tls)
        return replace(own, base=url, mirror=True, may_push=False)

    def _is_listed(self, domain: str) -> bool:
        return domain in self.insecure_names or host_of(domain) in self.insecure_names

    def is_insecure(self, domain: str) -> bool:
        host = host_of(domain)
        if self._is_listed(domain) or host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return False
        return any(address in network for network in self.insecure_networks if network.version == address.version)


def host_of(domain: str) -> str:
    """Without the port."""
    host, colon, port = domain.rpartition(":")
    return host if colon and port.isdigit() else domain


def _mirror(url: str) -> str:
    """Checked and without a slash at the end. Source: dockerd's rules for `registry-mirrors`."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError as error:
        raise InvalidArgument(f'invalid mirror: "{url}" is not a valid URI: {error}') from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidArgument(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{url}"')
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise InvalidArgument(f'invalid mirror: path, query, or fragment at end of the URI "{url}"')
    if "@" in parts.netloc:
        raise InvalidArgument(f'invalid mirror: username/password not allowed in URI "{parts.scheme}://xxxxx@…"')
    return f"{parts.scheme}://{parts.netloc}"
