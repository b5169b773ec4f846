"""From error kind to HTTP status: the one translator of this edge, and the body that carries the words.

Source: the Engine API's error object `{"message": …}`, and Docker's choice of status for each kind. A start that failed because of
what was to be executed (not found, not executable, a directory) is the client's mistake, 400; every other failed start is the machine's, 500.
The exit codes 125, 126 and 127 are the client's reading of the message, not of the status.
"""

from __future__ import annotations

import os
from errno import EACCES, EDQUOT, EISDIR, ENOENT, ENOSPC, ENOTDIR

from wherry import errors
from wherry.errors import StartError, WherryError

_STATUS: tuple[tuple[type[WherryError], int], ...] = (
    (errors.NotFound, 404),
    (errors.InvalidArgument, 400),
    (errors.AlreadyExists, 409),
    (errors.Conflict, 409),
    (errors.FailedPrecondition, 400),
    (errors.NotModified, 304),
    (errors.PermissionDenied, 403),
    (errors.Unavailable, 503),
    (errors.NotImplemented, 501),
    (errors.DeadlineExceeded, 500),
    (errors.DataLoss, 500),
    (errors.Internal, 500),
)
_CLIENTS_MISTAKE = frozenset({ENOENT, EACCES, EISDIR, ENOTDIR})
_CLIENTS_MISTAKE_WORDS = (
    "executable file not found",
    "no such file or directory",
    "permission denied",
    "is a directory",
    "not a directory",
)


class MethodNotAllowed(errors.InvalidArgument):
    """The path exists, but not for this method. `allowed` are the methods that it has."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("method not allowed")
        self.allowed = allowed


class BodyTooLarge(errors.InvalidArgument):
    """The request's body exceeds `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"request body is larger than {limit} bytes")
        self.limit = limit


def status_of(error: BaseException) -> int:
    """The HTTP status for an error; 500 for what is not an error of wherry's."""
    if isinstance(error, MethodNotAllowed):
        return 405
    if isinstance(error, BodyTooLarge):
        return 413
    if isinstance(error, StartError):
        lowered = str(error).lower()
        mistaken = error.errno in _CLIENTS_MISTAKE or any(words in lowered for words in _CLIENTS_MISTAKE_WORDS)
        return 400 if mistaken else 500
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def message_of(error: BaseException) -> str:
    """The text for the client. What is not an error of wherry's is named as the defect that it is, but for a full disk."""
    if isinstance(error, WherryError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return f"write {error.filename or 'below the data root'}: {os.strerror(error.errno).lower()}"
    return f"internal error: {type(error).__name__}: {error}"
