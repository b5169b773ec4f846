"""`wherry pull`."""

from __future__ import annotations

import os

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.progress import show
from wherry.cli.registry_auth import auth_for
from wherry.cli.tags import all_tags, whole_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    reference = arguments[0]
    everything = all_tags(app, flags, reference)
    platform = flags.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM")
    progress = app.images.pull(reference, platform=platform, auth=auth_for(app, reference), all_tags=everything)
    show(progress, quiet=flags.on("quiet"))
    app.out(f"{whole_name(reference, everything=everything)}\n")
    return 0


COMMAND = Command(
    run,
    arguments="NAME[:TAG|@DIGEST]",
    flags=(
        Flag("all-tags", "bool", "Fetch all tags of the repository", short="a"),
        Flag("platform", "string", "Platform (linux/arm64)"),
        Flag("quiet", "bool", "Do not show progress", short="q"),
        Flag("disable-content-trust", "bool", refused="images are not signed in Docker's way any more"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry pull busybox", "wherry pull localhost:5000/app:1.2", "wherry pull --platform linux/arm64 alpine"),
)
