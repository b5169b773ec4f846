"""`wherry doctor`: what this machine offers to containers, what is missing, how to fix it. Needs no engine."""

from __future__ import annotations

import os

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.probes import all_findings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags
    from wherry.cli.probes import Finding

_COLOURS = {"ok": "32", "degraded": "33", "missing": "31"}


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    """1 if the engine cannot work here."""
    findings: list[Finding] = []
    colour = os.isatty(1) and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
    for finding in all_findings(flags.text("data-root")):
        findings.append(finding)
        if not flags.on("json"):
            app.out(_text(finding, colour=colour))
    count = {status: sum(finding.status == status for finding in findings) for status in _COLOURS}
    if flags.on("json"):
        from wherry.cli.template_functions import pretty_json

        report = {"usable": not count["missing"], "findings": [finding.as_json() for finding in findings]}
        app.out(pretty_json(report) + "\n")
    else:
        app.out(_verdict(count))
    return 1 if count["missing"] else 0


def _text(finding: Finding, *, colour: bool) -> str:
    status = f"{finding.status:<8}"
    if colour:
        status = f"\033[{_COLOURS[finding.status]}m{status}\033[0m"
    lines = [f"{status}  {finding.name}: {finding.found}"]
    if finding.meaning:
        lines.append(f"{'':10}  {finding.meaning}")
    if finding.remedy:
        lines.append(f"{'':10}  to fix it: {finding.remedy}")
    return "\n".join(lines) + "\n"


def _verdict(count: dict[str, int]) -> str:
    if count["missing"]:
        return f"\nThe engine cannot work here: {count['missing']} missing, {count['degraded']} degraded.\n"
    if count["degraded"]:
        return f"\nThe engine works here, within the limits above ({count['degraded']} degraded).\n"
    return "\nThe engine works here.\n"


COMMAND = Command(
    run,
    flags=(
        Flag("data-root", "string", "Data root of the engine", default="/var/lib/wherry"),
        Flag("json", "bool", "Report as JSON"),
    ),
    at_most=0,
    examples=("wherry doctor", "wherry doctor --json"),
)
