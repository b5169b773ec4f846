"""Which tags of a repository `pull` and `push` are about: one, or with --all-tags all of them."""

from __future__ import annotations

from wherry.cli.command import CliError
from wherry.client.reference import canonical, split
from wherry.spec.reference import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def all_tags(app: App, flags: Flags, reference: str) -> bool:
    """Whether all are meant. CliError when one is named as well; says so when the tag is implied. InvalidArgument for no reference."""
    parse(reference)
    tag, everything = split(reference)[1], flags.on("all-tags")
    if everything and tag:
        raise CliError("tag can't be used with --all-tags/-a")
    if not tag and not everything and not flags.on("quiet"):
        app.out("Using default tag: latest\n")
    return everything


def whole_name(reference: str, *, everything: bool) -> str:
    """As Docker prints it at the end; of all tags the repository alone."""
    return canonical(reference).rpartition(":")[0] if everything else canonical(reference)
