"""`wherry inspect`: whatever has that name."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.inspecting import inspect
from wherry.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_ABSENT = frozenset(("node", "plugin", "secret", "service", "task", "config"))


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    kind, size = flags.text("type"), flags.on("size")
    if flags.given("type") and not kind:
        raise CliError("type is empty: must be one of container, image, network, volume")
    kinds: dict[str, Callable[[str], Any]] = {
        "container": lambda name: app.containers.inspect(name, size=size),
        "image": app.images.inspect,
        "network": app.networks.inspect,
        "volume": app.volumes.inspect,
    }
    if kind in _ABSENT:
        raise CliError(f"--type {kind} is not supported by wherry: must be one of container, image, network, volume")
    if kind and kind not in kinds:
        raise CliError(f'unknown type: "{kind}": must be one of container, image, network, volume')
    if size and kind not in ("", "container"):
        app.err(f"WARNING: --size ignored for {kind}\n")

    def fetch(name: str) -> Any:
        if kind:
            return kinds[kind](name)
        for look_up in kinds.values():
            try:
                return look_up(name)
            except NotFound:
                continue
        raise NotFound(f"Error: No such object: {name}")

    return inspect(app, arguments, flags.text("format"), fetch)


COMMAND = Command(
    run,
    arguments="NAME|ID [NAME|ID...]",
    flags=(
        Flag("format", "string", "json, or a template ('{{.State.Status}}')", short="f"),
        Flag("size", "bool", "Include the disk usage of containers", short="s"),
        Flag("type", "string", "Only objects of this type: container, image, network, volume"),
    ),
    at_least=1,
    examples=("wherry inspect web", "wherry inspect -f '{{.NetworkSettings.IPAddress}}' web"),
)
