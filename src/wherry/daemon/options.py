"""The table of wherryd's settings: each is a flag, and most are a key of daemon.json. dockerd's names, for what wherryd does.

Pure data and parsing of command lines. What dockerd knows and wherryd does not do is refused by name (`DOCKERD_ONLY`), what neither knows is
unknown: nothing is accepted and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from wherry.errors import InvalidArgument


class Kind(Enum):
    STRING = "string"
    BOOL = ""
    INT = "int"
    LIST = "list"
    MAP = "name=value"


@dataclass(frozen=True, slots=True)
class Option:
    """`key` "" means that it is a flag only; `default` is shown by --help, "" for none."""

    flag: str
    kind: Kind
    help: str
    key: str = ""
    short: str = ""
    default: str = ""


OPTIONS = (
    Option("add-runtime", Kind.MAP, "Register an additional OCI compatible runtime (name=path)", key="runtimes"),
    Option("bip", Kind.STRING, "IPv4 address for the default bridge, with its prefix (172.30.0.1/16)", key="bip"),
    Option("config-file", Kind.STRING, "Daemon configuration file", default="/etc/wherry/daemon.json"),
    Option("data-root", Kind.STRING, "Root directory of persistent state", key="data-root", default="/var/lib/wherry"),
    Option("debug", Kind.BOOL, "Enable debug mode", key="debug", short="D"),
    Option("default-runtime", Kind.STRING, "OCI runtime for containers", key="default-runtime", default="wherry"),
    Option(
        "default-ulimit",
        Kind.MAP,
        "Default ulimits for containers (name=soft[:hard])",
        key="default-ulimits",
    ),
    Option("exec-root", Kind.STRING, "Root directory for execution state", key="exec-root", default="/run/wherry"),
    Option("group", Kind.STRING, "Group for the unix socket", key="group", short="G", default="docker"),
    Option("help", Kind.BOOL, "Print usage", short="h"),
    Option(
        "host",
        Kind.LIST,
        "Daemon socket to serve: unix://PATH, tcp://ADDRESS:PORT, fd:// (repeatable)",
        key="hosts",
        short="H",
        default="unix:///run/wherry.sock",
    ),
    Option("http-proxy", Kind.STRING, "Proxy for http:// requests of the engine", key="proxies.http-proxy"),
    Option("https-proxy", Kind.STRING, "Proxy for https:// requests of the engine", key="proxies.https-proxy"),
    Option("init-path", Kind.STRING, "Path to the init of containers run with --init", key="init-path"),
    Option("insecure-registry", Kind.LIST, "Registry to talk to without verified TLS", key="insecure-registries"),
    Option("ip", Kind.STRING, "Host IP for published ports that name none", key="ip", default="0.0.0.0"),
    Option("live-restore", Kind.BOOL, "Leave containers running when the engine ends", key="live-restore"),
    Option("log-format", Kind.STRING, 'Set the logging format ("text"|"json")', key="log-format", default="text"),
    Option(
        "log-level",
        Kind.STRING,
        'Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")',
        key="log-level",
        short="l",
        default="info",
    ),
    Option(
        "max-concurrent-downloads",
        Kind.INT,
        "Layers that are downloaded at once (0: all)",
        key="max-concurrent-downloads",
        default="3",
    ),
    Option(
        "max-concurrent-uploads",
        Kind.INT,
        "Layers that are uploaded at once (0: all)",
        key="max-concurrent-uploads",
        default="5",
    ),
    Option(
        "max-download-attempts",
        Kind.INT,
        "How often in a row a layer's download may fail",
        key="max-download-attempts",
        default="5",
    ),
    Option("mtu", Kind.INT, "Set the MTU of the default bridge network", key="mtu", default="1500"),
    Option(
        "no-proxy", Kind.STRING, "Hosts that are asked without a proxy, commas between them", key="proxies.no-proxy"
    ),
    Option(
        "pidfile",
        Kind.STRING,
        "Path of the file with the engine's PID",
        key="pidfile",
        short="p",
        default="/run/wherry.pid",
    ),
    Option(
        "registry-mirror", Kind.LIST, "Mirror of Docker Hub to pull through (http[s]://HOST)", key="registry-mirrors"
    ),
    Option(
        "shutdown-timeout",
        Kind.INT,
        "Seconds for containers to stop when the engine ends",
        key="shutdown-timeout",
        default="15",
    ),
    Option(
        "storage-driver",
        Kind.STRING,
        "How containers stand on layers (overlay2, fuse-overlayfs, btrfs, vfs, erofs)",
        key="storage-driver",
        short="s",
    ),
    Option(
        "tls", Kind.BOOL, "--tls=false: serve tcp:// hosts without TLS (all who reach them are root here)", key="tls"
    ),
    Option(
        "trust-policy",
        Kind.STRING,
        "File that says which images are let in; /etc/wherry/policy.json, if it is there",
        key="trust-policy",
    ),
    Option("validate", Kind.BOOL, "Validate the configuration and exit"),
    Option("version", Kind.BOOL, "Print version information and quit", short="v"),
)

BY_FLAG = {option.flag: option for option in OPTIONS}
BY_SHORT = {option.short: option for option in OPTIONS if option.short}
BY_KEY = {option.key: option for option in OPTIONS if option.key}

_DOCKERD_ONLY = """
allow-direct-routing authorization-plugin authorization-plugins bip6 bridge bridge-accept-fwmark builder cdi-spec-dir cdi-spec-dirs
cgroup-parent containerd containerd-namespace containerd-plugin-namespace containerd-plugins-namespace cpu-rt-period cpu-rt-runtime
cri-containerd default-address-pool default-address-pools default-cgroupns-mode default-gateway default-gateway-v6 default-ipc-mode
default-network-opt default-network-opts default-shm-size dns dns-opt dns-opts dns-search exec-opt exec-opts experimental feature features
firewall-backend fixed-cidr fixed-cidr-v6 host-gateway-ip host-gateway-ips icc init ip-forward ip-forward-no-drop
ip-masq ip6tables iptables ipv6 label labels log-driver log-opt log-opts metrics-addr min-api-version network-control-plane-mtu
no-new-privileges node-generic-resource node-generic-resources raw-logs rootless seccomp-profile selinux-enabled storage-opt
storage-opts swarm-default-advertise-addr tlscacert tlscert tlskey tlsverify userland-proxy userland-proxy-path userns-remap
"""
DOCKERD_ONLY = frozenset(_DOCKERD_ONLY.split())
"""dockerd's flags and keys of daemon.json that wherryd does not do (yet)."""

EXAMPLES = """\
Examples:
  wherryd                                                     Serve unix:///run/wherry.sock, keep state in /var/lib/wherry
  wherryd --data-root /srv/w --exec-root /run/w --pidfile /run/w.pid -H unix:///run/w.sock
                                                              A second engine beside the first
  wherryd -H fd://                                            Serve the sockets that systemd hands over
  wherryd -H tcp://127.0.0.1:2375 --tls=false                 Serve TCP without TLS, knowing what that means
  wherryd --validate --config-file ./daemon.json              Say what is wrong with a configuration
"""


class UsageError(InvalidArgument):
    """The command line is wrong."""


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Flag → value, for the flags that were given. `--flag value`, `--flag=value`, `-f value`, `-fvalue`. UsageError names the flag."""
    given: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--") and len(argument) > 2:
            name, equals, text = argument[2:].partition("=")
            _take(given, _known(name), text if equals else None, rest, shown=f"--{name}")
        elif argument.startswith("-") and len(argument) > 1 and argument != "--":
            _take_short(given, argument[1:], rest)
        else:
            raise UsageError(f"wherryd takes no arguments, but got {argument!r}")
    return given


def _known(name: str) -> Option:
    option = BY_FLAG.get(name)
    if option is None:
        if name in DOCKERD_ONLY:
            raise UsageError(f"wherryd does not support the flag --{name} yet")
        raise UsageError(f"unknown flag: --{name}")
    return option


def _take_short(given: dict[str, Any], letters: str, rest: list[str]) -> None:
    while letters:
        option = BY_SHORT.get(letters[0])
        if option is None:
            raise UsageError(f"unknown shorthand flag: {letters[0]!r} in -{letters}")
        letters = letters[1:]
        if option.kind is Kind.BOOL and not letters.startswith("="):
            _take(given, option, None, rest, shown=f"-{option.short}")
            continue
        text = letters.removeprefix("=") if letters else None
        _take(given, option, text, rest, shown=f"-{option.short}")
        return


def _take(given: dict[str, Any], option: Option, text: str | None, rest: list[str], *, shown: str) -> None:
    if text is None:
        if option.kind is Kind.BOOL:
            text = "true"
        elif rest:
            text = rest.pop(0)
        else:
            raise UsageError(f"flag needs an argument: {shown}")
    try:
        value = _read(option.kind, text)
    except ValueError as error:
        raise UsageError(f'invalid argument "{text}" for "{shown}" flag: {error}') from None
    if option.kind is Kind.LIST:
        given.setdefault(option.flag, []).append(value)
    elif option.kind is Kind.MAP:
        given.setdefault(option.flag, {}).update(value)
    else:
        given[option.flag] = value


def _read(kind: Kind, text: str) -> Any:
    match kind:
        case Kind.BOOL:
            if text.lower() in ("1", "t", "true"):
                return True
            if text.lower() in ("0", "f", "false"):
                return False
            raise ValueError("must be true or false")
        case Kind.INT:
            if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
                raise ValueError("must be a whole number")
            return int(text)
        case Kind.MAP:
            name, equals, value = text.partition("=")
            if not (name and equals and value):
                raise ValueError("must be name=value")
            return {name: value}
        case _:
            return text


def usage() -> str:
    lines = ["Usage:  wherryd [OPTIONS]", "", "A container engine that serves the Docker Engine API.", "", "Options:"]
    for option in OPTIONS:
        short = f"-{option.short}, " if option.short else "    "
        left = f"  {short}--{option.flag} {option.kind.value}".rstrip()
        default = f" (default {option.default})" if option.default else ""
        lines.append(
            f"{left:<36}{option.help}{default}" if len(left) < 36 else f"{left}\n{'':36}{option.help}{default}"
        )
    return "\n".join(lines) + "\n\n" + EXAMPLES
