"""`wherry start`; with `-a` or `-i`, attached to one container until it exits."""

from __future__ import annotations

from wherry.cli import values
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.main import describe
from wherry.errors import InvalidArgument, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    if flags.on("attach") or flags.on("interactive"):
        if len(arguments) > 1:
            raise CliError("you cannot start and attach multiple containers at once")
        return _start_attached(app, flags, arguments[0])
    failed: list[str] = []
    for name in arguments:
        try:
            app.containers.start(name)
        except WherryError as error:
            app.err(describe(error) + "\n")
            failed.append(name)
        else:
            app.out(name + "\n")
    if failed:
        raise CliError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(app: App, flags: Flags, name: str) -> int:
    from wherry.cli.streams import Streamer, follow_window_size, forward_signals, resize_container

    from .run import finish

    try:
        keys = values.detach_keys(flags.text("detach-keys")) if flags.text("detach-keys") else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    containers = app.containers
    container = containers.inspect(name)
    container_id, tty = container["Id"], container["Config"]["Tty"]
    stdin = flags.on("interactive") and container["Config"]["OpenStdin"]
    if not tty:
        forward_signals(app, container_id)
    stream = containers.attach(container_id, stdin=stdin, detach_keys=flags.text("detach-keys"))
    streamer = Streamer(stream, stdin=stdin, stdout=True, stderr=True, tty=tty, detach_keys=keys)
    waiter = containers.wait(container_id, "removed" if container["HostConfig"]["AutoRemove"] else "next-exit")
    streamer.start_input()
    try:
        containers.start(container_id)
    except WherryError:
        streamer.abandon()
        raise
    if tty:
        follow_window_size(app, resize_container(container_id))
    return finish(streamer, waiter)


COMMAND = Command(
    run,
    arguments="CONTAINER [CONTAINER...]",
    flags=(
        Flag("attach", "bool", "Show the output, pass signals on, exit with the container's code", short="a"),
        Flag("detach-keys", "string", "Keys that detach the terminal (ctrl-p,ctrl-q)"),
        Flag("interactive", "bool", "Connect stdin too", short="i"),
        Flag("checkpoint", "string", refused="there are no checkpoints yet"),
        Flag("checkpoint-dir", "string", refused="there are no checkpoints yet"),
    ),
    at_least=1,
    examples=("wherry start web", "wherry start -a job"),
)
