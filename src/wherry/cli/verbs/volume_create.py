"""`wherry volume create`."""

from __future__ import annotations

from wherry.cli import values
from wherry.cli.command import Command
from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags

_CLUSTER = "there are no clusters"


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    volume = app.volumes.create(
        arguments[0] if arguments else "",
        driver=flags.text("driver"),
        options=flags.mapping("opt"),
        labels=values.to_map(flags.items("label")),
    )
    app.out(f"{volume['Name']}\n")
    return 0


COMMAND = Command(
    run,
    arguments="[VOLUME]",
    flags=(
        Flag("driver", "string", "Volume driver", short="d", default="local"),
        Flag("label", "list", "Set a label (key=value)", check=values.label),
        Flag("opt", "map", "Option of the driver (type=none, o=bind, device=/path)", short="o"),
        Flag("availability", "string", refused=_CLUSTER),
        Flag("group", "string", refused=_CLUSTER),
        Flag("limit-bytes", "string", refused=_CLUSTER),
        Flag("required-bytes", "string", refused=_CLUSTER),
        Flag("scope", "string", refused=_CLUSTER),
        Flag("secret", "string", refused=_CLUSTER),
        Flag("sharing", "string", refused=_CLUSTER),
        Flag("topology-preferred", "string", refused=_CLUSTER),
        Flag("topology-required", "string", refused=_CLUSTER),
        Flag("type", "string", refused=_CLUSTER),
    ),
    at_most=1,
    examples=("wherry volume create data", "wherry volume create --opt type=tmpfs --opt device=tmpfs scratch"),
)
