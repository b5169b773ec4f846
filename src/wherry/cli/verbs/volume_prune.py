"""`wherry volume prune`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.pruning import confirm, total, volumes_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    filters = {key: list(found) for key, found in flags.mapping("filter").items()}
    kind = "anonymous local"
    if flags.on("all"):
        filters["all"] = ["true"]
        kind = "local"
    what = f"{kind} volumes not used by at least one container"
    if not flags.on("force"):
        confirm(app, f"WARNING! This will remove {what}.", "volume prune")
    answer = app.volumes.prune(filters)
    app.out(volumes_report(answer) + total(answer))
    return 0


COMMAND = Command(
    run,
    flags=(
        Flag("all", "bool", "Remove named volumes too", short="a"),
        Flag("filter", "filter", "Remove only those that match (label=x=y)"),
        Flag("force", "bool", "Do not ask for confirmation", short="f"),
    ),
    at_most=0,
    examples=("wherry volume prune -f",),
)
