"""Starting: network, files, OCI configuration, shim, row, event - each undone when a later one fails.

The first half of docs/flows/run.md. Runs in wherryd, under the container's lock.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wherry.core.tasks import CopyUp, ExternalRuntime, JsonFileLogConfig, TaskSpec, UserWish
from wherry.engine import log_options, oci_config, security
from wherry.engine.mounts import check_propagation
from wherry.engine.records import Container, Record, Status
from wherry.engine.seccomp import SeccompFilters
from wherry.engine.services import Services
from wherry.engine.store import describe
from wherry.errors import Conflict, InvalidArgument, StartError, WherryError
from wherry.network import EndpointRequest, hosts_file, resolv_conf
from wherry.network.ports import port_requests

if TYPE_CHECKING:
    from wherry.spec import oci

_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: "
)
_SAID_BY_RUNTIME = re.compile(r"^([\w-]+ create failed: |exec failed: )?(unable to start container process: )?")
"""What `_PREFIX` says as well: runc and wherry-runc with --runtime."""

_NETWORK_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}


class Starter:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._seccomp = SeccompFilters()

    async def start(self, container: Container) -> None:
        """Raises StartError, or what the network or a joined container refuses. Afterwards the container runs and its row says so."""
        services, record = self._services, container.record
        await services.tasks.forget(container.id)  # what an earlier run has left
        netns_fd: int | None = None
        connected = False
        try:
            await services.admission.at_run(record.image_ref, services.images.by_id(record.image))
            netns_fd = await self._connect(container)
            connected = True
            self.tell_network(container, "connect")
            for point in record.mounts:
                check_propagation(point)
            around = self._surroundings(container)
            await self._write_files(container)
            config = oci_config.build(record, around)
            note = {"started_at_ns": time.time_ns(), "network": record.network}
            spec = self._task_spec(record, config, note)
            attach = list(container.pending_attach)
            task = await services.tasks.start(container.id, spec, netns_fd=netns_fd, attach=attach)
            for request in container.pending_attach[len(attach) :]:  # came while it started
                await task.attach(request)
        except BaseException as error:
            if netns_fd is not None and container.endpoint is None:
                os.close(netns_fd)
            await self.disconnect(container)
            if connected:
                self.tell_network(container, "disconnect")
            if isinstance(error, StartError):
                error = worded(error, _PREFIX)
            if isinstance(error, WherryError):
                await self._record_failure(container, error)
            raise error
        finally:
            container.drop_pending_attach()  # the shim has its own, or nobody will ever hear anything
        if netns_fd is not None and container.endpoint is None:
            os.close(netns_fd)  # an isolated namespace is the container's alone; an endpoint's belongs to Networks
        container.task = task
        container.exited.clear()
        self.note_start(container, task.pid, note)
        await services.containers.save(container)
        for point in record.mounts:
            if point.type == "volume":
                access = "false" if point.read_only else "true"
                where = {
                    "container": container.id,
                    "destination": point.destination,
                    "driver": "local",
                    "propagation": "",
                    "read/write": access,
                }
                services.events.publish("volume", "mount", point.name, where)
        services.events.publish("container", "start", container.id, describe(record))

    def tell_network(self, container: Container, action: str) -> None:
        """The event of a container that comes to a network, or leaves it. Who shares another's does neither."""
        mode = container.record.host_config.network_mode
        if driver := _NETWORK_DRIVERS.get(mode):
            attributes = {"container": container.id, "name": mode, "type": driver}
            self._services.events.publish("network", action, self._services.networks.network_id(mode), attributes)

    @staticmethod
    def note_start(container: Container, pid: int, note: Mapping[str, Any]) -> None:
        """The record of a container that runs from now on. `note`: what its task was given, so that a successor of an engine that died
        before the row was written can do the same.
        """
        state = container.record.state
        state.status, state.pid, state.started_at_ns = Status.RUNNING, pid, note.get("started_at_ns") or time.time_ns()
        state.exit_code, state.error, state.oom_killed, state.manually_stopped = 0, "", False, False
        container.record.network = note.get("network")

    async def _record_failure(self, container: Container, error: WherryError) -> None:
        state = container.record.state
        state.status = Status.CREATED if not state.started_at_ns else Status.EXITED
        state.exit_code = _exit_code(error)
        state.error = str(error)
        state.pid = 0
        await self._services.containers.save(container)

    async def _connect(self, container: Container) -> int | None:
        """→ the network namespace to hand over; None for one that is joined by path or shared with the host."""
        record, networks = container.record, self._services.networks
        host = record.host_config
        if host.network_mode == "none":
            return await networks.isolated()
        if host.network_mode != "bridge":
            return None
        exposed = record.config.exposed_ports or {}
        requests = port_requests(host.port_bindings, exposed, publish_all=host.publish_all_ports)
        endpoint = await networks.connect(container.id, EndpointRequest(container.name, requests, record.mac_address))
        container.endpoint = endpoint
        record.network = endpoint.saved()
        return endpoint.netns_fd

    async def disconnect(self, container: Container) -> None:
        if container.endpoint is not None or container.record.network is not None:
            container.endpoint = None
            container.record.network = None
            await self._services.networks.disconnect(container.id)

    def _surroundings(self, container: Container) -> oci_config.Surroundings:
        services, record = self._services, container.record
        host, folder = record.host_config, services.settings.container_dir(container.id)
        files = folder
        network_path = None
        if host.network_mode.startswith("container:"):
            other = self._running(host.network_mode, "network")
            network_path = f"/proc/{other.record.state.pid}/ns/net"
            files = services.settings.container_dir(other.id)
        pid_path = ipc_path = shm_source = None
        if host.pid_mode.startswith("container:"):
            pid_path = f"/proc/{self._running(host.pid_mode, 'PID').record.state.pid}/ns/pid"
        if host.ipc_mode.startswith("container:"):
            other = self._running(host.ipc_mode, "IPC")
            if other.record.host_config.ipc_mode not in ("shareable", "host"):
                raise InvalidArgument(
                    f"cannot join IPC of a container {other.name}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                )
            ipc_path = f"/proc/{other.record.state.pid}/ns/ipc"
            shm_source = f"/proc/{other.record.state.pid}/root/dev/shm"
        return oci_config.Surroundings(
            hostname_file=os.path.join(files, "hostname"),
            hosts_file=os.path.join(files, "hosts"),
            resolv_conf_file=os.path.join(files, "resolv.conf"),
            cgroups_path=f"{services.settings.cgroup_parent}/{container.id}",
            network_path=network_path,
            host_network=host.network_mode == "host",
            pid_path=pid_path,
            ipc_path=ipc_path,
            shm_source=shm_source,
            init_binary=services.settings.init_path if host.init else None,
            volume_paths={
                point.name: services.volumes.path(point.name) for point in record.mounts if point.type == "volume"
            },
            default_ulimits=services.settings.default_ulimits,
        )

    def _running(self, mode: str, what: str) -> Container:
        other = self._services.containers.get(mode.removeprefix("container:"))
        if not other.is_running:
            raise Conflict(
                f"cannot join {what} namespace of a non running container: {other.id}"
                if what != "network"
                else f"cannot join network of a non running container: {other.id}"
            )
        return other

    async def _write_files(self, container: Container) -> None:
        """/etc/hostname and its kin: made anew at each start, as Docker does; not fsynced, since the next start rewrites them."""
        record = container.record
        host, folder = record.host_config, self._services.settings.container_dir(container.id)
        if host.network_mode.startswith("container:"):
            return
        endpoint = container.endpoint
        networks = self._services.networks
        contents = {
            "hostname": f"{record.config.hostname}\n",
            "hosts": hosts_file(
                record.config.hostname,
                record.config.domainname,
                address=endpoint.address if endpoint else None,
                extra=host.extra_hosts or [],
                host_gateway=networks.gateway,
                from_host=host.network_mode == "host",
            ),
            "resolv.conf": resolv_conf(
                host.dns or [], host.dns_search or [], host.dns_options or [], keep_loopback=host.network_mode == "host"
            ),
        }
        os.makedirs(folder, 0o710, exist_ok=True)
        for name, text in contents.items():
            path = os.path.join(folder, name)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            with os.fdopen(fd, "w") as file:
                file.write(text)

    def _task_spec(self, record: Record, config: oci.Config, note: dict[str, Any]) -> TaskSpec:
        services, host = self._services, record.host_config
        options = security.parse_options(host.security_opt)
        capabilities = tuple(security.effective_capabilities(host))
        runtime_name = host.runtime or services.settings.default_runtime
        runtime = services.settings.runtimes.get(runtime_name)
        seccomp = None
        if not host.privileged and options.seccomp != "unconfined":
            if runtime is None:
                seccomp = self._seccomp.compiled(options.seccomp, capabilities)
                # the runtime has to know who is to be asked, and how the filter is to be loaded
                if "SCMP_ACT_NOTIFY" in options.seccomp or '"flags"' in options.seccomp:
                    config["linux"]["seccomp"] = self._seccomp.section(options.seccomp, capabilities)
            else:
                config["linux"]["seccomp"] = self._seccomp.section(options.seccomp, capabilities)
        log = None
        if (host.log_config.type if host.log_config else "") != "none":
            max_size, max_file = log_options.limits(host)
            log = JsonFileLogConfig(log_path(services, record.id), max_size, max_file, log_options.attributes(record))
        return TaskSpec(
            config=config,
            rootfs=services.snapshots.mounts(record.id),
            user=UserWish(record.config.user, host.group_add or ()),
            stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=log,
            seccomp=seccomp,
            copy_up=[
                CopyUp(services.volumes.path(point.name), point.destination) for point in record.mounts if point.copy_up
            ],
            subpaths={point.destination: point.subpath for point in record.mounts if point.subpath},
            runtime=ExternalRuntime(runtime) if runtime is not None else None,
            note=note,
        )

    def seccomp_for(self, record: Record, *, privileged: bool) -> bytes | None:
        """The filter of an exec in the container."""
        options = security.parse_options(record.host_config.security_opt)
        if privileged or record.host_config.privileged or options.seccomp == "unconfined":
            return None
        return self._seccomp.compiled(options.seccomp, tuple(security.effective_capabilities(record.host_config)))


def worded(error: StartError, prefix: str) -> StartError:
    """As Docker says it: the runtime's failures behind `prefix`; that there is no such user the engine finds out itself."""
    if error.step == "user":
        return error
    return StartError(error.step, prefix + _SAID_BY_RUNTIME.sub("", error.message), error.errno)


def is_missing_program(error: StartError) -> bool:
    """Whether there was no such program, as far as the words say it: runc's, crun's and the kernel's."""
    message = error.message.lower()
    return ("executable file" in message and "not found" in message) or "no such file or directory" in message


def log_path(services: Services, id: str) -> str:
    return os.path.join(services.settings.container_dir(id), f"{id}-json.log")


def _exit_code(error: WherryError) -> int:
    """What inspect shows after a failed start: as Docker's, which its clients read out of the words."""
    if isinstance(error, StartError):
        if is_missing_program(error):
            return 127
        if "permission denied" in error.message or "is a directory" in error.message:
            return 126
    return 128
