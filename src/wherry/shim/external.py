"""Containers by another OCI runtime (`--runtime runc|crun|…`), driven through the OCI command line.

Runs in a shim's workers, `delete` in the shim itself, with the same methods as `builtin.BuiltinRuntime`. The runtime gets a bundle in the state
directory; its root file system is mounted in a mount namespace of the worker's own, so the host's mount table never sees it. Init and execs
become the shim's children because it is a subreaper and the runtime's own processes end. Commands and options are those that runc and crun share.

**Invariants**: the runtime keeps its state below the container's state directory, so two engines never meet; its words about a failure (its
log, in JSON) become the StartError. The end of the shim does not end these containers by itself, as no parent-death signal can be asked for:
`core.tasks` kills their cgroup. Seccomp is taken from the configuration's own section: a runtime cannot be handed a compiled filter.
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket
from _struct import unpack_from

from wherry.errors import Internal, StartError, SyscallError, WherryError
from wherry.linux import cgroups, mounts, syscalls
from wherry.linux.namespaces import NEWNS
from wherry.shim import copyup
from wherry.shim.builtin import Started, clone_foreign_mounts, clone_subpaths, open_rootfs, set_user
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.standby import Standby
    from wherry.spec import oci
    from wherry.wire.shim import RuntimeConfig, StartRequest

_MAX_LOG = 64 * 1024


class ExternalRuntime:
    def __init__(self, config: oci.Config, container_id: str, state_dir: str, runtime: RuntimeConfig) -> None:
        self._config = config
        self._id = container_id
        self._directory = f"{state_dir}/bundle"
        self._log = f"{state_dir}/runtime.log"
        self._command = [
            runtime["path"], *runtime.get("args", []), "--root", f"{state_dir}/runtime", "--log", self._log, "--log-format", "json",
        ]  # fmt: skip
        self.cgroup: Cgroup = cgroups.open_group((config.get("linux") or {}).get("cgroupsPath", ""))

    def start(
        self,
        request: StartRequest,
        stdio: tuple[int, int, int] | None,
        standby: Standby | None,
        meanwhile: Callable[[int], None],
    ) -> Started:
        """`create`, then `start`. StartError, with everything undone."""
        if standby is not None:
            standby.close()
        meanwhile(0)
        os.mkdir(self._directory, 0o700)
        self._mount_rootfs(request)
        self._write("config.json", self._config)
        try:
            started = self._launch(["create", "--bundle", self._directory], stdio)
            self._run(["start", self._id])
        except BaseException:
            self._delete_quietly()
            raise
        return started

    def adopt(self, pid: int, pidfd: int) -> None:
        """Nothing to know: the runtime has the container by its id."""

    def exec(self, process: oci.Process, stdio: tuple[int, int, int] | None) -> Started:
        """Runs one more program in the container. StartError."""
        self._write("process.json", process)
        return self._launch(["exec", "--detach", "--process", f"{self._directory}/process.json"], stdio)

    def pause(self) -> None:
        self._run(["pause", self._id])

    def resume(self) -> None:
        self._run(["resume", self._id])

    def update(self, resources: oci.Resources) -> None:
        self._write("resources.json", resources)
        self._run(["update", "--resources", f"{self._directory}/resources.json", self._id])

    def delete(self) -> None:
        """After init's end: the runtime's state, and whatever is left of the container."""
        self.cgroup.kill()
        self._delete_quietly()
        self.cgroup.delete()

    def _delete_quietly(self) -> None:
        try:
            self._run(["delete", "--force", self._id])
        except WherryError:
            pass  # it knows no such container (any more)

    def _mount_rootfs(self, request: StartRequest) -> None:
        """Mounts in a namespace of our own, which receives what is mounted on the host and gives nothing back.

        A volume that is to be shared with the host is cloned before, while it still is the host's peer; so is what lies in a volume or in
        another container: by a path the runtime would be led wherever a link in there points.
        """
        rootfs = open_rootfs(request["rootfs"])
        shared: list[tuple[oci.Mount, int]] = []
        try:
            inside = clone_subpaths(self._config, request.get("subpaths") or {})
            inside.update(clone_foreign_mounts(self._config))
            for mount in self._config.get("mounts") or []:
                if mount["destination"] in inside:
                    shared.append((mount, inside[mount["destination"]]))
                elif not {"shared", "rshared"}.isdisjoint(mount.get("options") or []):
                    shared.append((mount, mounts.clone_tree(mount["source"], recursive=True)))
            set_user(rootfs, self._config["process"], request.get("user"))
            if copy_up := request.get("copy_up"):
                copyup.fill_volumes(rootfs, copy_up, self._config.get("mounts") or [])
            syscalls.unshare(NEWNS, "mount namespace")
            mounts.set_propagation("/", mounts.SLAVE)
            os.mkdir(f"{self._directory}/rootfs", 0o755)
            mounts.attach_at(rootfs, f"{self._directory}/rootfs")
            for number, (mount, fd) in enumerate(shared):
                mount["source"] = f"{self._directory}/shared-{number}"
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    os.mkdir(mount["source"], 0o700)
                else:
                    os.close(os.open(mount["source"], os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                mounts.attach_at(fd, mount["source"])
        except SyscallError as error:
            raise StartError("rootfs", str(error), error.errno) from None
        finally:
            for fd in (rootfs, *(fd for _, fd in shared)):
                os.close(fd)
        self._config["root"] = {**(self._config.get("root") or {}), "path": "rootfs"}

    def _launch(self, arguments: list[str], stdio: tuple[int, int, int] | None) -> Started:
        """A command that leaves a process behind: its pid from the pid file, its terminal from the console socket."""
        pid_file = f"{self._directory}/pid"
        command = [*arguments, "--pid-file", pid_file]
        if stdio is not None:
            self._run([*command, self._id], stdio)
            return self._found(pid_file, None)
        directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            # The descriptor keeps the address short enough, however long the directory's path is.
            listener.bind(f"/proc/{os.getpid()}/fd/{directory}/console")
            listener.listen(1)
            self._run([*command, "--console-socket", f"/proc/{os.getpid()}/fd/{directory}/console", self._id])
            listener.setblocking(False)
            console = _receive_console(listener)
        finally:
            listener.close()
            os.close(directory)
            try:
                os.unlink(f"{self._directory}/console")
            except FileNotFoundError:
                pass
        return self._found(pid_file, console)

    def _found(self, pid_file: str, console: int | None) -> Started:
        with open(pid_file, "rb") as file:
            pid = int(file.read())
        os.unlink(pid_file)
        return Started(pid, os.pidfd_open(pid), console)

    def _write(self, name: str, value: object) -> None:
        with open(f"{self._directory}/{name}", "wb") as file:
            file.write(fastjson.dumps(value))

    def _run(self, arguments: list[str], stdio: tuple[int, int, int] | None = None) -> None:
        """Runs the runtime and waits for it. StartError with what it has logged when it fails."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        command = [*self._command, *arguments]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio or (null, null, null))]
        try:
            pid = os.posix_spawnp(
                command[0], command, os.environ, file_actions=actions, setsigmask=(), setsigdef=(13, 17, 25)
            )
        except OSError as error:
            raise StartError("runtime", f"{command[0]}: {(error.strerror or '').lower()}", error.errno or 0) from None
        finally:
            os.close(null)
        _, status = os.waitpid(pid, 0)
        words = self._take_log()
        if status:
            raise StartError(
                "runtime",
                words or f"{command[0]} {arguments[0]} failed with status {os.waitstatus_to_exitcode(status)}",
            )

    def _take_log(self) -> str:
        """The last error in the runtime's log, which is emptied."""
        try:
            with open(self._log, "rb") as file:
                lines = file.read(_MAX_LOG).splitlines()
            os.unlink(self._log)
        except FileNotFoundError:
            return ""
        for line in reversed(lines):
            try:
                entry = fastjson.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") == "error":
                return str(entry.get("msg"))
        return ""


def _receive_console(listener: Socket) -> int:
    """The terminal's master, from the connection that the runtime has made before it ended."""
    try:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        connection = Socket(fileno=fd)
        try:
            _, ancillary, _, _ = connection.recvmsg(4096, CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
        finally:
            connection.close()
        for level, kind, payload in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                return int(unpack_from("i", payload)[0])
    except BlockingIOError:
        pass
    raise Internal("the runtime has sent no terminal")
