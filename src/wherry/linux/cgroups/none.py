"""A container without a cgroup: of an ordinary user to whom none was delegated. Same interface as the others.

Runs in `wherry-runc`. What needs a group is refused by name; the container's processes are found by its pid namespace,
where it has one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, which would import enum
import os

from wherry.errors import FailedPrecondition
from wherry.linux import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.spec.oci import Resources

_SIGKILL = 9


class NoCgroup:
    """The interface is described at `cgroups.Cgroup`. `pid`: the container's first process; 0 before there is one."""

    mode = "none"
    unit = ""

    def __init__(self, pid: int = 0) -> None:
        self.paths: dict[str, str] = {}
        self._pid = pid

    def create(self) -> None:
        pass

    def release(self) -> None:
        pass

    def give_to(self, uid: int) -> None:
        pass

    def exists(self) -> bool:
        return False

    def prepare_join(self, *, born: bool = False) -> list[int]:
        return []

    def clone_fd(self, beside: int = 0) -> int | None:
        return None

    def apply(self, resources: Resources, *, update: bool = False) -> None:
        """FailedPrecondition, as runc's, for any limit."""
        wanted: Resources = {**resources}
        wanted.pop("devices", None)
        if cgroups.detect().v1:
            from wherry.linux.cgroups import v1_resources

            v1_resources.apply({}, wanted, update=update)
        elif any(wanted.values()):
            raise FailedPrecondition("cannot set limits: the container has no cgroup (none was delegated to the user)")

    def pids(self) -> list[int]:
        if not self._pid:
            return []
        try:
            space = os.readlink(f"/proc/{self._pid}/ns/pid")
        except PermissionError:  # created, not started: it hides
            return [self._pid]
        except OSError:
            return []
        if space == os.readlink("/proc/self/ns/pid"):
            return [self._pid]  # which of the others are the container's, nothing tells
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == space:
                    found.append(int(name))
            except OSError:
                continue
        return sorted(found)

    def freeze(self) -> None:
        raise FailedPrecondition("cannot toggle freezer: cgroups not configured for container")

    def thaw(self) -> None:
        raise FailedPrecondition("cannot toggle freezer: cgroups not configured for container")

    def is_frozen(self) -> bool:
        return False

    def kill(self, signal: int = _SIGKILL) -> None:
        for pid in self.pids():
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if pid == self._pid or pid in self.pids():  # looked at again: it may be another's pid by now
                    _signal.pidfd_send_signal(pidfd, signal)
            except ProcessLookupError:
                pass
            finally:
                os.close(pidfd)

    def stats(self) -> dict[str, Any]:
        raise FailedPrecondition("the container has no cgroup to take figures from")

    def oom_kills(self) -> int:
        return 0

    def delete(self) -> None:
        pass

    def mounts(self) -> list[tuple[str, str, str]]:
        return []
