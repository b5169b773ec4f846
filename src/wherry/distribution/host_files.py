"""What the machine's administrator says of a registry in files: certificates as Docker has them, `hosts.toml` as containerd has it.

    <directory>/<host[:port]>/*.crt             certificate authorities, beside the system's
    <directory>/<host[:port]>/*.cert, *.key     client certificates, by pairs of one name
    <directory>/<host[:port]>/hosts.toml        mirrors, each with its own TLS (`_default` stands for all registries)
    <directory>/<host>_<port>_/…                the same, for file systems without ":", as containerd reads it: before the other

Read anew for every operation: nothing has to be restarted. Sources: docs of dockerd ("certificates") and containerd ("hosts.md").
**Invariant**: a file that is there and wrong is an error that names it, never passed over: it may be all that makes a connection safe.
"""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wherry.distribution.endpoint import HUB, Endpoint
from wherry.errors import InvalidArgument
from wherry.spec.reference import DEFAULT_DOMAIN

_MAX_FILE = 1 << 20
_CAPABILITIES = ("pull", "resolve", "push")
_HOST_KEYS = frozenset(
    {"server", "capabilities", "ca", "client", "skip_verify", "override_path", "header", "host", "dial_timeout"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """`tls`: for the registry itself, None when nothing is said. `server`: in place of the registry itself."""

    tls: ssl.SSLContext | None = None
    server: Endpoint | None = None
    hosts: tuple[Endpoint, ...] = ()


class HostFiles:
    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = directories

    def read(self, host: str) -> Found:
        """InvalidArgument, naming the file, when something in it is wrong."""
        name, colon, port = host.rpartition(":")
        for names in ((f"{name}_{port}_", host) if colon else (host,), ("_default",)):
            for parent in self._directories:
                for one in names:
                    directory = os.path.join(parent, one)
                    if "/" not in one and os.path.isdir(directory):
                        return _read_directory(directory, host)
        return Found()


def _read_directory(directory: str, host: str) -> Found:
    listed = os.path.join(directory, "hosts.toml")
    if os.path.exists(listed) and os.path.getsize(listed):
        return _read_hosts(listed, host)
    authorities, pairs = [], []
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        stem, suffix = os.path.splitext(path)
        match suffix:
            case ".crt":
                authorities.append(path)
            case ".cert":
                if not os.path.exists(f"{stem}.key"):
                    raise InvalidArgument(f"missing key {os.path.basename(stem)}.key for client certificate {path}")
                pairs.append((path, f"{stem}.key"))
            case ".key":
                if not os.path.exists(f"{stem}.cert"):
                    raise InvalidArgument(f"missing client certificate {os.path.basename(stem)}.cert for key {path}")
    return Found(tls=_context(authorities, pairs)) if authorities or pairs else Found()


def _context(authorities: Sequence[str], pairs: Sequence[tuple[str, str | None]]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for path in authorities:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"{path}: not a certificate: {error}") from None
    for certificate, key in pairs:
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"")  # never asks on a terminal
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgument(f"{certificate}: no client certificate with its key: {error}") from None
    return context


def _read_hosts(path: str, host: str) -> Found:
    """What is said outside of the table of hosts is of the server: the registry itself, if none is named."""
    try:
        with open(path, "rb") as file:
            document = tomllib.loads(file.read(_MAX_FILE).decode())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path}: {error}") from None
    unknown = sorted(set(document) - _HOST_KEYS)
    if unknown:
        raise InvalidArgument(f"{path}: unknown key {unknown[0]}")
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise InvalidArgument(f"{path}: host is not a table of hosts")
    listed = tuple(_host(url, table, f'{path}: host."{url}"', path, mirror=True) for url, table in hosts.items())
    if not set(document) - {"host"}:
        return Found(hosts=listed)
    server = document.get("server", f"https://{HUB if host == DEFAULT_DOMAIN else host}")
    if not isinstance(server, str):
        raise InvalidArgument(f"{path}: server is not a URL")
    own = {key: value for key, value in document.items() if key not in ("host", "server")}
    return Found(server=_host(server, own, path, path, mirror=False), hosts=listed)


def _host(url: str, table: Any, where: str, path: str, *, mirror: bool) -> Endpoint:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{where} is not a table")
    unknown = sorted(set(table) - _HOST_KEYS)
    if unknown:
        raise InvalidArgument(f"{where}: unknown key {unknown[0]}")
    if "dial_timeout" in table:
        raise InvalidArgument(f"{where}: wherry does not support dial_timeout")
    base, prefix = _address(url, where, override=_flag(table, "override_path", where))
    capabilities = _strings(table.get("capabilities", [*_CAPABILITIES]), f"{where}: capabilities")
    for name in capabilities:
        if name not in _CAPABILITIES:
            raise InvalidArgument(f"{where}: unknown capability {name}")
    headers = table.get("header", {})
    if not isinstance(headers, dict):
        raise InvalidArgument(f"{where}: header is not a table")
    return Endpoint(
        base,
        _tls(table, where, os.path.dirname(path)),
        prefix,
        {name: ", ".join(_strings(value, f"{where}: header.{name}")) for name, value in headers.items()},
        mirror,
        may_pull="pull" in capabilities,
        may_push="push" in capabilities,
        may_resolve="resolve" in capabilities,
    )


def _address(url: str, where: str, *, override: bool) -> tuple[str, str]:
    """→ scheme and host; the API's path below it. A host without a scheme is spoken to with TLS."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if (
        parts.scheme not in ("http", "https")
        or not parts.netloc
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise InvalidArgument(f"{where}: {url} is not the URL of a registry")
    path = parts.path.rstrip("/")
    if not override and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}", path


def _tls(table: Mapping[str, Any], where: str, folder: str) -> bool | ssl.SSLContext:
    if _flag(table, "skip_verify", where):
        return False
    authorities = [os.path.join(folder, path) for path in _strings(table.get("ca", []), f"{where}: ca")]
    client = table.get("client", [])
    pairs: list[tuple[str, str | None]] = []
    for entry in client if isinstance(client, list) else [client]:
        names = _strings(entry, f"{where}: client")
        if not 1 <= len(names) <= 2:
            raise InvalidArgument(f"{where}: client is a file, or a pair of certificate and key")
        key = os.path.join(folder, names[1]) if len(names) == 2 and names[1] else None
        pairs.append((os.path.join(folder, names[0]), key))
    return _context(authorities, pairs) if authorities or pairs else True


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{where}: {key} is true or false")
    return value


def _strings(value: Any, where: str) -> list[str]:
    """One string is a list of one."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise InvalidArgument(f"{where} is not a list of strings")
    return found
