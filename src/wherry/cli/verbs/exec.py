"""`wherry exec`: one more process in a running container."""

from __future__ import annotations

import os

from wherry.cli import values
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.streams import Streamer, check_tty, follow_window_size, resize_exec, window_size
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    """The process's exit code."""
    container, *command = arguments
    detach, tty, stdin = flags.on("detach"), flags.on("tty"), flags.on("interactive") and not flags.on("detach")
    try:
        keys = values.detach_keys(flags.text("detach-keys")) if flags.text("detach-keys") else None
        environment = [pair for path in flags.items("env-file") for pair in values.read_file(path, os.environ.get)]
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    except OSError as error:
        raise CliError(f"open {error.filename}: {(error.strerror or str(error)).lower()}") from None
    config: dict[str, Any] = {
        "Cmd": command,
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Privileged": flags.on("privileged"),
        "User": flags.text("user"),
        "WorkingDir": flags.text("workdir"),
        "DetachKeys": flags.text("detach-keys"),
        "Env": environment + flags.items("env"),
    }
    containers = app.containers
    if not detach and stdin and tty and not os.isatty(0):
        containers.inspect(container)  # a container that is not there is the more important news
        check_tty(attach_stdin=True, tty=True)
    size = window_size() if tty else (0, 0)
    if size != (0, 0):
        config["ConsoleSize"] = list(size)
    exec_id = containers.exec_create(container, config)
    if detach:
        containers.exec_start_detached(exec_id, tty=tty)
        return 0
    streamer = Streamer(
        containers.exec_start(exec_id, tty=tty, size=size),
        stdin=stdin,
        stdout=True,
        stderr=True,
        tty=tty,
        detach_keys=keys,
    )
    streamer.start_input()
    if tty:
        follow_window_size(app, resize_exec(exec_id))
    streamer.copy()
    if streamer.detached:
        raise CliError("read escape sequence")
    return int(containers.exec_inspect(exec_id).get("ExitCode") or 0)


COMMAND = Command(
    run,
    arguments="CONTAINER COMMAND [ARG...]",
    flags=(
        Flag("detach", "bool", "Do not wait for the command", short="d"),
        Flag("detach-keys", "string", "Keys that detach the terminal (ctrl-p,ctrl-q)"),
        Flag("env", "list", "Set an environment variable (KEY=value)", short="e", check=values.env),
        Flag("env-file", "list", "Read environment variables from a file, one per line"),
        Flag("interactive", "bool", "Keep stdin open", short="i"),
        Flag("privileged", "bool", "Give the command full privileges"),
        Flag("tty", "bool", "Allocate a terminal", short="t"),
        Flag("user", "string", "User, or user:group, by name or number", short="u"),
        Flag("workdir", "string", "Working directory inside the container", short="w"),
    ),
    at_least=2,
    interspersed=False,
    examples=("wherry exec -it web sh", "wherry exec -u 1000 -e DEBUG=1 web env"),
)
