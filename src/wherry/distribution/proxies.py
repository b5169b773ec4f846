"""Through which proxy a URL is fetched. Pure, but for the environment that is handed in.

Source of the rules: Go's golang.org/x/net/http/httpproxy, so that an environment written for dockerd means the same here: HTTP_PROXY, HTTPS_PROXY,
NO_PROXY, else their lower-case forms. Loopback addresses and "localhost" are never asked through a proxy. An entry of NO_PROXY is a host and all
below it (`example.com`), only what is below it (`.example.com`, `*.example.com`), an address, a range of them, `*`; a port may follow.
wherryd's own settings are put into its environment, as dockerd puts them.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from wherry.errors import InvalidArgument

_PORTS = {"http": 80, "https": 443}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def setting(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Of "HTTP_PROXY", "HTTPS_PROXY" or "NO_PROXY"."""
    return environment.get(name) or environment.get(name.lower()) or ""


def shown(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """As `setting`, without what is secret in it."""
    text = setting(name, environment)
    scheme, separator, rest = text.rpartition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{separator}xxxxx:xxxxx@{host}" if at else text


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The proxy's URL, None to go directly. InvalidArgument when what the environment says is no proxy that wherry can use."""
    parts = urlsplit(url)
    proxy = setting(f"{parts.scheme.upper()}_PROXY", environment)
    if not proxy or _is_direct(parts, setting("NO_PROXY", environment)):
        return None
    return checked(proxy)


def checked(proxy: str) -> str:
    """The URL of a proxy; "host:port" is one of HTTP."""
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(f"invalid proxy: {shown('', {'': proxy})[:200]} is not http://HOST:PORT")
    return url


def _is_direct(parts: SplitResult, exceptions: str) -> bool:
    host, port = (parts.hostname or "").lower().rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_fits(entry.strip().lower(), host, address, port) for entry in exceptions.split(",") if entry.strip())


def _fits(entry: str, host: str, address: Address | None, port: int) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False) if "/" in entry else None
    except ValueError:
        return False
    if network is not None:
        return address is not None and address in network
    name, wanted = _split(entry)
    if wanted and wanted != str(port):
        return False
    literal = _address(name)
    if literal is not None:
        return address == literal
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split(entry: str) -> tuple[str, str]:
    """(host, port), the port "" for any."""
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
    return host, port


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
