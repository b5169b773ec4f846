"""What passes between the HTTP edge and the engine besides Docker's JSON: options and live streams.

Here, since `api` and `engine` both need them and neither imports the other; the Protocols that use them are in `api.backend`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
JsonList = list[Json]
"""Named, because the backends have methods called `list`."""
Names = list[str]
Filters = Mapping[str, list[str]]
"""Docker's `filters` query, decoded: name → accepted values. The older {"name": {"value": true}} form is already folded in."""

ProgressSink = Callable[[Json], None]
"""Takes one object of Docker's JSON progress stream ({"status": …, "id": …, "progressDetail": …}); never blocks."""


@dataclass(frozen=True, slots=True)
class AttachOptions:
    stream: bool = True
    logs: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@dataclass(slots=True)
class AttachedStream:
    """A live connection to a process's standard streams.

    `socket` is one end of a connected AF_UNIX stream socket, non-blocking, owned by the caller: what is written goes to stdin
    (shutdown(SHUT_WR) is end of file), what is read is to be sent to the client as it is. `multiplexed`: the bytes are stdcopy frames
    (no terminal); otherwise raw. End of file means that the process's output is complete.
    `replay` is sent before the stream (attach with logs=1). `on_detach` is called when the client leaves by its detach keys; `detach_keys` are
    those asked for when an exec was created ("": the default).
    """

    socket: socket.socket
    multiplexed: bool
    replay: AsyncIterator[bytes] | None = None
    on_detach: Callable[[], None] | None = None
    detach_keys: str = ""


@dataclass(frozen=True, slots=True)
class LogOptions:
    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    timestamps: bool = False
    tail: int | None = None  # None: all
    since_ns: int | None = None
    until_ns: int | None = None
    details: bool = False


@dataclass(slots=True)
class LogStream:
    """`chunks` yields stdcopy frames if `multiplexed`, raw bytes otherwise; closing the iterator ends a follow."""

    chunks: AsyncIterator[bytes]
    multiplexed: bool


@dataclass(frozen=True, slots=True)
class WaitResult:
    status_code: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """Decoded X-Registry-Auth header; empty: anonymous."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server_address: str = ""


@dataclass(frozen=True, slots=True)
class CommitOptions:
    """Of POST /commit. `config`: the request's body; None means the container's own."""

    repository: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()
    config: Any = None
