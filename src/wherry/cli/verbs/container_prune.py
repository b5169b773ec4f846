"""`wherry container prune`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.pruning import confirm, containers_report, total

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    filters = {key: list(found) for key, found in flags.mapping("filter").items()}
    what = "all stopped containers"
    if not flags.on("force"):
        confirm(app, f"WARNING! This will remove {what}.", "container prune")
    answer = app.containers.prune(filters)
    app.out(containers_report(answer) + total(answer))
    return 0


COMMAND = Command(
    run,
    flags=(
        Flag("filter", "filter", "Remove only those that match (until=24h, label=x=y)"),
        Flag("force", "bool", "Do not ask for confirmation", short="f"),
    ),
    at_most=0,
    examples=("wherry container prune -f",),
)
