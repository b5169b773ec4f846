"""Docker's containers: implements `api.backend.ContainerBackend` on the modules beside it, one for each concern. Runs in wherryd."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Mapping

from wherry.core.cancellation import thread_to_the_end
from wherry.core.commit import Committer
from wherry.core.tasks import AttachRequest, ExitEvent
from wherry.engine import commit, create, inspect, listing, logs, names, pruning, top
from wherry.engine.execs import Execs
from wherry.engine.image_names import new_name
from wherry.engine.lifecycle import Lifecycle
from wherry.engine.records import Container, Status, Waiter
from wherry.engine.services import Services
from wherry.engine.start import Starter, log_path, worded
from wherry.engine.stats import sample
from wherry.engine.store import describe
from wherry.errors import Conflict, InvalidArgument, NotFound, StartError
from wherry.spec.calls import (
    AttachedStream,
    AttachOptions,
    CommitOptions,
    Json,
    JsonList,
    LogOptions,
    LogStream,
    Names,
    WaitResult,
)
from wherry.spec.ids import ContainerId, ImageId
from wherry.wire.engine import ContainerCreate

_WAIT_CONDITIONS = {"", "not-running", "next-exit", "removed"}


class Containers:
    def __init__(self, services: Services, committer: Committer) -> None:
        self._services = services
        self._committer = committer
        starter = Starter(services)
        self.lifecycle = Lifecycle(services, starter)
        self.execs = Execs(services, starter)

    def on_exit(self, event: ExitEvent) -> None:
        """What Tasks calls when a process has ended."""
        if event.exec_id is not None:
            self.execs.on_exit(event)
            return
        container = self._services.containers.find(event.container_id)
        if container is not None:
            self.execs.container_exited(container)
        self.lifecycle.on_exit(event)

    def _get(self, ref: str) -> Container:
        return self._services.containers.get(ref)

    async def create(
        self, name: str | None, request: ContainerCreate, *, platform: str | None
    ) -> tuple[ContainerId, Names]:
        return await create.create_container(self._services, name, request, platform=platform)

    async def start(self, ref: str) -> None:
        await self.lifecycle.start(self._get(ref))

    async def stop(self, ref: str, *, timeout: int | None, signal: str | None) -> None:
        await self.lifecycle.stop(self._get(ref), timeout=timeout, signal=signal)

    async def restart(self, ref: str, *, timeout: int | None, signal: str | None) -> None:
        container = self._get(ref)
        try:
            await self.lifecycle.restart(container, timeout=timeout, signal=signal)
        except StartError as error:
            raise worded(error, f"Cannot restart container {ref}: ") from error
        except (Conflict, InvalidArgument) as error:
            raise type(error)(f"Cannot restart container {ref}: {error}") from error

    async def kill(self, ref: str, *, signal: str | None) -> None:
        await self.lifecycle.kill(self._get(ref), signal)

    async def pause(self, ref: str) -> None:
        await self.lifecycle.pause(self._get(ref))

    async def unpause(self, ref: str) -> None:
        await self.lifecycle.unpause(self._get(ref))

    async def rename(self, ref: str, name: str) -> None:
        container = self._get(ref)
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        async with container.lock:
            old = container.name
            try:
                await self._services.containers.rename(container, names.check(name))
            except Conflict as error:
                raise Conflict(f"Error when allocating new name: {error}") from error
        self._services.events.publish(
            "container", "rename", container.id, {**describe(container.record), "oldName": f"/{old}"}
        )

    async def resize(self, ref: str, *, height: int, width: int) -> None:
        container = self._get(ref)
        task = self.lifecycle.task(container, "resize")
        if not container.record.config.tty:
            return  # nothing has a size; dockerd answers the same
        await task.resize(width, height)
        self._services.events.publish(
            "container",
            "resize",
            container.id,
            {**describe(container.record), "height": str(height), "width": str(width)},
        )

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        if link:
            raise InvalidArgument("wherry does not support links: nothing to remove with link=1")
        container = self._get(ref)
        await self.lifecycle.remove(container, force=force, volumes=volumes)
        self.execs.forget_container(container)

    async def wait(self, ref: str, condition: str) -> Awaitable[WaitResult]:
        if condition not in _WAIT_CONDITIONS:
            raise InvalidArgument(f"invalid condition: {condition!r}")
        container = self._get(ref)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # An end that is being recorded is told with the others.
        is_ended = container.exited.is_set() and container.status is not Status.RESTARTING
        if condition in ("", "not-running") and is_ended:
            future.set_result(container.record.state.exit_code)
        else:
            container.waiters.append(Waiter(condition, future))
        return self._wait(container, future)

    @staticmethod
    async def _wait(container: Container, future: asyncio.Future[int]) -> WaitResult:
        try:
            status = await future
        finally:
            container.waiters = [waiter for waiter in container.waiters if waiter.future is not future]
        return WaitResult(status)

    async def attach(self, ref: str, options: AttachOptions) -> AttachedStream:
        container = self._get(ref)
        if container.status is Status.PAUSED:
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if container.status is Status.RESTARTING:
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        config = container.record.config
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        replay = None
        try:
            request = AttachRequest(
                theirs, stdin=options.stdin and config.open_stdin, stdout=options.stdout, stderr=options.stderr
            )
            if options.logs:
                replay = (await self.logs(ref, LogOptions(stdout=options.stdout, stderr=options.stderr))).chunks
            if not options.stream:
                theirs.close()
            elif container.is_running:
                try:
                    await self.lifecycle.task(container, "attach").attach(request)
                finally:
                    theirs.close()
            else:
                container.pending_attach.append(request)
        except BaseException:
            ours.close()
            raise
        publish, attributes = self._services.events.publish, describe(container.record)
        publish("container", "attach", container.id, attributes)
        return AttachedStream(
            ours, not config.tty, replay, on_detach=lambda: publish("container", "detach", container.id, attributes)
        )

    async def logs(self, ref: str, options: LogOptions) -> LogStream:
        container = self._get(ref)
        if not (options.stdout or options.stderr):
            raise InvalidArgument("You must choose at least one stream")
        log_config = container.record.host_config.log_config
        driver = (log_config.type if log_config else "") or "json-file"
        if driver == "none":
            raise Conflict("configured logging driver does not support reading")
        multiplexed = not container.record.config.tty
        path = log_path(self._services, container.id)
        return LogStream(logs.read(path, options, multiplexed=multiplexed, ended=container.exited), multiplexed)

    async def inspect(self, ref: str, *, size: bool, api_version: tuple[int, int]) -> Json:
        container = self._get(ref)
        answer = inspect.inspect(self._services, container, api_version=api_version)
        if size:
            answer |= await self._sizes(container)
        return answer

    async def _sizes(self, container: Container) -> Json:
        size, _ = await self._services.snapshots.usage(container.id)
        try:
            image_size = self._services.images.get(container.record.image).size
        except NotFound:
            image_size = 0
        return {"SizeRw": size, "SizeRootFs": size + image_size}

    async def list(self, *, all: bool, limit: int | None, size: bool, filters: Mapping[str, Names]) -> JsonList:
        found = listing.select(self._services, all=all, limit=limit, filters=filters)
        answer = []
        for container in found:
            entry = inspect.summary(self._services, container)
            if size:
                entry |= await self._sizes(container)
            answer.append(entry)
        return answer

    async def top(self, ref: str, ps_args: str) -> Json:
        container = self._get(ref)
        if container.task is None or not container.is_running:
            raise Conflict(f"container {container.id} is not running")
        answer = await top.top(await container.task.pids(), ps_args)
        self._services.events.publish("container", "top", container.id, describe(container.record))
        return answer

    async def changes(self, ref: str) -> JsonList:
        return await commit.changes(self._services, self._get(ref))

    async def export(self, ref: str) -> AsyncIterator[bytes]:
        return commit.export(self._services, self._get(ref))

    async def commit(self, ref: str, options: CommitOptions) -> ImageId:
        container = self._get(ref)
        name = new_name(options.repository, options.tag) if options.repository else None
        return await commit.commit(self._services, self.lifecycle, self._committer, container, options, name)

    @pruning.one_at_a_time
    async def prune(self, filters: Mapping[str, Names]) -> Json:
        """Removes what does not run. What is removed or started meanwhile is passed over."""
        pruning.check(filters)
        deadline = pruning.deadline(filters)
        deleted, reclaimed = [], 0
        for container in listing.select(self._services, all=True, limit=None, filters={}):
            young = deadline is not None and container.record.created_ns > deadline
            if container.is_running or container.status in (Status.RESTARTING, Status.REMOVING) or young:
                continue
            if not pruning.fits_labels(container.record.config.labels or {}, filters):
                continue
            size = await thread_to_the_end(self._services.snapshots.container_disk_usage, container.id)
            try:
                await self.remove(container.id, force=False, volumes=False, link=False)
            except (Conflict, NotFound):
                continue
            deleted.append(container.id)
            reclaimed += size
        self._services.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return {"ContainersDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    async def stats(self, ref: str) -> Json:
        container = self._get(ref)
        return await sample(self._services, container)
