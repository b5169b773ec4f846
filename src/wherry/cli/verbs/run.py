"""`wherry run`: create, attach, wait, start – in this order, so that no output and no exit is missed."""

from __future__ import annotations

from wherry.cli.command import CliError, Command
from wherry.cli.container_flags import CONTAINER_FLAGS
from wherry.cli.flags import Flag
from wherry.cli.lifecycle import build_request, create, failure, start_failure
from wherry.client.errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags
    from wherry.cli.streams import Streamer
    from wherry.client.containers import Waiter


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    """The container's exit code; 125, 126 or 127 when it did not come to run."""
    from wherry.cli.streams import check_tty
    from wherry.cli.values import detach_keys

    body = build_request(app, flags, arguments)
    detach = flags.on("detach")
    if not detach:
        check_tty(attach_stdin=body["AttachStdin"], tty=body["Tty"])
    else:
        if flags.items("attach"):
            raise CliError("conflicting options: cannot specify both --attach and --detach")
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    try:
        keys = detach_keys(flags.text("detach-keys")) if flags.text("detach-keys") else None
    except ValueError as error:
        raise failure(app, error) from None
    try:
        container_id = create(app, flags, body)
    except ApiError as error:
        raise start_failure(app, error) from None
    if not (body["AttachStdin"] or body["AttachStdout"] or body["AttachStderr"]):
        return _run_detached(app, container_id)
    return _run_attached(app, flags, body, container_id, keys)


def _run_detached(app: App, container_id: str) -> int:
    app.out(f"{container_id}\n")
    try:
        app.containers.start(container_id)
    except ApiError as error:
        raise start_failure(app, error) from None
    return 0


def _run_attached(app: App, flags: Flags, body: dict[str, Any], container_id: str, keys: bytes | None) -> int:
    from wherry.cli.streams import Streamer, follow_window_size, forward_signals, resize_container

    if flags.on("sig-proxy"):
        forward_signals(app, container_id)
    containers = app.containers
    stdin, stdout, stderr, tty = body["AttachStdin"], body["AttachStdout"], body["AttachStderr"], body["Tty"]
    stream = containers.attach(
        container_id, stdin=stdin, stdout=stdout, stderr=stderr, detach_keys=flags.text("detach-keys")
    )
    streamer = Streamer(stream, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty, detach_keys=keys)
    waiter = containers.wait(container_id, "removed" if flags.on("rm") else "next-exit")
    streamer.start_input()
    try:
        containers.start(container_id)
    except ApiError as error:
        streamer.abandon()
        if flags.on("rm"):
            waiter.result()
        raise start_failure(app, error) from None
    if tty:
        follow_window_size(app, resize_container(container_id))
    return finish(streamer, waiter)


def finish(streamer: Streamer, waiter: Waiter) -> int:
    """Output to its end, then the exit code; 0 when the user detached."""
    streamer.copy()
    if streamer.detached:
        return 0
    code, problem = waiter.result()
    if problem:
        raise CliError(f"Error waiting for container: {problem}", 125)
    return code


RUN_FLAGS = (
    *CONTAINER_FLAGS,
    Flag("detach", "bool", "Run in the background and print the container's ID", short="d"),
    Flag("detach-keys", "string", "Keys that detach the terminal (ctrl-p,ctrl-q)"),
    Flag("sig-proxy", "bool", "Pass signals on to the process", default=True),
)

COMMAND = Command(
    run,
    arguments="IMAGE [COMMAND] [ARG...]",
    flags=RUN_FLAGS,
    at_least=1,
    interspersed=False,
    fails_with=125,
    examples=(
        "wherry run --rm hello-world",
        "wherry run --rm -it busybox sh",
        "wherry run -d --name web -p 8080:80 nginx",
        "wherry run --rm -v ./data:/data:ro -m 512m --cpus 1.5 busybox ls /data",
    ),
)
