"""`wherry attach`."""

from __future__ import annotations

from wherry.cli import values
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    """The container's exit code, 0 when the user detaches."""
    from wherry.cli.streams import Streamer, check_tty, follow_window_size, forward_signals, resize_container

    try:
        keys = values.detach_keys(flags.text("detach-keys")) if flags.text("detach-keys") else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    containers = app.containers
    waiter = containers.wait(arguments[0])
    container = _running(app, arguments[0])
    container_id, tty = container["Id"], container["Config"]["Tty"]
    check_tty(attach_stdin=not flags.on("no-stdin"), tty=tty)
    stdin = not flags.on("no-stdin") and container["Config"]["OpenStdin"]
    if flags.on("sig-proxy") and not tty:
        forward_signals(app, container_id)
    stream = containers.attach(container_id, stdin=stdin, detach_keys=flags.text("detach-keys"))
    _running(app, container_id)  # one that has ended meanwhile would never end the stream
    streamer = Streamer(stream, stdin=stdin, stdout=True, stderr=True, tty=tty, detach_keys=keys)
    if tty:
        _redraw(app, container_id)
        follow_window_size(app, resize_container(container_id))
    streamer.start_input()
    streamer.copy()
    if streamer.detached:
        raise CliError("read escape sequence")
    code, problem = waiter.result()
    if problem:
        raise CliError(problem)
    return code


def _running(app: App, name: str) -> dict[str, Any]:
    container = app.containers.inspect(name)
    state = container["State"]
    if not state["Running"]:
        raise CliError("You cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise CliError("You cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise CliError("You cannot attach to a restarting container, wait until it is running")
    return container


def _redraw(app: App, container_id: str) -> None:
    """A size one larger, so that the size that follows makes the program inside draw its screen again."""
    from wherry.cli.streams import window_size
    from wherry.errors import WherryError

    height, width = window_size()
    if height or width:
        try:
            app.containers.resize(container_id, height=height + 1, width=width + 1)
        except WherryError as error:
            app.log(f"resize: {error}")


COMMAND = Command(
    run,
    arguments="CONTAINER",
    flags=(
        Flag("detach-keys", "string", "Keys that detach the terminal (ctrl-p,ctrl-q)"),
        Flag("no-stdin", "bool", "Do not connect stdin"),
        Flag("sig-proxy", "bool", "Pass signals on to the process", default=True),
    ),
    at_least=1,
    at_most=1,
    examples=("wherry attach web",),
)
