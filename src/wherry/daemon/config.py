"""wherryd's configuration: flags and daemon.json, merged and checked, as one frozen value.

Source of the rules: dockerd. A key that is unknown is an error that names it; so is one that is set both by a flag and in the file. The file is
strict JSON; a missing one is an error only if it was asked for by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING, Any

from wherry.core.drivers import DRIVERS
from wherry.daemon.options import BY_FLAG, BY_KEY, DOCKERD_ONLY, Kind, Option, parse_arguments
from wherry.distribution.hosts import RegistryHosts
from wherry.distribution.proxies import checked as check_proxy
from wherry.errors import InvalidArgument
from wherry.wire.engine import Ulimit

if TYPE_CHECKING:
    from wherry.trust.policy import Policy

MAX_FILE = 1 << 20
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
LOG_FORMATS = ("text", "json")
DEFAULT_GROUP = "docker"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
DEFAULT_POLICY = "/etc/wherry/policy.json"


@dataclass(frozen=True, slots=True)
class Config:
    hosts: tuple[str, ...] = ("unix:///run/wherry.sock",)
    data_root: str = "/var/lib/wherry"
    exec_root: str = "/run/wherry"
    pidfile: str = "/run/wherry.pid"
    group: str | None = None
    """None: Docker's group if there is one."""
    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"
    config_file: str = ""
    """"": none was read."""
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    """Of Docker Hub."""
    bip: IPv4Interface | None = None
    mtu: int = 1500
    ip: IPv4Address | None = None
    default_runtime: str = "wherry"
    runtimes: Mapping[str, str] = field(default_factory=dict)
    default_ulimits: tuple[Ulimit, ...] = ()
    init_path: str | None = None
    live_restore: bool = False
    shutdown_timeout: int = 15
    storage_driver: str = ""
    """"": the one that the data root was made with, or the best one that works there."""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    proxies: Mapping[str, str] = field(default_factory=dict)
    """Variables of the environment (HTTP_PROXY and its kin) that are set by the configuration."""
    trust: Policy | None = None
    """Which images are let in; None: all."""
    allow_plain_tcp: bool = False
    """The consent to serve TCP without TLS: `--tls=false`."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the command line asks for: `run`, `validate`, `help` or `version`."""

    verb: str
    config: Config


def load(arguments: Sequence[str]) -> Command:
    """InvalidArgument with the flag or key that is wrong."""
    flags = parse_arguments(arguments)
    for verb in ("help", "version"):
        if flags.get(verb):
            return Command(verb, Config())
    path = flags.pop("config-file", None)
    validate = flags.pop("validate", False)
    explicit = path is not None
    path = path or BY_FLAG["config-file"].default
    file = _read_file(path, required=explicit)
    if file is None:
        return Command("validate" if validate else "run", build(flags, {}, ""))
    try:
        config = build(flags, file, path)
    except InvalidArgument as error:
        raise InvalidArgument(f"unable to configure wherryd with file {path}: {error}") from error
    return Command("validate" if validate else "run", config)


def _read_file(path: str, *, required: bool) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as opened:
            data = opened.read(MAX_FILE + 1)
    except FileNotFoundError:
        if required:
            raise InvalidArgument(f"unable to configure wherryd with file {path}: no such file or directory") from None
        return None
    except OSError as error:
        raise InvalidArgument(f"unable to configure wherryd with file {path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise InvalidArgument(f"unable to configure wherryd with file {path}: larger than {MAX_FILE} bytes")
    if not data.strip():
        return {}
    try:
        value = json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"unable to configure wherryd with file {path}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"unable to configure wherryd with file {path}: it is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a directive is given twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
    return value


def build(flags: Mapping[str, Any], file: Mapping[str, Any], path: str) -> Config:
    """The configuration from flags (flag → value) and the file's content (key → value)."""
    file = _with_proxies(file)
    _refuse_unknown(file)
    _refuse_conflicts(flags, file)
    values: dict[str, Any] = {BY_FLAG[flag].key: value for flag, value in flags.items() if BY_FLAG[flag].key}
    for key, value in file.items():
        values[key] = _typed(BY_KEY[key], value)
    return _checked(values, path)


def _with_proxies(file: Mapping[str, Any]) -> dict[str, Any]:
    """The members of the object `proxies` as keys of their own: "proxies.http-proxy"."""
    proxies = file.get("proxies", {})
    if not isinstance(proxies, dict):
        raise InvalidArgument("proxies must be an object")
    flat = {key: value for key, value in file.items() if key != "proxies"}
    if dotted := [key for key in flat if "." in key]:
        raise InvalidArgument(f"the following directives don't match any configuration option: {', '.join(dotted)}")
    return flat | {f"proxies.{key}": value for key, value in proxies.items()}


def _refuse_unknown(file: Mapping[str, Any]) -> None:
    unknown = sorted(key for key in file if key not in BY_KEY and key not in DOCKERD_ONLY)
    if unknown:
        raise InvalidArgument(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    not_done = sorted(key for key in file if key not in BY_KEY)
    if not_done:
        raise InvalidArgument(f"wherryd does not support the following directives yet: {', '.join(not_done)}")


def _refuse_conflicts(flags: Mapping[str, Any], file: Mapping[str, Any]) -> None:
    conflicts = [
        f"{key}: (from flag: {_shown(flags[flag])}, from file: {_shown(file[key])})"
        for flag in sorted(flags)
        if (key := BY_FLAG[flag].key) in file
    ]
    if conflicts:
        raise InvalidArgument(
            "the following directives are specified both as a flag and in the configuration file: "
            + ", ".join(conflicts)
        )


def _shown(value: Any) -> str:
    return json.dumps(value)[:200]


_FILE_TYPES: dict[Kind, tuple[type, str]] = {
    Kind.STRING: (str, "a string"),
    Kind.BOOL: (bool, "true or false"),
    Kind.INT: (int, "a number"),
    Kind.LIST: (list, "a list of strings"),
    Kind.MAP: (dict, "an object"),
}


def _typed(option: Option, value: Any) -> Any:
    kind, named = _FILE_TYPES[option.kind]
    if type(value) is not kind or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        raise InvalidArgument(f"{option.key} must be {named}")
    return value


def _checked(values: dict[str, Any], path: str) -> Config:
    debug = values.get("debug", False)
    level, log_format = values.get("log-level", "info"), values.get("log-format", "text")
    if level not in LOG_LEVELS:
        raise InvalidArgument(f"invalid logging level: {level}")
    if log_format not in LOG_FORMATS:
        raise InvalidArgument(f"invalid log format: {log_format}")
    if values.get("tls"):
        raise InvalidArgument("wherryd does not support TLS yet; tls=false says that TCP may be served without it")
    for name in ("data-root", "exec-root", "pidfile"):
        if name in values and not os.path.isabs(values[name]):
            raise InvalidArgument(f"{name} must be an absolute path: {values[name]!r}")
    defaults = Config()
    data_root = os.path.normpath(values.get("data-root", defaults.data_root))
    exec_root = os.path.normpath(values.get("exec-root", defaults.exec_root))
    if data_root == exec_root:
        raise InvalidArgument(f"data-root and exec-root must be different directories: {data_root}")
    mtu, timeout = values.get("mtu", 1500), values.get("shutdown-timeout", 15)
    if not 68 <= mtu <= 65535:
        raise InvalidArgument(f"invalid mtu: {mtu}")
    if timeout < -1:
        raise InvalidArgument(f"invalid shutdown-timeout: {timeout}")
    downloads, uploads = values.get("max-concurrent-downloads", 3), values.get("max-concurrent-uploads", 5)
    attempts = values.get("max-download-attempts", 5)
    if downloads < 0:
        raise InvalidArgument(f"invalid max concurrent downloads: {downloads}")
    if uploads < 0:
        raise InvalidArgument(f"invalid max concurrent uploads: {uploads}")
    if attempts < 1:
        raise InvalidArgument(f"invalid max download attempts: {attempts}")
    runtimes = _runtimes(values.get("runtimes", {}))
    default_runtime = values.get("default-runtime", "wherry")
    if default_runtime != "wherry" and default_runtime not in runtimes:
        raise InvalidArgument(f"specified default runtime '{default_runtime}' does not exist")
    insecure_registries = tuple(values.get("insecure-registries", ()))
    registry_mirrors = tuple(values.get("registry-mirrors", ()))
    RegistryHosts(insecure_registries, registry_mirrors)  # InvalidArgument
    hosts = tuple(values.get("hosts", ())) or defaults.hosts
    allow_plain_tcp = values.get("tls") is False
    for host in hosts:
        check_host(host, allow_plain_tcp=allow_plain_tcp)
    return Config(
        hosts=hosts,
        data_root=data_root,
        exec_root=exec_root,
        pidfile=values.get("pidfile", defaults.pidfile),
        group=values.get("group"),
        debug=debug,
        log_level="debug" if debug else level,
        log_format=log_format,
        config_file=path,
        insecure_registries=insecure_registries,
        registry_mirrors=registry_mirrors,
        bip=_bip(values.get("bip", "")),
        mtu=mtu,
        ip=_ip(values.get("ip", "")),
        default_runtime=default_runtime,
        runtimes=runtimes,
        default_ulimits=_ulimits(values.get("default-ulimits", {})),
        init_path=_init_path(values.get("init-path")),
        live_restore=values.get("live-restore", False),
        shutdown_timeout=timeout,
        storage_driver=_storage_driver(values.get("storage-driver", "")),
        max_concurrent_downloads=downloads,
        max_concurrent_uploads=uploads,
        max_download_attempts=attempts,
        proxies=_proxies(values),
        trust=_trust(values.get("trust-policy")),
        allow_plain_tcp=allow_plain_tcp,
    )


def changed(old: Config, new: Config) -> list[str]:
    """The settings in which they differ."""
    return [one.name for one in fields(Config) if getattr(old, one.name) != getattr(new, one.name)]


def check_host(host: str, *, allow_plain_tcp: bool) -> None:
    """InvalidArgument when it is not a host that wherryd serves, or is one that gives root to a network without consent."""
    scheme, separator, rest = host.partition("://")
    if not separator or scheme not in ("unix", "tcp", "fd"):
        raise InvalidArgument(f"invalid host {host!r}: it must begin with unix://, tcp:// or fd://")
    if scheme == "unix" and not os.path.isabs(rest):
        raise InvalidArgument(f"invalid host {host!r}: the socket's path must be absolute")
    if scheme == "tcp":
        tcp_address(host)
        if not allow_plain_tcp:
            raise InvalidArgument(
                f"refusing to serve {host}: whoever connects is root on this machine, and wherryd does not support TLS"
                " yet; to serve it all the same, say so with --tls=false"
            )


def tcp_address(host: str) -> tuple[str, int]:
    """tcp://127.0.0.1:2375 → ("127.0.0.1", 2375); the port defaults to 2375, the address to 127.0.0.1. [::1]:2375 for IPv6."""
    rest = host.removeprefix("tcp://").rstrip("/")
    if rest.startswith("["):
        address, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        address, _, port = rest.partition(":")
    if "/" in rest or not (port == "" or (port.isascii() and port.isdigit() and int(port) < 65536)):
        raise InvalidArgument(f"invalid host {host!r}: it must be tcp://ADDRESS:PORT")
    return address or "127.0.0.1", int(port or 2375)


def _bip(text: str) -> IPv4Interface | None:
    if not text:
        return None
    try:
        address = IPv4Interface(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid bip: {error}") from None
    if "/" not in text or address.network.prefixlen > 30 or address.ip == address.network.network_address:
        raise InvalidArgument(f"invalid bip: {text} must be the address of a host in a network, such as 172.30.0.1/16")
    return address


def _ip(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text) if text and text != "0.0.0.0" else None
    except ValueError as error:
        raise InvalidArgument(f"invalid ip: {error}") from None


def _runtimes(raw: Mapping[str, Any]) -> dict[str, str]:
    """From flags name → path; from the file name → {"path": …}."""
    runtimes = {}
    for name, value in raw.items():
        if isinstance(value, dict):
            if set(value) - {"path", "runtimeArgs"}:
                raise InvalidArgument(f"runtimes.{name}: only path is supported")
            if value.get("runtimeArgs"):
                raise InvalidArgument(f"runtimes.{name}.runtimeArgs is not supported yet")
            value = value.get("path")
        if not isinstance(value, str) or not value:
            raise InvalidArgument(f"runtimes.{name}: a path must be given")
        if name == "wherry":
            raise InvalidArgument("runtime name 'wherry' is reserved")
        runtimes[name] = value
    return runtimes


def _ulimits(raw: Mapping[str, Any]) -> tuple[Ulimit, ...]:
    """From flags name → "soft[:hard]"; from the file name → {"Name": …, "Soft": …, "Hard": …}."""
    limits = []
    for name, value in raw.items():
        if isinstance(value, str):
            soft, _, hard = value.partition(":")
            value = {"Soft": soft, "Hard": hard or soft}
        try:
            soft_limit, hard_limit = int(value["Soft"]), int(value["Hard"])
        except (ValueError, TypeError, KeyError):
            raise InvalidArgument(f"default-ulimits.{name}: invalid limits") from None
        if hard_limit != -1 and (soft_limit > hard_limit or soft_limit == -1):
            raise InvalidArgument(f"default-ulimits.{name}: the soft limit exceeds the hard limit")
        limits.append(Ulimit(name=name, soft=soft_limit, hard=hard_limit))
    return tuple(limits)


def _proxies(values: Mapping[str, Any]) -> dict[str, str]:
    found = {name: values.get(f"proxies.{name.lower().replace('_', '-')}", "") for name in _PROXIES}
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        if found[name]:
            check_proxy(found[name])
    return {name: value for name, value in found.items() if value}


def _trust(path: str | None) -> Policy | None:
    """From the file, or the default one if there is that."""
    if path is None and not os.path.lexists(DEFAULT_POLICY):
        return None
    from wherry.trust.policy import read  # with cryptography

    return read(path if path is not None else DEFAULT_POLICY)


def _storage_driver(name: str) -> str:
    if name and name not in DRIVERS:
        raise InvalidArgument(f"unsupported storage driver {name!r}: there are {', '.join(DRIVERS)}")
    return name


def _init_path(path: str | None) -> str | None:
    if path is not None and not (os.path.isabs(path) and os.access(path, os.X_OK)):
        raise InvalidArgument(f"init-path is not an executable file: {path!r}")
    return path
