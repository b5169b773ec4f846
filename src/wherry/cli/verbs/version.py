"""`wherry version`: of the client, and of the engine if there is one."""

from __future__ import annotations

import os
import sys

from wherry import __version__
from wherry.cli import units
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.main import describe
from wherry.client.session import API_VERSION
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Json = dict[str, Any]

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    server: Json | None = None
    problem: WherryError | None = None
    try:
        server = _server(app.system.version())
    except WherryError as error:
        problem = error
    client = _client(app, problem is None)
    form = flags.text("format")
    if form == "json":
        from wherry.cli.template_functions import json_text

        app.out(json_text({"Client": client, "Server": server}) + "\n")
    elif form:
        from wherry.cli.template import TemplateError, parse

        try:
            app.out(parse(form).execute({"Client": _typed(client), "Server": server and _typed(server)}) + "\n")
        except TemplateError as error:
            raise CliError(f"template parsing error: {error}", 64) from None
    else:
        app.out(_text(client, server))
    if problem is not None:
        raise CliError(describe(problem))
    return 0


def _typed(value: Json) -> Json:
    return {**value, "APIVersion": value["ApiVersion"]}


def _client(app: App, reached: bool) -> Json:
    uname = os.uname()
    return {
        "Platform": {"Name": "wherry"},
        "Version": __version__,
        "ApiVersion": app.session.api_version if reached else API_VERSION,
        "DefaultAPIVersion": API_VERSION,
        "PythonVersion": sys.version.split(" ", 1)[0],
        "Os": uname.sysname.lower(),
        "Arch": _MACHINES.get(uname.machine, uname.machine),
        "Context": "default",
    }


def _server(raw: Json) -> Json:
    """The engine's answer with Docker's order of keys, and an Engine component if it named none."""
    components = raw.get("Components") or [
        {
            "Name": "Engine",
            "Version": raw.get("Version", ""),
            "Details": {
                key: str(raw[key]) for key in ("ApiVersion", "Arch", "GitCommit", "MinAPIVersion", "Os") if key in raw
            },
        }
    ]
    keys = (
        "Version",
        "ApiVersion",
        "MinAPIVersion",
        "GitCommit",
        "GoVersion",
        "Os",
        "Arch",
        "KernelVersion",
        "BuildTime",
    )
    found = {"Platform": raw.get("Platform") or {"Name": ""}, "Components": components}
    return found | {key: raw[key] for key in keys if raw.get(key)}


def _text(client: Json, server: Json | None) -> str:
    api = client["ApiVersion"]
    downgraded = f" (downgraded from {API_VERSION})" if api != API_VERSION else ""
    rows: list[tuple[str, str] | str] = [
        "Client: wherry",
        (" Version:", client["Version"]),
        (" API version:", f"{api}{downgraded}"),
        (" Python version:", client["PythonVersion"]),
        (" OS/Arch:", f"{client['Os']}/{client['Arch']}"),
    ]
    if server is not None:
        name = server["Platform"].get("Name", "")
        rows += ["", f"Server: {name}".rstrip()]
        for component in server["Components"]:
            rows += [f" {component['Name']}:", *_component(component)]
    column = max(len(row[0]) for row in rows if isinstance(row, tuple)) + 2
    return "".join(f"{row}\n" if isinstance(row, str) else f"{row[0]:<{column}}{row[1]}\n" for row in rows)


def _component(component: Json) -> list[tuple[str, str]]:
    details = component.get("Details") or {}
    if component["Name"] != "Engine":
        return [("  Version:", component["Version"]), *((f"  {key}:", details[key]) for key in sorted(details))]
    rows = [
        ("  Version:", component["Version"]),
        ("  API version:", f"{details.get('ApiVersion', '')} (minimum version {details.get('MinAPIVersion', '')})"),
    ]
    for key, title in (
        ("GoVersion", "Go version"),
        ("PythonVersion", "Python version"),
        ("GitCommit", "Git commit"),
        ("BuildTime", "Built"),
    ):
        if details.get(key):
            rows.append((f"  {title}:", _ansi_date(details[key]) if key == "BuildTime" else details[key]))
    rows.append(("  OS/Arch:", f"{details.get('Os', '')}/{details.get('Arch', '')}"))
    if "Experimental" in details:
        rows.append(("  Experimental:", details["Experimental"]))
    return rows


def _ansi_date(text: str) -> str:
    import time

    try:
        return time.asctime(time.gmtime(units.parse_rfc3339(text) // units.SECOND))
    except ValueError:
        return text


COMMAND = Command(
    run,
    flags=(Flag("format", "string", "json, or a template ('{{.Server.Version}}')", short="f"),),
    at_most=0,
    examples=("wherry version", "wherry version -f '{{.Server.Version}}'"),
)
