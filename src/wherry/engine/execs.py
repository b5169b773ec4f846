"""`docker exec`: more processes in a running container. Runs in wherryd; execs are remembered until their container is removed, not longer
than the engine lives (dockerd forgets them at a restart as well). Implements `api.backend.ExecBackend`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wherry.core.tasks import AttachRequest, ExitEvent, UserWish
from wherry.engine import oci_config, security
from wherry.engine.records import Container, Status
from wherry.engine.services import Services
from wherry.engine.start import Starter, is_missing_program, worded
from wherry.engine.store import describe
from wherry.errors import Conflict, InvalidArgument, NotFound, StartError
from wherry.spec.calls import AttachedStream, Json
from wherry.spec.ids import ExecId
from wherry.wire.engine import ExecCreate, ExecStart

if TYPE_CHECKING:
    from wherry.spec import oci

_KEPT_PER_CONTAINER = 200
_PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "


def _told(command: list[str]) -> str:
    """As dockerd words it, with the space that it puts behind a program without arguments."""
    return f"{command[0]} {' '.join(command[1:])}"


@dataclass(eq=False, slots=True)
class Exec:
    id: ExecId
    container: Container
    request: ExecCreate
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the program runs, or has failed to: a client that has the head of its stream may be quicker."""


class Execs:
    def __init__(self, services: Services, starter: Starter) -> None:
        self._services = services
        self._starter = starter
        self._execs: dict[ExecId, Exec] = {}

    async def create(self, ref: str, request: ExecCreate) -> ExecId:
        container = self._services.containers.get(ref)
        await container.start_under_way()
        self._check_running(container)
        if not request.cmd:
            raise InvalidArgument("No exec command specified")
        for text in [*request.cmd, *(request.env or []), request.working_dir, request.user]:
            if "\0" in text:
                raise InvalidArgument("invalid exec configuration: a string has a NUL byte")
        exec = Exec(ExecId(secrets.token_hex(32)), container, request)
        self._execs[exec.id] = exec
        container.exec_ids.append(exec.id)
        container.open_exec_ids.append(exec.id)
        self._forget_old(container)
        self._publish(exec, f"exec_create: {_told(request.cmd)}")
        return exec.id

    def _forget_old(self, container: Container) -> None:
        while len(container.exec_ids) > _KEPT_PER_CONTAINER:
            oldest = next((id for id in container.exec_ids if not self._execs[ExecId(id)].running), None)
            if oldest is None:
                return
            container.exec_ids.remove(oldest)
            self._close(self._execs[ExecId(oldest)])
            self._execs.pop(ExecId(oldest), None)

    def forget_container(self, container: Container) -> None:
        for id in container.exec_ids:
            self._execs.pop(ExecId(id), None)
        container.exec_ids.clear()
        container.open_exec_ids.clear()

    @staticmethod
    def _close(exec: Exec) -> None:
        if exec.id in exec.container.open_exec_ids:
            exec.container.open_exec_ids.remove(exec.id)

    @staticmethod
    def _check_running(container: Container) -> None:
        if container.status is Status.PAUSED:
            raise Conflict(f"Container {container.name} is paused, unpause the container before exec")
        if container.status is Status.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.is_running or container.task is None:
            raise Conflict(f"container {container.id} is not running")

    def _get(self, exec_id: str) -> Exec:
        exec = self._execs.get(ExecId(exec_id))
        if exec is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return exec

    async def start(self, exec_id: str, request: ExecStart) -> AttachedStream | None:
        exec = self._get(exec_id)
        container, wanted = exec.container, exec.request
        if exec.started:
            raise Conflict(
                f"Error: Exec command {exec_id} has already run"
                if exec.exit_code is not None
                else f"Error: Exec command {exec_id} is already running"
            )
        self._check_running(container)
        task = container.task
        assert task is not None
        exec.started = exec.running = True
        attach: list[AttachRequest] = []
        ours: socket.socket | None = None
        if not request.detach:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            attach = [
                AttachRequest(
                    theirs, stdin=wanted.attach_stdin, stdout=wanted.attach_stdout, stderr=wanted.attach_stderr
                )
            ]
        self._publish(exec, f"exec_start: {_told(wanted.cmd or [])}")
        try:
            exec.pid = await task.exec(
                exec.id,
                self._process(exec, request),
                user=UserWish(
                    wanted.user or container.record.config.user, container.record.host_config.group_add or ()
                ),
                stdin=wanted.attach_stdin and not request.detach,
                seccomp=self._starter.seccomp_for(container.record, privileged=wanted.privileged),
                attach=attach,
            )
        except BaseException as error:
            exec.running, exec.exit_code = False, 126
            self._close(exec)
            if ours is not None:
                ours.close()
            if isinstance(error, StartError):
                if is_missing_program(error):
                    exec.exit_code = 127
                raise worded(error, _PREFIX) from error
            raise
        finally:
            exec.answered.set()
            for item in attach:
                item.socket.close()
        return None if ours is None else AttachedStream(ours, not wanted.tty, detach_keys=wanted.detach_keys)

    def _process(self, exec: Exec, start: ExecStart) -> oci.Process:
        record, wanted = exec.container.record, exec.request
        described = oci_config.process(record, security.parse_options(record.host_config.security_opt))
        environment = described["env"]
        if wanted.tty and not any(item.startswith("TERM=") for item in environment):
            environment = [*environment, "TERM=xterm"]
        described["env"] = oci_config.merge_environment(environment, wanted.env or [])
        described["args"] = list(wanted.cmd or [])
        described["terminal"] = wanted.tty
        described["cwd"] = wanted.working_dir or record.config.working_dir or "/"
        size = start.console_size or wanted.console_size
        described.pop("consoleSize", None)
        if wanted.tty and size and any(size):
            described["consoleSize"] = {"height": size[0], "width": size[1]}
        if wanted.privileged:
            names = sorted(security.available())
            described["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
        return described

    def on_exit(self, event: ExitEvent) -> None:
        """Called by Tasks when an exec'd process has ended."""
        exec = self._execs.get(ExecId(event.exec_id or ""))
        if exec is None:
            return
        exec.running, exec.exit_code, exec.pid = False, event.status, 0
        self._close(exec)
        self._publish(exec, "exec_die", exitCode=str(event.status))

    def container_exited(self, container: Container) -> None:
        """Nothing of a container outlives its first process."""
        container.open_exec_ids.clear()
        for id in container.exec_ids:
            exec = self._execs.get(ExecId(id))
            if exec is not None and exec.running:
                exec.running, exec.pid = False, 0
                exec.exit_code = 137 if exec.exit_code is None else exec.exit_code

    async def inspect(self, exec_id: str) -> Json:
        exec = self._get(exec_id)
        wanted, record = exec.request, exec.container.record
        command = list(wanted.cmd or [])
        return {
            "ID": exec.id,
            "Running": exec.running,
            "ExitCode": exec.exit_code,
            "ProcessConfig": {
                "tty": wanted.tty,
                "entrypoint": command[0],
                "arguments": command[1:],
                "privileged": wanted.privileged,
                **({"user": wanted.user} if wanted.user else {}),
            },
            "OpenStdin": wanted.attach_stdin,
            "OpenStderr": wanted.attach_stderr,
            "OpenStdout": wanted.attach_stdout,
            "CanRemove": not exec.running and exec.started,
            "ContainerID": record.id,
            "DetachKeys": "",
            "Pid": exec.pid,
        }

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        exec = self._get(exec_id)
        if exec.started:
            await exec.answered.wait()
        if not exec.running or exec.container.task is None:
            raise Conflict(f"exec {exec_id} is not running")
        await exec.container.task.resize(width, height, exec_id=exec.id)
        self._publish(exec, "exec_resize", height=str(height), width=str(width))

    def _publish(self, exec: Exec, action: str, **more: str) -> None:
        attributes: dict[str, Any] = {**describe(exec.container.record), "execID": exec.id, **more}
        self._services.events.publish("container", action, exec.container.id, attributes)
