"""The contents of a container's /etc/resolv.conf and /etc/hosts.

Reads the host's own files, writes none: the engine does. Rules: resolv.conf(5), and Docker's for the default bridge, where no resolver of the
engine's own stands between: name servers that the container cannot reach are left out.

Deliberately absent: the embedded DNS server of user-defined networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, ip_address

from wherry.errors import InvalidArgument

_RESOLV_CONF = "/etc/resolv.conf"
_HOSTS = "/etc/hosts"
_BEHIND_SYSTEMD_RESOLVED = "/run/systemd/resolve/resolv.conf"
_SYSTEMD_STUB = "127.0.0.53"
_FALLBACK = ("8.8.8.8", "8.8.4.4")
_LOOPBACK = IPv4Network("127.0.0.0/8")
_LIMIT = 1 << 16
HOST_GATEWAY = "host-gateway"

_FIXED_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def host_resolv_conf(*, keep_loopback: bool = False) -> str:
    """The host's configuration; where that is systemd-resolved's stub, the one with the real servers. "" when there is none."""
    text = _read(_RESOLV_CONF)
    if not keep_loopback and _words(text, "nameserver") == [_SYSTEMD_STUB]:
        return _read(_BEHIND_SYSTEMD_RESOLVED) or text
    return text


def resolv_conf(
    servers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
    *,
    keep_loopback: bool = False,
    host: str | None = None,
) -> str:
    """The host's configuration (`host`, for tests: its text) with what the user has set instead. `search` ("." alone): no search list.

    Name servers of the host on loopback or IPv6 addresses are dropped, and public ones stand in when none is left; not with `keep_loopback`, for
    a container that shares the host's network. InvalidArgument.
    """
    if host is None:
        host = host_resolv_conf(keep_loopback=keep_loopback)
    for server in servers:
        _check_address(server, "invalid IP address for --dns")
    for word in (*search, *options):
        if not word or any(c.isspace() or not c.isprintable() for c in word):
            raise InvalidArgument(f"{word!r} is not a valid domain or option")
    given = _words(host, "nameserver")
    chosen = list(servers) or (given if keep_loopback else [server for server in given if _is_reachable(server)])
    if not chosen and not keep_loopback:
        chosen = list(_FALLBACK)
    domains = [domain for domain in search if domain != "."] if search else _words(host, "search")
    flags = list(options) or _words(host, "options")
    lines = [f"nameserver {server}" for server in chosen]
    if domains:
        lines.append(f"search {' '.join(domains)}")
    if flags:
        lines.append(f"options {' '.join(flags)}")
    return "".join(f"{line}\n" for line in lines)


def parse_extra_host(entry: str, gateway: IPv4Address | None) -> tuple[str, str]:
    """("db", "10.0.0.2") of "db:10.0.0.2", "db=10.0.0.2" or "db:host-gateway". InvalidArgument."""
    separator = "=" if "=" in entry else ":"
    name, found, address = entry.partition(separator)
    if not found or not name or any(c.isspace() or not c.isprintable() or c == "#" for c in name):
        raise InvalidArgument(f"bad format for add-host: {entry!r}")
    if address == HOST_GATEWAY:
        if gateway is None:
            raise InvalidArgument("unable to derive the IP value for host-gateway")
        return name, str(gateway)
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    _check_address(address, "invalid IP address in add-host")
    return name, address


def hosts_file(
    hostname: str,
    domainname: str = "",
    *,
    address: IPv4Address | None = None,
    extra: Sequence[str] = (),
    host_gateway: IPv4Address | None = None,
    from_host: bool = False,
) -> str:
    """The fixed entries (`from_host`: the host's own file), the `extra` ones ("db:10.0.0.2"), the container itself. InvalidArgument."""
    start = _read(_HOSTS) if from_host else _FIXED_HOSTS
    lines = [start if start.endswith("\n") or not start else f"{start}\n"]
    lines += [f"{found}\t{name}\n" for name, found in (parse_extra_host(entry, host_gateway) for entry in extra)]
    if address is not None:
        full = f"{hostname}.{domainname}" if domainname else hostname
        short, dot, _ = full.partition(".")
        lines.append(f"{address}\t{full} {short}\n" if dot else f"{address}\t{full}\n")
    return "".join(lines)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LIMIT)
    except OSError:
        return ""


def _words(text: str, keyword: str) -> list[str]:
    """All `nameserver` values; of `search` (or `domain`) and `options` the last line's, as the resolver takes them."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if keyword == "nameserver" and words[0] == "nameserver":
            found += words[1:2]
        elif words[0] == keyword or (keyword == "search" and words[0] == "domain"):
            found = words[1:]
    return found


def _is_reachable(server: str) -> bool:
    try:
        address = ip_address(server.partition("%")[0])
    except ValueError:
        return False
    return isinstance(address, IPv4Address) and address not in _LOOPBACK


def _check_address(text: str, complaint: str) -> None:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        raise InvalidArgument(f"{complaint}: {text!r}") from None
