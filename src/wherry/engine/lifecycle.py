"""What happens to a container after its start: exit, stop, kill, pause, restart policy, removal. Runs in wherryd.

    created ──start──► running ◄──pause/unpause──► paused
                         │ exit (the shim tells)
                         ▼
                       exited ──restart policy──► restarting ──► running
                         │ remove
                         ▼
                       removing ──► gone

**Invariants**: a change happens under the container's lock; its row is written before anybody is told; an exit is recorded once,
whether it was seen live, found after a restart of the engine, or inferred from a dead shim.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time

from wherry.core.tasks import ExitEvent, Task
from wherry.engine import signals
from wherry.engine.records import Container, Status
from wherry.engine.room import CLEARING
from wherry.engine.services import Services
from wherry.engine.start import Starter
from wherry.engine.store import describe
from wherry.errors import Conflict, NotFound, NotModified, Unavailable, WherryError

log = logging.getLogger("wherry.engine")

DEFAULT_STOP_TIMEOUT = 10
_KILL_SECONDS = 10
_RESTART_DELAY, _RESTART_DELAY_MAX = 0.1, 60.0
_STEADY_SECONDS = 10  # a run of this length resets the delay


class Lifecycle:
    def __init__(self, services: Services, starter: Starter) -> None:
        self._services = services
        self._starter = starter
        self._is_closing = False

    def close(self) -> None:
        """No restart policy acts from now on."""
        self._is_closing = True
        for container in self._services.containers.all():
            self._cancel_restart(container)

    async def stop_all(self) -> None:
        """The engine's own end without live-restore: every container is stopped in its way, all at once; restart policies apply at the next start."""
        self.close()
        running = [container for container in self._services.containers.all() if container.is_running]
        async with asyncio.TaskGroup() as group:
            for container in running:
                number = signals.stop_signal(container.record)
                group.create_task(self._stop(container, number, None, manually=False))

    # start, and what follows from an exit

    async def start(self, container: Container) -> None:
        async with container.lock:
            if container.status is Status.PAUSED:
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.is_running:
                raise NotModified(f"container {container.id} is already running")
            if container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            container.restart_delay = 0.0
            container.record.state.restart_count = 0
            await self._start_or_remove(container)

    async def _start_or_remove(self, container: Container) -> None:
        try:
            await self._starter.start(container)
        except BaseException:
            if container.record.host_config.auto_remove:
                await self._remove(container, volumes=True)
            raise

    def on_exit(self, event: ExitEvent) -> None:
        """Called by Tasks on the event loop, for a container's first process."""
        container = self._services.containers.find(event.container_id)
        if container is not None:
            self._services.background.start(self.exited(container, event), name=f"exit of {event.container_id[:12]}")

    async def exited(self, container: Container, event: ExitEvent) -> None:
        """Record the end of a container's process, and do what its configuration says comes next."""
        services, record = self._services, container.record
        async with container.lock:
            if not container.is_running or (record.state.pid and event.pid and record.state.pid != event.pid):
                return  # of an earlier run, recorded already
            state = record.state
            state.status, state.pid = Status.EXITED, 0
            state.exit_code, state.finished_at_ns, state.oom_killed = event.status, event.at_ns, event.oom_killed
            container.task = None
            will_restart = self._should_restart(container)
            if will_restart:
                state.status = Status.RESTARTING
                state.restart_count += 1
            remove = record.host_config.auto_remove and not will_restart and not container.is_restarting_by_hand
            is_recorded = False
            if not remove:  # an auto-removed container's row goes in the next step; its exit file stays until then
                record.network = None
                is_recorded = await self._save_end(container)
            attributes = describe(record)
            if event.oom_killed:
                services.events.publish("container", "oom", container.id, attributes)
            attributes["exitCode"] = str(event.status)
            if state.started_at_ns:
                attributes["execDuration"] = str(max(0, (event.at_ns - state.started_at_ns) // 1_000_000_000))
            services.events.publish("container", "die", container.id, attributes)
            await self._starter.disconnect(container)
            self._starter.tell_network(container, "disconnect")
            for point in record.mounts:
                if point.type == "volume":
                    services.events.publish(
                        "volume", "unmount", point.name, {"container": container.id, "driver": "local"}
                    )
            container.exited.set()
            container.wake(("not-running", "next-exit", ""), event.status)
            if remove:
                await self._auto_remove(container)
                return
            if is_recorded:
                services.background.start(
                    services.tasks.forget(container.id), name=f"{CLEARING} of {container.id[:12]}"
                )
            if will_restart:
                self._schedule_restart(container)

    async def _save_end(self, container: Container) -> bool:
        """Nobody is to wait for ever because the disk has failed: then the exit file tells a successor of the end, and the log why."""
        try:
            await self._services.containers.save(container)
            return True
        except WherryError as error:
            log.error("container %s: its end cannot be recorded: %s", container.id[:12], error)
            return False

    async def _auto_remove(self, container: Container) -> None:
        try:
            await self._remove(container, volumes=True)
        except WherryError as error:
            log.error("container %s cannot be removed: %s", container.id[:12], error)
            container.wake(("removed",), container.record.state.exit_code)

    def _should_restart(self, container: Container) -> bool:
        policy, state = container.record.host_config.restart_policy, container.record.state
        if policy is None or self._is_closing or state.manually_stopped:
            return False
        match policy.name:
            case "always" | "unless-stopped":
                return True
            case "on-failure":
                return state.exit_code != 0 and (
                    not policy.maximum_retry_count or state.restart_count < policy.maximum_retry_count
                )
            case _:
                return False

    def _schedule_restart(self, container: Container) -> None:
        state = container.record.state
        steady = state.finished_at_ns - state.started_at_ns >= _STEADY_SECONDS * 1_000_000_000
        delay = (
            _RESTART_DELAY
            if steady or not container.restart_delay
            else min(container.restart_delay * 2, _RESTART_DELAY_MAX)
        )
        container.restart_delay = delay
        loop = asyncio.get_running_loop()
        container.restart_timer = loop.call_later(
            delay,
            lambda: self._services.background.start(
                self._restart_by_policy(container), name=f"restart of {container.id[:12]}"
            ),
        )

    async def _restart_by_policy(self, container: Container) -> None:
        async with container.lock:
            if container.status is not Status.RESTARTING or self._is_closing:
                return
            try:
                await self._starter.start(container)
            except WherryError as error:
                log.error("container %s: restart failed: %s", container.id[:12], error)
                container.record.state.status = Status.EXITED
                await self._services.containers.save(container)
                container.wake(("not-running", "next-exit", ""), container.record.state.exit_code)

    def _cancel_restart(self, container: Container) -> None:
        if container.restart_timer is not None:
            container.restart_timer.cancel()
            container.restart_timer = None

    # stop, kill, pause

    def task(self, container: Container, verb: str) -> Task:
        """The running task. Conflict in Docker's words otherwise."""
        if container.task is None or not container.is_running:
            text = f"container {container.id} is not running"
            raise Conflict(f"cannot kill container: {container.name}: {text}" if verb == "kill" else text)
        return container.task

    async def kill(self, container: Container, signal: str | None) -> None:
        number = signals.parse(signal or "SIGKILL")
        await container.start_under_way()
        if await self._end_restarting(container):
            self._publish(container, "kill", signal=str(number))
            return
        task = self.task(container, "kill")
        if number in (signals.KILL, signals.stop_signal(container.record)):
            await self._note_manual_stop(container)
        if container.status is Status.PAUSED and number == signals.KILL:
            await self._thaw(container, task)
        await self._signal(task, number)
        self._publish(container, "kill", signal=str(number))
        if number == signals.KILL:  # as with dockerd it has ended when this returns: `docker kill x && docker rm x`
            try:
                async with asyncio.timeout(_KILL_SECONDS):
                    await container.exited.wait()
            except TimeoutError:
                raise Unavailable(
                    f"tried to kill container {container.id}, but it has not ended within {_KILL_SECONDS} seconds"
                ) from None

    async def stop(self, container: Container, *, timeout: int | None, signal: str | None) -> None:
        number = signals.parse(signal) if signal else signals.stop_signal(container.record)
        await container.start_under_way()
        if await self._end_restarting(container):
            self._publish(container, "stop")
            return
        if not container.is_running:
            raise NotModified(f"container {container.id} is already stopped")
        await self._stop(container, number, timeout)
        self._publish(container, "stop")

    async def _end_restarting(self, container: Container) -> bool:
        """Whether it waited for its restart policy's next start, which does not come any more: a user's stop or kill."""
        if container.status is not Status.RESTARTING:
            return False
        async with container.lock:
            if container.status is not Status.RESTARTING:
                return False  # the restart was quicker
            self._cancel_restart(container)
            container.record.state.status = Status.EXITED
            container.record.state.manually_stopped = True
            await self._services.containers.save(container)
            container.wake(("not-running", "next-exit", ""), container.record.state.exit_code)
            return True

    async def _stop(self, container: Container, number: int, timeout: int | None, *, manually: bool = True) -> None:
        """Signal, wait, SIGKILL, wait. `timeout` seconds; -1: for ever. `manually`: a user's wish, which restart policies respect."""
        if timeout is None:
            timeout = container.record.config.stop_timeout
        seconds: float | None = DEFAULT_STOP_TIMEOUT if timeout is None else timeout
        if seconds is not None and seconds < 0:
            seconds = None
        if manually:
            await self._note_manual_stop(container)
        else:
            container.record.state.manually_stopped = False
        task = container.task
        if task is None:
            return
        if container.status is Status.PAUSED:
            await self._thaw(container, task)
        if seconds != 0 or number == signals.KILL:
            await self._signal(task, number)
            self._publish(container, "kill", signal=str(number))
        try:
            async with asyncio.timeout(seconds):
                await container.exited.wait()
            return
        except TimeoutError:
            pass
        await self._signal(task, signals.KILL)
        self._publish(container, "kill", signal=str(signals.KILL))
        await container.exited.wait()

    async def _note_manual_stop(self, container: Container) -> None:
        """Restart policies respect a user's wish, also those of a successor that finds the container ended."""
        container.record.state.manually_stopped = True
        if container.record.host_config.restart_policy and container.is_running:
            await self._services.containers.save(container)

    @staticmethod
    async def _signal(task: Task, number: int) -> None:
        with contextlib.suppress(NotFound, Conflict):  # it ended meanwhile: the exit is on its way
            await task.signal(number)

    async def restart(self, container: Container, *, timeout: int | None, signal: str | None) -> None:
        number = signals.parse(signal) if signal else signals.stop_signal(container.record)
        await container.start_under_way()
        if container.is_running:
            container.is_restarting_by_hand = True
            try:
                await self._stop(container, number, timeout)
                self._publish(container, "stop")
            finally:
                container.is_restarting_by_hand = False
        async with container.lock:
            if container.status in (Status.REMOVING, Status.DEAD):
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            if not container.is_running:
                await self._start_or_remove(container)
        self._publish(container, "restart")

    async def pause(self, container: Container) -> None:
        async with container.lock:
            if container.status is Status.PAUSED:
                raise Conflict(f"container {container.id} is already paused")
            if container.status is Status.RESTARTING:
                raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
            task = self.task(container, "pause")
            await task.pause()
            container.record.state.status = Status.PAUSED
            await self._services.containers.save(container)
        self._publish(container, "pause")

    async def unpause(self, container: Container) -> None:
        async with container.lock:
            if container.status is not Status.PAUSED or container.task is None:
                raise Conflict(f"container {container.id} is not paused")
            await self._thaw(container, container.task)
            await self._services.containers.save(container)
        self._publish(container, "unpause")

    @staticmethod
    async def _thaw(container: Container, task: Task) -> None:
        await task.resume()
        container.record.state.status = Status.RUNNING

    # removal

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        if container.status is Status.REMOVING:
            raise Conflict(f"removal of container {container.id} is already in progress")
        while True:
            if container.is_running or container.status is Status.RESTARTING:
                if not force:
                    state = "paused" if container.status is Status.PAUSED else container.status.value
                    hint = (
                        "unpause and stop the container before attempting removal or force remove"
                        if state == "paused"
                        else "stop the container before removing or force remove"
                    )
                    raise Conflict(f'cannot remove container "/{container.name}": container is {state}: {hint}')
                await self._kill_for_removal(container)
            async with container.lock:
                if self._services.containers.find(container.id) is None:
                    return  # --rm was quicker
                if container.is_running:
                    continue  # a start held the lock
                await self._remove(container, volumes=volumes or container.record.host_config.auto_remove)
                return

    async def _kill_for_removal(self, container: Container) -> None:
        self._cancel_restart(container)
        await self._note_manual_stop(container)
        task = container.task
        if task is None or not container.is_running:
            return
        if container.status is Status.PAUSED:
            await self._thaw(container, task)
        await self._signal(task, signals.KILL)
        self._publish(container, "kill", signal=str(signals.KILL))
        await container.exited.wait()

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        """Take away everything that the container has. The lock is held, no process runs.

        The row goes first: if the engine dies then, start-up removes what no row refers to. (Volumes go before it, since nothing but the row
        says that they are to go; a row that says "removing" has its removal ended at start-up.) Files go into the trash, and the trash and
        the kernel's remains when nobody waits any more.
        """
        services, record = self._services, container.record
        before, record.state.status = record.state.status, Status.REMOVING
        try:
            await self._remove_rows(container, volumes=volumes)
        except BaseException:
            record.state.status = before
            raise
        try:
            await services.snapshots.remove(container.id)
            services.snapshots.trash.put(services.settings.container_dir(container.id))
        except (WherryError, OSError) as error:  # it is gone all the same: nobody is to wait for ever
            log.warning("container %s: its files cannot be removed before the next start: %s", container.id[:12], error)
        container.drop_pending_attach()
        self._publish(container, "destroy")
        container.exited.set()
        container.wake(("removed", "not-running", "next-exit", ""), record.state.exit_code)
        services.background.start(self._clear(container), name=f"{CLEARING} of {container.id[:12]}")

    async def _remove_rows(self, container: Container, *, volumes: bool) -> None:
        services = self._services
        if volumes and (doomed := self._own_volumes(container)):
            await services.containers.save(container)
            for name in doomed:
                try:
                    await services.volumes.remove(name, force=True)
                    services.events.publish("volume", "destroy", name, {"driver": "local"})
                except (WherryError, OSError) as error:
                    log.warning("container %s: its volume %s cannot be removed: %s", container.id[:12], name, error)
        await services.containers.delete(container)

    def _own_volumes(self, container: Container) -> list[str]:
        """The anonymous volumes that no other container uses."""
        others = {
            point.name
            for other in self._services.containers.all()
            if other is not container
            for point in other.record.mounts
        }
        return [
            point.name
            for point in container.record.mounts
            if point.type == "volume" and point.anonymous and point.name not in others
        ]

    async def _clear(self, container: Container) -> None:
        await self._services.tasks.forget(container.id)
        await self._services.snapshots.trash.empty()

    # after a restart of the engine

    async def restore(self) -> None:
        """Bring records and reality together: adopt what runs, record what ended meanwhile, finish removals, obey restart policies.

        What cannot be restored of one container is logged, and costs that one only.
        """
        services = self._services
        known = {container.id for container in services.containers.all() if container.is_running}
        tasks, exits = await services.tasks.reconnect(known)
        found = {task.container_id for task in tasks} | {event.container_id for event in exits}
        for container in services.containers.all():
            found.discard(container.id)
            container.exited.set()
            try:
                await self._restore(container)
            except (WherryError, OSError) as error:
                log.error("container %s cannot be restored: %s", container.id[:12], error)
        for container_id in found:
            services.background.start(self._remove_unknown(container_id), name=f"removal of {container_id[:12]}")
        self._remove_orphaned_files()
        await services.snapshots.trash.empty()

    async def _restore(self, container: Container) -> None:
        services, record, state = self._services, container.record, container.record.state
        task = services.tasks.get(container.id)
        if task is not None and task.exit is None:
            await self._adopt(container, task)
            return
        if task is not None and task.exit is not None:
            is_unrecorded = task.note.get("started_at_ns", state.started_at_ns) != state.started_at_ns
            if is_unrecorded and not container.is_running:
                self._starter.note_start(container, task.exit.pid, task.note)
            if container.is_running:
                await self.exited(container, task.exit)
                return
            await services.tasks.forget(container.id)
        if container.is_running:  # nothing is left of it: the machine was restarted
            await self.exited(container, ExitEvent(container.id, None, 255, False, time.time_ns(), state.pid))
        elif state.status is Status.REMOVING or (
            record.host_config.auto_remove and state.status is not Status.RESTARTING
        ):
            async with container.lock:
                await self._remove(container, volumes=True)
        elif state.status is Status.RESTARTING:
            self._schedule_restart(container)
        elif self._starts_with_engine(container):
            services.background.start(self._start_quietly(container), name=f"start of {record.id[:12]}")

    async def _remove_unknown(self, container_id: str) -> None:
        """A container that the database does not know."""
        tasks = self._services.tasks
        task = tasks.get(container_id)
        if task is not None and task.exit is None:
            log.warning("killing container %s, which has no record", container_id[:12])
            with contextlib.suppress(NotFound):
                await task.signal(signals.KILL, all=True)
            await task.wait_released()
        await tasks.forget(container_id)

    def _remove_orphaned_files(self) -> None:
        """What a removal that was cut short has left: directories of containers without a row (snapshots look after their own)."""
        folder = self._services.settings.container_dir("")
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                if self._services.containers.find(name) is None:
                    self._services.snapshots.trash.put(os.path.join(folder, name))

    async def _adopt(self, container: Container, task: Task) -> None:
        async with container.lock:  # an end that is seen meanwhile waits until this is done
            if not container.is_running:  # it was started, and the engine died before the row said so
                self._starter.note_start(container, task.pid, task.note)
            record, state = container.record, container.record.state
            container.task = task
            container.exited.clear()
            if not task.is_silent:
                state.pid = task.pid
                with contextlib.suppress(NotFound):  # it has ended just now
                    status = await task.status()
                    state.status = Status.PAUSED if status.get("state") == "paused" else Status.RUNNING
            if record.network is not None:
                try:
                    container.endpoint = await self._services.networks.restore(container.id, state.pid, record.network)
                except (WherryError, OSError) as error:
                    log.warning("container %s: its network cannot be restored: %s", container.id[:12], error)
            await self._services.containers.save(container)

    @staticmethod
    def _starts_with_engine(container: Container) -> bool:
        policy, state = container.record.host_config.restart_policy, container.record.state
        if policy is None or not state.started_at_ns:
            return False
        return policy.name == "always" or (policy.name == "unless-stopped" and not state.manually_stopped)

    async def _start_quietly(self, container: Container) -> None:
        try:
            await self.start(container)
        except WherryError as error:
            log.error("container %s: %s", container.id[:12], error)

    def _publish(self, container: Container, action: str, **more: str) -> None:
        self._services.events.publish("container", action, container.id, {**describe(container.record), **more})
