"""`wherry image trust show`: the engine's trust policy, or the rule of it that holds for an image."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.table import Columns, print_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Row = dict[str, Any]

_COLUMNS = Columns(
    {
        "Scope": ("SCOPE", lambda row: row["Scope"] or '""'),
        "Type": ("TYPE", lambda row: row["Type"]),
        "Key": ("KEY", lambda row: row["Key"]),
        "Fingerprint": ("FINGERPRINT", lambda row: row["Fingerprint"]),
    },
    ("Scope", "Type", "Key", "Fingerprint"),
    "trust.Rule",
)
_WORDS = {"insecureAcceptAnything": "accept"}


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    answer = app.images.trust(arguments[0] if arguments else "")
    if flags.text("format") == "json":
        from wherry.cli.template_functions import pretty_json

        app.out(pretty_json(answer) + "\n")
        return 0
    rules = [answer["Rule"]] if arguments else answer["Rules"]
    print_list(app, _COLUMNS, [row for rule in rules for row in _rows(rule)], flags.text("format"))
    return 0


def _rows(rule: Row) -> list[Row]:
    """One for each requirement, and for each key of it."""
    rows = []
    for one in rule["Requirements"]:
        base = {"Scope": rule["Scope"], "Type": _WORDS.get(one["Type"], one["Type"]), "Key": "", "Fingerprint": ""}
        keys = [
            {"Key": key["Path"] or "(in the policy)", "Fingerprint": key["Fingerprint"]} for key in one.get("Keys", ())
        ]
        rows += [{**base, **key} for key in keys] or [base]
    return rows


COMMAND = Command(
    run,
    arguments="[IMAGE]",
    flags=(Flag("format", "string", "json, table, or a template"),),
    at_most=1,
    examples=("wherry image trust show", "wherry image trust show registry.example/team/app:1.2"),
)
