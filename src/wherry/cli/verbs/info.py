"""`wherry info`, `wherry system info`."""

from __future__ import annotations

from wherry import __version__
from wherry.cli import units
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.main import describe
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Json = dict[str, Any]


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    form = flags.text("format")
    client = {"Debug": app.debug, "Version": __version__, "Context": "default", "Plugins": [], "Warnings": None}
    try:
        info = app.system.info()
    except WherryError as error:
        if not form:
            app.out(_client_text(client) + "\nServer:\n")
        raise CliError(describe(error)) from None
    if form:
        _print_format(app, form, {**info, "ClientInfo": client})
        return 0
    app.out(_client_text(client) + "\nServer:\n" + "\n".join(server_lines(info)) + "\n\n")
    for warning in info.get("Warnings") or ():
        app.err(f"{warning}\n")
    return 0


def _print_format(app: App, form: str, info: Json) -> None:
    from wherry.cli.template_functions import json_text

    if form == "json":
        app.out(json_text(info) + "\n")
        return
    from wherry.cli.template import TemplateError, parse

    try:
        app.out(parse(form).execute(info) + "\n")
    except TemplateError as error:
        raise CliError(f"template parsing error: {error}", 64) from None


def _client_text(client: Json) -> str:
    debug = "true" if client["Debug"] else "false"
    return f"Client: wherry\n Version:    {client['Version']}\n Context:    {client['Context']}\n Debug Mode: {debug}\n"


_PLAIN = (
    ("KernelVersion", "Kernel Version"),
    ("OperatingSystem", "Operating System"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
)
_TAIL = (("HttpProxy", "HTTP Proxy"), ("HttpsProxy", "HTTPS Proxy"), ("NoProxy", "No Proxy"))


def server_lines(info: Json) -> list[str]:
    """What Docker prints about an engine, line by line; what an engine does not tell is left out."""
    lines = [f" Containers: {info.get('Containers', 0)}"]
    lines += [f"  {name}: {info.get(f'Containers{name}', 0)}" for name in ("Running", "Paused", "Stopped")]
    lines.append(f" Images: {info.get('Images', 0)}")
    for key, title in (("ServerVersion", "Server Version"), ("Driver", "Storage Driver")):
        if info.get(key):
            lines.append(f" {title}: {info[key]}")
    lines += [f"  {name}: {value}" for name, value in info.get("DriverStatus") or ()]
    for key, title in (
        ("LoggingDriver", "Logging Driver"),
        ("CgroupDriver", "Cgroup Driver"),
        ("CgroupVersion", "Cgroup Version"),
    ):
        if info.get(key):
            lines.append(f" {title}: {info[key]}")
    plugins = info.get("Plugins") or {}
    lines.append(" Plugins:")
    lines += [f"  {name}: {' '.join(plugins.get(name) or ())}" for name in ("Volume", "Network")]
    if plugins.get("Authorization"):
        lines.append(f"  Authorization: {' '.join(plugins['Authorization'])}")
    lines.append(f"  Log: {' '.join(plugins.get('Log') or ())}")
    lines.append(f" Swarm: {(info.get('Swarm') or {}).get('LocalNodeState', 'inactive')}")
    lines += _runtime_lines(info)
    lines += [f" {title}: {info[key]}" for key, title in _PLAIN if info.get(key)]
    lines.append(f" CPUs: {info.get('NCPU', 0)}")
    lines.append(f" Total Memory: {units.binary_size(info.get('MemTotal', 0))}")
    lines += [f" {key}: {info[key]}" for key in ("Name", "ID") if info.get(key)]
    lines.append(f" Docker Root Dir: {info.get('DockerRootDir', '')}")
    lines.append(f" Debug Mode: {_bool(info.get('Debug'))}")
    if info.get("Debug"):
        for key, title in (
            ("NFd", "File Descriptors"),
            ("NGoroutines", "Goroutines"),
            ("SystemTime", "System Time"),
            ("NEventsListener", "EventsListeners"),
        ):
            lines.append(f"  {title}: {info.get(key, '')}")
    lines += [f" {title}: {info[key]}" for key, title in _TAIL if info.get(key)]
    if info.get("Labels"):
        lines += [" Labels:", *(f"  {label}" for label in info["Labels"])]
    lines.append(f" Experimental: {_bool(info.get('ExperimentalBuild'))}")
    lines += _registry_lines(info)
    lines.append(f" Live Restore Enabled: {_bool(info.get('LiveRestoreEnabled'))}")
    if info.get("ProductLicense"):
        lines.append(f" Product License: {info['ProductLicense']}")
    if info.get("DefaultAddressPools"):
        lines.append(" Default Address Pools:")
        lines += [f"   Base: {pool['Base']}, Size: {pool['Size']}" for pool in info["DefaultAddressPools"]]
    firewall = info.get("FirewallBackend")
    if firewall:
        lines.append(f" Firewall Backend: {firewall.get('Driver', '')}")
        lines += [f"  {name}: {value}" for name, value in firewall.get("Info") or ()]
    return lines


def _runtime_lines(info: Json) -> list[str]:
    lines = []
    if info.get("Runtimes"):
        lines.append(f" Runtimes: {' '.join(sorted(info['Runtimes']))}")
        lines.append(f" Default Runtime: {info.get('DefaultRuntime', '')}")
    if info.get("OSType") == "linux":
        lines.append(f" Init Binary: {info.get('InitBinary', '')}")
        for key, title in (("ContainerdCommit", "containerd"), ("RuncCommit", "runc"), ("InitCommit", "init")):
            lines.append(f" {title} version: {(info.get(key) or {}).get('ID', '')}")
        options = info.get("SecurityOptions") or ()
        if options:
            lines.append(" Security Options:")
        for option in options:
            pairs = dict(pair.partition("=")[::2] for pair in option.split(","))
            lines.append(f"  {pairs.get('name', option)}")
            if "profile" in pairs:
                lines.append(f"   Profile: {pairs['profile']}")
    return lines


def _registry_lines(info: Json) -> list[str]:
    registry = info.get("RegistryConfig") or {}
    lines = []
    insecure = [item["Name"] for item in (registry.get("IndexConfigs") or {}).values() if not item.get("Secure")]
    ranges = registry.get("InsecureRegistryCIDRs") or []
    if ranges or registry.get("IndexConfigs"):
        lines += [" Insecure Registries:", *(f"  {name}" for name in [*insecure, *ranges])]
    if registry.get("Mirrors"):
        lines += [" Registry Mirrors:", *(f"  {mirror}" for mirror in registry["Mirrors"])]
    return lines


def _bool(value: object) -> str:
    return "true" if value else "false"


COMMAND = Command(
    run,
    flags=(Flag("format", "string", "json, or a template ('{{.CgroupVersion}}')", short="f"),),
    at_most=0,
    examples=("wherry info", "wherry info -f '{{.Driver}}'"),
)
