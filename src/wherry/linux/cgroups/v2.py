"""cgroup v2: one directory, controllers switched on for children along the path, processes cloned straight into the
group.

Runs in the engine, the shim, `wherry-runc`. **Invariant:** nothing is moved out of a group that wherry did not make:
where an ancestor has processes of its own, the kernel refuses to give controllers to its children, and the first
limit that needs one says so. Limits are in `v2_resources`, figures in `v2_stats`. Source: the kernel's
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import Conflict, FailedPrecondition, SyscallError
from wherry.linux import pidfds
from wherry.linux.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec.oci import Resources

_SIGKILL = 9
_ROUNDS = 64
_DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
_FREEZE_SECONDS = 10.0


class CgroupV2:
    """The interface is described at `cgroups.Cgroup`."""

    mode = "v2"
    unit = ""

    def __init__(self, directory: str, mountpoint: str) -> None:
        self.paths = {"": directory}
        self._directory = directory
        self._mountpoint = mountpoint

    def create(self, *, populated: bool = False) -> None:
        made: list[str] = []
        try:
            parents = []
            parent = os.path.dirname(self._directory)
            while parent != self._mountpoint and parent.startswith(self._mountpoint + "/"):
                parents.append(parent)
                parent = os.path.dirname(parent)
            _enable_controllers(self._mountpoint)
            for parent in reversed(parents):
                _mkdir(parent, made)
                _enable_controllers(parent)
            if not _mkdir(self._directory, made):
                if not populated and files.keyed(files.read(f"{self._directory}/cgroup.events")).get("populated"):
                    raise Conflict(f"the container's cgroup is not empty: processes run in {self._directory}")
                if self.is_frozen():
                    raise Conflict(f"container's cgroup unexpectedly frozen: {self._directory}")
        except BaseException:
            for directory in reversed(made):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass  # another container has begun to use that ancestor
            raise

    def release(self) -> None:
        pass

    def give_to(self, uid: int) -> None:
        """Lets `uid` make groups below this one and move processes between them; its limits stay ours (cgroups(7) "Delegation")."""
        listed = files.read_or_none("/sys/kernel/cgroup/delegate")
        for name in ["", *(_DELEGATED if listed is None else listed.split())]:
            try:
                os.chown(f"{self._directory}/{name}", uid, -1)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SyscallError("chown", f"{self._directory}/{name}", error.errno or 0) from None

    def exists(self) -> bool:
        return os.path.isdir(self._directory)

    def prepare_join(self, *, born: bool = False) -> list[int]:
        if born:
            return []
        path = f"{self._directory}/cgroup.procs"
        try:
            return [os.open(path, os.O_WRONLY | os.O_CLOEXEC)]
        except OSError as error:
            raise SyscallError("open", path, error.errno or 0) from None

    def clone_fd(self, beside: int = 0) -> int | None:
        directory = self._directory
        if beside:
            # A container's init may have moved itself to a child group and given controllers to its children: then
            # its first group takes no process
            for line in (files.read_or_none(f"/proc/{beside}/cgroup") or "").splitlines():
                own = self._mountpoint + line.removeprefix("0::").rstrip("/")
                if line.startswith("0::") and own.startswith(self._directory + "/"):
                    directory = own
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError("open", directory, error.errno or 0) from None

    def apply(self, resources: Resources, *, update: bool = False) -> None:
        from wherry.linux.cgroups import v2_resources

        v2_resources.apply(self._directory, resources)

    def pids(self) -> list[int]:
        return sorted(files.pids(self._directory))

    def freeze(self) -> None:
        files.set_value("freezer", self._directory, "cgroup.freeze", 1)
        if not _await_event(self._directory, "frozen", 1, _FREEZE_SECONDS):
            files.set_value("freezer", self._directory, "cgroup.freeze", 0)
            raise FailedPrecondition(f"freezer: {self._directory} does not freeze: a task does not react")

    def thaw(self) -> None:
        files.set_value("freezer", self._directory, "cgroup.freeze", 0)
        _await_event(self._directory, "frozen", 0, _FREEZE_SECONDS)

    def is_frozen(self) -> bool:
        return files.read_int(f"{self._directory}/cgroup.freeze") == 1

    def kill(self, signal: int = _SIGKILL) -> None:
        if not self.exists():
            return
        if signal == _SIGKILL:
            try:
                files.write(f"{self._directory}/cgroup.kill", "1")  # Linux 5.14
                return
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise SyscallError("write", f"{self._directory}/cgroup.kill", error.errno or 0) from None
        sent: set[int] = set()
        for _ in range(_ROUNDS):
            pids = files.pids(self._directory) - sent
            for pid in pids:
                try:
                    os.kill(pid, signal)
                except ProcessLookupError:
                    pass
            sent |= pids
            if signal != _SIGKILL or not pids:
                break

    def stats(self) -> dict[str, Any]:
        from wherry.linux.cgroups import v2_stats

        return v2_stats.stats(self._directory)

    def oom_kills(self) -> int:
        return files.keyed(files.read_or_none(f"{self._directory}/memory.events")).get("oom_kill", 0)

    def delete(self) -> None:
        for _ in range(_ROUNDS):
            busy = False
            for directory in reversed(list(files.tree(self._directory))):
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise SyscallError("rmdir", directory, error.errno or 0) from None
                    busy = True
                    break
            if not busy:
                return
            if not self._await_exit():
                pids = " ".join(map(str, self.pids()))
                raise FailedPrecondition(f"cannot remove cgroup {self._directory}: processes run in it: {pids}")
        raise FailedPrecondition(f"cannot remove cgroup {self._directory}: it stays busy")

    def _await_exit(self) -> bool:
        if _await_event(self._directory, "populated", 0, files.EXIT_SECONDS):
            return True
        is_ending = all(map(pidfds.is_ending, self.pids()))
        return is_ending and _await_event(self._directory, "populated", 0, files.KILLED_SECONDS)

    def mounts(self) -> list[tuple[str, str, str]]:
        return [("", "", self._directory)]


def _mkdir(directory: str, made: list[str]) -> bool:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except OSError as error:
        raise SyscallError("mkdir", directory, error.errno or 0) from None
    made.append(directory)
    return True


def _enable_controllers(directory: str) -> None:
    """Gives all of the group's controllers to its children. One that cannot be given is left: `apply` names it when
    it is needed.
    """
    offered = files.read(f"{directory}/cgroup.controllers").split()
    given = files.read(f"{directory}/cgroup.subtree_control").split()
    missing = [name for name in offered if name not in given]
    if not missing:
        return
    path = f"{directory}/cgroup.subtree_control"
    try:
        files.write(path, " ".join(f"+{name}" for name in missing))
    except OSError:
        for name in missing:
            try:
                files.write(path, f"+{name}")
            except OSError:
                continue


def _await_event(directory: str, key: str, value: int, seconds: float) -> bool:
    """Waits until cgroup.events says `key value`: the file wakes pollers with POLLPRI at every change. True also when
    the group is gone.
    """
    import select
    from time import monotonic

    path = f"{directory}/cgroup.events"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        deadline = monotonic() + seconds
        while True:
            try:
                text = os.pread(fd, 4096, 0).decode()
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return True
                raise SyscallError("read", path, error.errno or 0) from None
            if files.keyed(text).get(key, value) == value:
                return True
            left = deadline - monotonic()
            if left <= 0:
                return False
            poller.poll(left * 1000)
    finally:
        os.close(fd)
