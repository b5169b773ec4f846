"""cgroup v1: one directory per mounted hierarchy, also where controllers are mounted together or some are missing.

Also the v2 hierarchy of a hybrid machine, which has none: a process is born there (`clone_fd`), since to move into a
v2 group costs a grace period. Runs in the engine, the shim, `wherry-runc`. **Invariant:** every hierarchy is optional; what needs a missing
controller fails when it is asked for, by name. Limits are in `v1_resources`, figures in `v1_stats` (loaded when asked
for). Source: the kernel's Documentation/admin-guide/cgroup-v1/.
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

    from wherry.linux.cgroups import Hierarchy
    from wherry.spec.oci import Resources

_SIGKILL = 9
_ROUNDS = 64
_PAUSES = 10_000
"""Waits of a millisecond, where the kernel tells of nothing: a busy machine may let a task run only after seconds."""


class CgroupV1:
    """The interface is described at `cgroups.Cgroup`."""

    mode = "v1"
    unit = ""

    def __init__(self, paths: dict[str, str], hierarchies: list[Hierarchy] | None = None) -> None:
        """`hierarchies`: the machine's; None: looked up when something asks for them (a group's end does not)."""
        self.paths = paths
        self._known = hierarchies
        self._directories = list(dict.fromkeys(paths.values()))

    @property
    def _hierarchies(self) -> list[Hierarchy]:
        if self._known is None:
            from wherry.linux import cgroups

            self._known = cgroups.detect().v1
        return [hierarchy for hierarchy in self._known if hierarchy.controllers[0] in self.paths]

    def create(self, *, populated: bool = False) -> None:
        made: list[str] = []
        try:
            for hierarchy in self._hierarchies:
                directory = self.paths[hierarchy.controllers[0]]
                if _make(directory, made):
                    if "cpuset" in hierarchy.controllers:
                        _inherit_cpuset(directory, hierarchy.mountpoint)
                elif not populated and files.read(f"{directory}/cgroup.procs"):
                    raise Conflict(f"the container's cgroup is not empty: processes run in {directory}")
                elif (
                    "freezer" in hierarchy.controllers and files.read(f"{directory}/freezer.state").strip() != "THAWED"
                ):
                    raise Conflict(f"container's cgroup unexpectedly frozen: {directory}")
            if "" in self.paths:
                self._create_unified(made, populated=populated)
        except BaseException:
            for directory in reversed(made):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass  # another container has begun to use that ancestor
            raise

    def _create_unified(self, made: list[str], *, populated: bool) -> None:
        """It limits nothing: where it cannot be made, the group does without."""
        directory = self.paths[""]
        try:
            is_new = _make(directory, made)
        except SyscallError:
            del self.paths[""]
            self._directories.remove(directory)
            return
        if not is_new and not populated and files.read(f"{directory}/cgroup.procs"):
            raise Conflict(f"the container's cgroup is not empty: processes run in {directory}")

    def release(self) -> None:
        pass

    def give_to(self, uid: int) -> None:
        pass

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self._directories)

    def prepare_join(self, *, born: bool = False) -> list[int]:
        fds: list[int] = []
        unified = self.paths.get("")
        try:
            for directory in self._directories:
                if directory != unified:
                    path = f"{directory}/tasks"
                elif born:
                    continue
                else:
                    path = f"{directory}/cgroup.procs"
                fds.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise SyscallError("open", path, error.errno or 0) from None
        return fds

    def clone_fd(self, beside: int = 0) -> int | None:
        directory = self.paths.get("")
        if directory is None:
            return None
        try:
            return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError("open", directory, error.errno or 0) from None

    def apply(self, resources: Resources, *, update: bool = False) -> None:
        from wherry.linux.cgroups import v1_resources

        v1_resources.apply(self.paths, resources, update=update)

    def _listing(self) -> str | None:
        """The hierarchy that answers for the processes: the freezer's, where there is one (nobody can leave it
        unnoticed by kill).
        """
        for controller in ("freezer", "pids", "memory", "devices"):
            if controller in self.paths:
                return self.paths[controller]
        return self._directories[0] if self._directories else None

    def pids(self) -> list[int]:
        top = self._listing()
        return sorted(files.pids(top)) if top else []

    def freeze(self) -> None:
        directory = self._freezer("pause")
        # The freezer's state has no notification; a write or a read of it makes the kernel look again at every task,
        # and a task in
        # uninterruptible sleep is what it may have to wait for.
        for attempt in range(_PAUSES):
            files.set_value("freezer", directory, "freezer.state", "FROZEN")
            state = files.read(f"{directory}/freezer.state").strip()
            if state == "FROZEN":
                return
            if attempt % 50 == 49:  # tasks that fork while being frozen: let them finish, then again
                files.set_value("freezer", directory, "freezer.state", "THAWED")
            _pause(attempt)
        files.set_value("freezer", directory, "freezer.state", "THAWED")
        raise FailedPrecondition(f"freezer: {directory} does not freeze: a task does not react")

    def thaw(self) -> None:
        files.set_value("freezer", self._freezer("resume"), "freezer.state", "THAWED")

    def is_frozen(self) -> bool:
        directory = self.paths.get("freezer")
        return bool(directory) and (files.read_or_none(f"{directory}/freezer.state") or "").strip() in (
            "FROZEN",
            "FREEZING",
        )

    def _freezer(self, what: str) -> str:
        directory = self.paths.get("freezer")
        if directory is None:
            raise FailedPrecondition(f"cannot {what}: the freezer cgroup controller is not mounted")
        return directory

    def kill(self, signal: int = _SIGKILL) -> None:
        directory = self._listing()
        if directory is None or not os.path.isdir(directory):
            return
        if signal != _SIGKILL or "freezer" not in self.paths:
            _signal_all(files.pids(directory), signal)
            return
        # Frozen, nothing can fork away between the list and the signals.
        state = f"{self.paths['freezer']}/freezer.state"
        sent: set[int] = set()
        for _ in range(_ROUNDS):
            pids = files.pids(directory) - sent
            if not pids:
                break
            _set_state(state, "FROZEN")
            try:
                pids |= files.pids(directory) - sent
                _signal_all(pids, signal)
                sent |= pids
            finally:
                _set_state(state, "THAWED")

    def stats(self) -> dict[str, Any]:
        from wherry.linux.cgroups import v1_stats

        return v1_stats.stats(self.paths)

    def oom_kills(self) -> int:
        directory = self.paths.get("memory")
        if directory is None:
            return 0
        # v1 counts a kill only in the group where it happened, not in those above
        return sum(
            files.keyed(files.read_or_none(f"{path}/memory.oom_control")).get("oom_kill", 0)
            for path in files.tree(directory)
        )

    def delete(self) -> None:
        for directory in self._directories:
            remove_tree(directory)

    def mounts(self) -> list[tuple[str, str, str]]:
        found = []
        for hierarchy in self._hierarchies:
            options = ",".join(hierarchy.controllers)
            found.append((options, os.path.basename(hierarchy.mountpoint), self.paths[hierarchy.controllers[0]]))
        return found


def _make(directory: str, made: list[str]) -> bool:
    """mkdir with missing ancestors; each one made is added to `made`. False when `directory` was there already."""
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        if parent == directory or not parent:
            raise SyscallError("mkdir", directory, errno.ENOENT) from None
        _make(parent, made)
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        except OSError as error:
            raise SyscallError("mkdir", directory, error.errno or 0) from None
    except OSError as error:
        raise SyscallError("mkdir", directory, error.errno or 0) from None
    made.append(directory)
    return True


def _inherit_cpuset(directory: str, mountpoint: str) -> None:
    """A new v1 cpuset has no CPUs and no memory nodes, and no task can join it: it gets those of its parent, from the
    top down.
    """
    for name in ("cpuset.cpus", "cpuset.mems"):
        if files.read(f"{directory}/{name}").strip():
            continue
        parent = os.path.dirname(directory)
        value = files.read(f"{parent}/{name}").strip()
        if not value and parent.startswith(mountpoint + "/"):
            _inherit_cpuset(parent, mountpoint)
            value = files.read(f"{parent}/{name}").strip()
        files.set_value("cpuset", directory, name, value)


def _set_state(path: str, value: str) -> None:
    """For kill: a group that is gone meanwhile has nothing left to kill."""
    try:
        files.write(path, value)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise SyscallError("write", path, error.errno or 0) from None


def _signal_all(pids: set[int], signal: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal)
        except ProcessLookupError:
            pass


def remove_tree(directory: str) -> None:
    """rmdir of a group and all below it. While it is busy only with tasks that are exiting, waits for their pidfds."""
    for attempt in range(_PAUSES):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise SyscallError("rmdir", directory, error.errno or 0) from None
        children = [path for path in files.tree(directory) if path != directory]
        for child in reversed(children):
            try:
                os.rmdir(child)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise SyscallError("rmdir", child, error.errno or 0) from None
                break
        pids = files.pids(directory)
        if pids and not _await_exit(pids):
            raise FailedPrecondition(
                f"cannot remove cgroup {directory}: processes run in it: {' '.join(map(str, sorted(pids)))}"
            )
        if not pids:
            _pause(attempt)  # the kernel counts a task for a moment after it is gone; there is no event for that on v1
    raise FailedPrecondition(f"cannot remove cgroup {directory}: it stays busy")


def _await_exit(pids: set[int]) -> bool:
    """Waits until all `pids` are gone, for one that lives and one that was killed as long as `files` says. False when one is still there."""
    from time import monotonic

    begin = monotonic()
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pidfds.await_end(pidfd, begin + files.EXIT_SECONDS - monotonic()):
                continue
            if not pidfds.is_ending(pid) or not pidfds.await_end(pidfd, begin + files.KILLED_SECONDS - monotonic()):
                return False
        finally:
            os.close(pidfd)
    return True


def _pause(attempt: int) -> None:
    """A wait where the kernel has nothing to wait on: yields the CPU first, then up to 1 ms."""
    if attempt < 4:
        os.sched_yield()
        return
    from time import sleep

    sleep(min(0.001, 0.00002 * attempt))
