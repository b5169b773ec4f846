"""`wherry import`."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.progress import show
from wherry.cli.uploads import open_archive, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    source, reference = arguments[0], arguments[1] if len(arguments) > 1 else ""
    progress = app.images.import_(
        _source(source),
        repository=reference,
        message=flags.text("message"),
        changes=flags.items("change"),
        platform=flags.text("platform"),
    )
    show(progress)
    return 0


def _source(text: str) -> str | Iterable[bytes]:
    if text == "-":
        return pieces(0)
    if text.startswith(("http://", "https://")):
        return text
    try:
        return pieces(open_archive(text))
    except OSError as error:
        raise CliError(f"open {text}: {(error.strerror or str(error)).lower()}") from None


COMMAND = Command(
    run,
    arguments="file|URL|- [REPOSITORY[:TAG]]",
    flags=(
        Flag("change", "list", "Apply a Dockerfile instruction (CMD, ENV, …)", short="c"),
        Flag("message", "string", "The image's comment", short="m"),
        Flag("platform", "string", "Platform of the image"),
    ),
    at_least=1,
    examples=("wherry import rootfs.tar.gz tools:1", "tar -c . | wherry import -c 'CMD [\"sh\"]' - tools:1"),
)
