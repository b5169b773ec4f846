"""What `run` and `create` share: the container created, its image pulled when it is missing, its ID written where it was asked for."""

from __future__ import annotations

import os

from wherry.client.errors import ApiError, ApiNotFound
from wherry.errors import FailedPrecondition

from .command import CliError
from .container_flags import request
from .main import describe
from .streams import window_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .app import App
    from .flags import Flags

FAILURE = 125


def failure(app: App, error: object, code: int = FAILURE) -> CliError:
    """A failure of `run` or `create` before the container's own exit code counts."""
    text = describe(error) if isinstance(error, Exception) else str(error)
    return CliError(f"wherry: {text}\n\nRun 'wherry {app.path} --help' for more information", code)


def start_failure(app: App, error: ApiError) -> CliError:
    """The same, with the code that tells why a process could not be started: 127 not found, 126 not executable."""
    message = error.message
    code = FAILURE
    if "executable file not found" in message or "no such file or directory" in message:
        code = 127
    elif "permission denied" in message or "is a directory" in message:
        code = 126
    return failure(app, error, code)


def build_request(app: App, flags: Flags, arguments: list[str]) -> dict[str, Any]:
    """The body of create; a command line that makes no sense is a failure with 125."""
    if flags.text("pull") not in ("always", "missing", "never", ""):
        wrong = flags.text("pull")
        raise failure(app, f'invalid pull option: \'{wrong}\': must be one of "always", "missing" or "never"')
    try:
        return request(flags, arguments[0], arguments[1:])
    except ValueError as error:
        raise failure(app, error) from None


def create(app: App, flags: Flags, body: dict[str, Any]) -> str:
    """Creates the container; its ID. Warnings go to stderr."""
    image = str(body["Image"])
    path = flags.text("cidfile")
    cidfile = _open_cidfile(path) if path else -1
    written = False
    try:
        if flags.text("pull") == "always":
            _pull(app, flags, image)
        body["HostConfig"]["ConsoleSize"] = list(window_size())
        answer = _create(app, flags, body, image)
        for warning in answer.get("Warnings") or ():
            app.err(f"WARNING: {warning}\n")
        container_id = str(answer["Id"])
        if cidfile >= 0:
            os.write(cidfile, container_id.encode("ascii"))
            written = True
        return container_id
    finally:
        if cidfile >= 0:
            os.close(cidfile)
            if not written:
                os.unlink(path)


def _create(app: App, flags: Flags, body: dict[str, Any], image: str) -> dict[str, Any]:
    name, platform = flags.text("name"), flags.text("platform")
    try:
        return app.containers.create(body, name=name, platform=platform)
    except ApiNotFound as error:
        missing = "No such image" in error.message or "does not provide the specified platform" in error.message
        if flags.text("pull") not in ("missing", "") or not missing:
            raise
    from wherry.client.reference import familiar

    if not flags.on("quiet"):
        app.err(f"Unable to find image '{familiar(image)}' locally\n")
    _pull(app, flags, image)
    return app.containers.create(body, name=name, platform=platform)


def _pull(app: App, flags: Flags, image: str) -> None:
    from .progress import show
    from .registry_auth import auth_for

    progress = app.images.pull(image, platform=flags.text("platform"), auth=auth_for(app, image))
    show(progress, quiet=flags.on("quiet"), fd=2)


def _open_cidfile(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise FailedPrecondition(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FailedPrecondition(f"failed to create the container ID file: open {path}: {reason}") from None
