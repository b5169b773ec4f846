"""`wherry push`."""

from __future__ import annotations

from wherry.cli.command import Command
from wherry.cli.flags import Flag
from wherry.cli.progress import show
from wherry.cli.registry_auth import auth_for
from wherry.cli.tags import all_tags, whole_name
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    reference, quiet = arguments[0], flags.on("quiet")
    everything = all_tags(app, flags, reference)
    if "@" in reference:
        raise InvalidArgument("cannot push a digest reference")
    progress = app.images.push(
        reference,
        platform=flags.text("platform") or None,
        auth=auth_for(app, reference),
        all_tags=everything,
        referrers=flags.on("referrers"),
    )
    notes: list[str] = []
    show(_watched(progress, notes), quiet=quiet)
    if quiet:
        app.out(f"{whole_name(reference, everything=everything)}\n")
    for note in notes:
        app.err(f"\n{note}\n")
    return 0


def _watched(progress: Iterator[dict[str, Any]], notes: list[str]) -> Iterator[dict[str, Any]]:
    for message in progress:
        aux = message.get("aux")
        if isinstance(aux, dict) and aux.get("manifestPushedInsteadOfIndex"):
            selected = aux.get("selectedManifest") or {}
            notes.append(
                "Info: not all content of the multi-platform image is here; only the manifest "
                f"{selected.get('digest')} was pushed"
            )
        yield message


COMMAND = Command(
    run,
    arguments="NAME[:TAG]",
    flags=(
        Flag("all-tags", "bool", "Push all tags of the repository", short="a"),
        Flag("platform", "string", "Push the manifest of one platform alone (linux/arm64)"),
        Flag("quiet", "bool", "Do not show progress", short="q"),
        Flag("referrers", "bool", "Push also what refers to the image and is here (signatures)"),
        Flag("disable-content-trust", "bool", refused="images are not signed in Docker's way any more"),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry push localhost:5000/app:1.2", "wherry push --all-tags registry.example/me/app"),
)
