"""The error kinds: a dozen, known to every layer, translated once per edge.

    WherryError
    ├── NotFound             no such container, image, digest …
    ├── InvalidArgument      the caller's input is wrong, whatever the state
    ├── AlreadyExists        the name or id is taken
    ├── Conflict             the object's present state forbids it
    ├── FailedPrecondition   the machine's state forbids it (kernel lacks a feature)
    ├── NotModified          nothing to do: it is already so
    ├── PermissionDenied     not allowed, or credentials are missing or wrong
    ├── Unavailable          a peer or the daemon does not answer; trying again may help
    ├── NotImplemented       wherry does not do this; the message names it
    ├── DeadlineExceeded     it took longer than allowed
    ├── DataLoss             what is stored or received is damaged
    └── Internal             a defect of wherry

Subsystems subclass a kind and add typed fields. Edges translate: `api.errors` to HTTP status, `cli` to exit
codes. The text is for people and, where Docker's clients match on it, Docker's, verbatim.

Leaf module: imports nothing of wherry, and little of the standard library (it is loaded in every container's shim).
"""

from __future__ import annotations

import os


class WherryError(Exception):
    """Base of all errors that a user may see. `str(error)` is the whole message."""


class NotFound(WherryError):
    pass


class InvalidArgument(WherryError):
    pass


class AlreadyExists(WherryError):
    pass


class Conflict(WherryError):
    pass


class FailedPrecondition(WherryError):
    pass


class NotModified(WherryError):
    pass


class PermissionDenied(WherryError):
    pass


class Unavailable(WherryError):
    pass


class NotImplemented(WherryError):
    pass


class DeadlineExceeded(WherryError):
    pass


class DataLoss(WherryError):
    pass


class Internal(WherryError):
    pass


class SyscallError(Internal):
    """A failed system call: which call, on which object, with which errno.

    `call` is the system call's name ("mount"), `subject` the object ("overlay on /run/…"), `errno` the number.
    """

    def __init__(self, call: str, subject: str, errno: int) -> None:
        super().__init__(
            f"{call} {subject}: {os.strerror(errno).lower()}" if subject else f"{call}: {os.strerror(errno).lower()}"
        )
        self.call = call
        self.subject = subject
        self.errno = errno


class StartError(WherryError):
    """A container's process could not be started: the step of the set-up that failed, and why.

    `step` is the runtime's name of the step ("mounts", "exec", …), `errno` 0 where no system call failed.
    Docker's exit codes follow from it: step "exec" with ENOENT is 127, with EACCES, ENOEXEC or ENOTDIR 126; all else is 125… of the
    engine's `start`, which words them as runc does.
    """

    def __init__(self, step: str, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.errno = errno
