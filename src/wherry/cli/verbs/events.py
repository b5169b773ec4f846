"""`wherry events`, `wherry system events`."""

from __future__ import annotations

from wherry.cli import units
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.template_functions import json_text

from .logs import time_flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    form = flags.text("format")
    parsed = None
    if form and form != "json":
        from wherry.cli.template import TemplateError, parse

        try:
            parsed = parse(form)
        except TemplateError as error:
            raise CliError(f"Error parsing format: {error}", 64) from None
    events = app.system.events(
        since=time_flag(flags, "since"), until=time_flag(flags, "until"), filters=flags.mapping("filter")
    )
    for event in events:
        if form == "json":
            app.out(json_text(event) + "\n")
        elif parsed:
            app.out(parsed.execute(_with_typed_names(event)) + "\n")
        else:
            app.out(line(event))
    return 0


_TYPED = {"Status": "status", "ID": "id", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano"}


def _with_typed_names(event: dict[str, Any]) -> dict[str, Any]:
    """Templates name the fields as Docker's documentation does: {{.ID}}, {{.TimeNano}}."""
    return {**event, **{name: event.get(key, "") for name, key in _TYPED.items()}}


def line(event: dict[str, Any]) -> str:
    """One line as Docker prints it: time, type, action, id, (attributes)."""
    nanoseconds = event.get("timeNano") or event.get("time", 0) * units.SECOND
    actor = event.get("Actor") or {}
    text = f"{units.local_time(nanoseconds).replace('+00:00', 'Z')} " if nanoseconds else ""
    text += f"{event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    attributes = actor.get("Attributes") or {}
    if attributes:
        text += " (" + ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes)) + ")"
    return text + "\n"


COMMAND = Command(
    run,
    flags=(
        Flag("filter", "filter", "Show only those that match (event=die, container=web, type=image …)", short="f"),
        Flag("format", "string", "json, or a template"),
        Flag("since", "string", "Start with the events since this time (2026-01-02T13:23:37Z, or 42m ago)"),
        Flag("until", "string", "End at this time"),
    ),
    at_most=0,
    examples=("wherry events --filter container=web", "wherry events --since 1h --until 0s --format json"),
)
