"""What the HTTP routes need of the engine: one Protocol per resource. `engine` implements them; `daemon` connects the two.

All methods run on wherryd's event loop. `ref` is what a client may name an object by: full id, unique id prefix, or name (with or without
the leading slash). Errors are `wherry.errors` kinds with Docker's words; `api.errors` turns the kind into the HTTP status.
Answers that are JSON objects are plain dictionaries with Docker's keys (`Json`), ready to encode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from wherry.spec.calls import (
    AttachedStream,
    AttachOptions,
    CommitOptions,
    Filters,
    Json,
    JsonList,
    LogOptions,
    LogStream,
    Names,
    ProgressSink,
    RegistryAuth,
    WaitResult,
)
from wherry.spec.ids import ContainerId, ExecId, ImageId
from wherry.spec.image import Platform
from wherry.wire.engine import ContainerCreate, ExecCreate, ExecStart, VolumeCreate


class ContainerBackend(Protocol):
    async def create(
        self, name: str | None, request: ContainerCreate, *, platform: str | None
    ) -> tuple[ContainerId, Names]:
        """→ id, warnings. NotFound "No such image: …"; Conflict when the name is taken; InvalidArgument."""
        ...

    async def start(self, ref: str) -> None:
        """NotModified when running already; StartError when the process cannot be started."""
        ...

    async def stop(self, ref: str, *, timeout: int | None, signal: str | None) -> None: ...
    async def restart(self, ref: str, *, timeout: int | None, signal: str | None) -> None: ...
    async def kill(self, ref: str, *, signal: str | None) -> None: ...
    async def pause(self, ref: str) -> None: ...
    async def unpause(self, ref: str) -> None: ...
    async def rename(self, ref: str, name: str) -> None: ...
    async def resize(self, ref: str, *, height: int, width: int) -> None: ...
    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None: ...

    async def wait(self, ref: str, condition: str) -> Awaitable[WaitResult]:
        """condition: "not-running", "next-exit", "removed" ("" is the first). The outer await registers the waiter (and raises NotFound
        or InvalidArgument), so that the caller can send its headers before the exit; the inner one ends with it."""
        ...

    async def attach(self, ref: str, options: AttachOptions) -> AttachedStream:
        """Also before start: the stream then begins with the first byte of output. Conflict when paused."""
        ...

    async def logs(self, ref: str, options: LogOptions) -> LogStream: ...
    async def inspect(self, ref: str, *, size: bool, api_version: tuple[int, int]) -> Json: ...
    async def list(self, *, all: bool, limit: int | None, size: bool, filters: Filters) -> JsonList: ...
    async def top(self, ref: str, ps_args: str) -> Json: ...
    async def prune(self, filters: Filters) -> Json: ...
    async def changes(self, ref: str) -> JsonList:
        """→ [{"Path": …, "Kind": 0 modified | 1 added | 2 deleted}]."""
        ...

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        """Its file system as a tar."""
        ...

    async def commit(self, ref: str, options: CommitOptions) -> ImageId: ...
    async def stats(self, ref: str) -> Json:
        """One sample, in the shape of GET /containers/{id}/stats."""
        ...


class ExecBackend(Protocol):
    async def create(self, ref: str, request: ExecCreate) -> ExecId: ...
    async def start(self, exec_id: str, request: ExecStart) -> AttachedStream | None:
        """None when request.detach; otherwise the streams asked for at create."""
        ...

    async def inspect(self, exec_id: str) -> Json: ...
    async def resize(self, exec_id: str, *, height: int, width: int) -> None: ...


class ImageBackend(Protocol):
    """`platform`: of the images that a name stands for the one for it; NotFound when it is not here."""

    async def list(
        self,
        *,
        all: bool,
        filters: Filters,
        manifests: bool = False,
        identity: bool = False,
        shared_size: bool = False,
    ) -> JsonList:
        """`identity`: of each of the `manifests`."""
        ...

    async def inspect(self, ref: str, *, platform: Platform | None = None, manifests: bool = False) -> Json: ...
    async def history(self, ref: str, *, platform: Platform | None = None) -> JsonList: ...
    async def attestations(
        self, ref: str, *, platform: Platform | None, types: Sequence[str], statement: bool
    ) -> JsonList: ...
    async def trust(self, ref: str) -> Json:
        """The trust policy, and the rule of it for the image `ref` unless that is ""."""
        ...

    async def fsck(self, *, repair: bool, auths: Mapping[str, RegistryAuth], progress: ProgressSink) -> None:
        """Verifies the store; mends what it can with `repair`, and with `auths` by registry. Conflict when a check is under way."""
        ...

    async def tag(self, ref: str, repository: str, tag: str) -> None: ...
    async def remove(
        self, ref: str, *, force: bool, prune_parents: bool, platforms: Sequence[Platform] = ()
    ) -> JsonList:
        """→ [{"Untagged": …}, {"Deleted": …}]. `platforms`: only the variants for these."""
        ...

    async def prune(self, filters: Filters) -> Json: ...

    async def pull(self, reference: str, *, platform: str | None, auth: RegistryAuth, progress: ProgressSink) -> None:
        """Errors found before anything was reported are raised; the route also turns a late one into an errorDetail message."""
        ...

    async def push(
        self,
        repository: str,
        tag: str,
        *,
        platform: str | None,
        referrers: bool = False,
        auth: RegistryAuth,
        progress: ProgressSink,
    ) -> None:
        """`tag` "": all tags of the repository. NotFound when there is none. `referrers`: what refers to the image and is here goes along."""
        ...

    async def save(self, refs: Sequence[str], *, platforms: Sequence[Platform]) -> AsyncIterator[bytes]:
        """An archive of those images; NotFound before its first piece."""
        ...

    async def load(
        self,
        archive: AsyncIterator[bytes],
        *,
        quiet: bool,
        platforms: Sequence[Platform] = (),
        progress: ProgressSink,
    ) -> None: ...

    async def import_(
        self,
        archive: AsyncIterator[bytes] | str,
        *,
        repository: str,
        tag: str,
        message: str,
        changes: Names,
        platform: str | None,
        progress: ProgressSink,
    ) -> None:
        """`archive`: a root file system as a (compressed) tar stream, or the URL of one."""
        ...


class NetworkBackend(Protocol):
    async def list(self, filters: Filters) -> JsonList: ...
    async def inspect(self, ref: str) -> Json: ...
    async def prune(self, filters: Filters) -> Json: ...


class VolumeBackend(Protocol):
    async def create(self, request: VolumeCreate) -> Json: ...
    async def list(self, filters: Filters) -> Json: ...
    async def inspect(self, name: str) -> Json: ...
    async def remove(self, name: str, *, force: bool) -> None: ...
    async def prune(self, filters: Filters) -> Json: ...


class RegistryBackend(Protocol):
    async def authenticate(self, auth: RegistryAuth) -> Json:
        """→ {"Status": …, "IdentityToken": …}. PermissionDenied when the registry refuses the credentials."""
        ...

    async def distribution(self, name: str, auth: RegistryAuth) -> Json:
        """→ {"Descriptor": …, "Platforms": […]} of what the registry has under that name."""
        ...

    async def search(self, term: str, *, limit: int | None, filters: Filters, auth: RegistryAuth) -> JsonList: ...


class SystemBackend(Protocol):
    async def info(self) -> Json: ...
    async def version(self) -> Json:
        """The body of GET /version."""
        ...

    async def disk_usage(self, types: Names) -> Json: ...

    def events(self, *, since_ns: int | None, until_ns: int | None, filters: Filters) -> AsyncIterator[Json]:
        """Past events that are still remembered, then live ones until `until_ns` (or for ever). The listener counts from the call on,
        not from the first `anext`."""
        ...


@dataclass(slots=True)
class Backends:
    containers: ContainerBackend
    execs: ExecBackend
    images: ImageBackend
    networks: NetworkBackend
    volumes: VolumeBackend
    registries: RegistryBackend
    system: SystemBackend
    api_versions: tuple[str, str] = field(default=("1.24", "1.56"))
    """Lowest and highest version of the Engine API that is spoken."""
