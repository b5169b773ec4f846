"""`wherry system prune`: stopped containers, unused images, and volumes if asked for."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.pruning import confirm, containers_report, images_report, total, volumes_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    filters = {key: list(found) for key, found in flags.mapping("filter").items()}
    if flags.on("volumes") and "until" in filters:
        raise CliError('ERROR: The "until" filter is not supported with "--volumes"')
    if not flags.on("force"):
        what = ["all stopped containers"]
        what += ["all anonymous volumes not used by at least one container"] if flags.on("volumes") else []
        what += [
            "all images without at least one container associated to them" if flags.on("all") else "all dangling images"
        ]
        confirm(app, "\n".join(["WARNING! This will remove:", *(f"  - {line}" for line in what), ""]), "system prune")
    containers = app.containers.prune(filters)
    text, answers = containers_report(containers), [containers]
    if flags.on("volumes"):
        volumes = app.volumes.prune(filters)
        text, answers = text + volumes_report(volumes), [*answers, volumes]
    images = app.images.prune({**filters, "dangling": ["false" if flags.on("all") else "true"]})
    app.out(text + images_report(images) + total(*answers, images))
    return 0


COMMAND = Command(
    run,
    flags=(
        Flag("all", "bool", "Remove all images that no container uses, not only those without a tag", short="a"),
        Flag("filter", "filter", "Remove only those that match (until=24h, label=x=y)"),
        Flag("force", "bool", "Do not ask for confirmation", short="f"),
        Flag("volumes", "bool", "Remove anonymous volumes too"),
    ),
    at_most=0,
    examples=("wherry system prune", "wherry system prune -af --volumes"),
)
