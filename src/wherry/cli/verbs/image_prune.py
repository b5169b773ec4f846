"""`wherry image prune`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.pruning import confirm, images_report, total

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    filters = {key: list(found) for key, found in flags.mapping("filter").items()}
    filters.setdefault("dangling", []).append("false" if flags.on("all") else "true")
    what = "all images without at least one container associated to them" if flags.on("all") else "all dangling images"
    if not flags.on("force"):
        confirm(app, f"WARNING! This will remove {what}.", "image prune")
    answer = app.images.prune(filters)
    app.out(images_report(answer) + total(answer))
    return 0


COMMAND = Command(
    run,
    flags=(
        Flag("all", "bool", "Remove all images that no container uses, not only those without a tag", short="a"),
        Flag("filter", "filter", "Remove only those that match (until=24h, label=x=y)"),
        Flag("force", "bool", "Do not ask for confirmation", short="f"),
    ),
    at_most=0,
    examples=("wherry image prune -f",),
)
