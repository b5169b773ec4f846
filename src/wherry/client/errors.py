"""What goes wrong between a client and the engine, in the kinds of `wherry.errors`.

`ApiError` carries the engine's own words and the HTTP status; it is also an instance of the kind that the status stands for, so that
`except wherry.errors.NotFound` does what it says. `ConnectionFailed` means that no engine was reached.
"""

from __future__ import annotations

from wherry import errors


class ApiError(errors.WherryError):
    """The engine answered with an error. `status` is the HTTP status, `message` the engine's words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ApiNotFound(ApiError, errors.NotFound):
    pass


class ApiInvalidArgument(ApiError, errors.InvalidArgument):
    pass


class ApiConflict(ApiError, errors.Conflict):
    pass


class ApiPermissionDenied(ApiError, errors.PermissionDenied):
    pass


class ApiNotModified(ApiError, errors.NotModified):
    pass


class ApiNotImplemented(ApiError, errors.NotImplemented):
    pass


class ApiUnavailable(ApiError, errors.Unavailable):
    pass


class ApiInternal(ApiError, errors.Internal):
    pass


_KINDS: dict[int, type[ApiError]] = {
    304: ApiNotModified,
    400: ApiInvalidArgument,
    401: ApiPermissionDenied,
    403: ApiPermissionDenied,
    404: ApiNotFound,
    409: ApiConflict,
    500: ApiInternal,
    501: ApiNotImplemented,
    502: ApiUnavailable,
    503: ApiUnavailable,
}


def api_error(status: int, message: str) -> ApiError:
    """The error of the kind that `status` stands for."""
    return _KINDS.get(status, ApiError)(status, message)


class ConnectionFailed(errors.Unavailable):
    """No engine was reached at `address`, or the connection broke. `errno` is 0 when no system call failed.

    `refused`: nothing listens there (no such socket, or connection refused), so that starting an engine may help.
    """

    def __init__(self, address: str, message: str, errno: int = 0, *, refused: bool = False) -> None:
        super().__init__(message)
        self.address = address
        self.errno = errno
        self.refused = refused
