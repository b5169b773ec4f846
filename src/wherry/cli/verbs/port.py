"""`wherry port`."""

from __future__ import annotations

from wherry.cli.command import CliError, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    container = app.containers.inspect(arguments[0])
    found: dict[str, list[dict[str, str]] | None] = container["NetworkSettings"].get("Ports") or {}
    if len(arguments) > 1:
        port = arguments[1] if "/" in arguments[1] else f"{arguments[1]}/tcp"
        number = port.partition("/")[0]
        if not number.isdecimal() or int(number) > 65535:
            raise CliError(f"Error: invalid port ({number})")
        bindings = found.get(port)
        if not bindings:
            raise CliError(f"Error: No public port '{arguments[1]}' published for {arguments[0]}")
        app.out("".join(f"{_address(binding)}\n" for binding in bindings))
        return 0
    lines = [f"{port} -> {_address(binding)}\n" for port, bindings in found.items() for binding in bindings or ()]
    app.out("".join(sorted(lines, key=lambda line: (int(line.partition("/")[0]), line))))
    return 0


def _address(binding: dict[str, str]) -> str:
    host = binding.get("HostIp", "")
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"


COMMAND = Command(
    run,
    arguments="CONTAINER [PRIVATE_PORT[/PROTO]]",
    at_least=1,
    at_most=2,
    examples=("wherry port web", "wherry port web 80"),
)
