"""`wherry-runc events`: a container's figures, once or every --interval, and its out-of-memory events, one JSON
object per line.
"""

from __future__ import annotations

import os

from wherry.errors import Conflict, InvalidArgument
from wherry.runtime import state as states
from wherry.runtime.cli import options
from wherry.runtime.cli.ending import resctrl_of
from wherry.runtime.cli.options import Option
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.cli.main import Globals

USAGE = "events [options] <container-id>"
EXAMPLES = "   wherry-runc events --stats web\n   wherry-runc events --interval 2s web\n"
OPTIONS = (
    Option("interval", "how often figures are shown (500ms, 5s, 1m)", default="5s"),
    Option("stats", "display the container's stats then exit", kind="switch"),
)
_UNITS = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0))


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    interval = duration(values["interval"])
    state = states.load(settings.root, arguments[0])
    if not state.is_alive():
        raise Conflict(f"container with id {state.id} is not running")
    group = state.cgroup()
    resctrl = resctrl_of(state, state.config())

    def figures() -> dict[str, Any]:
        return group.stats() if resctrl is None else {**group.stats(), "intel_rdt": resctrl.stats()}

    if values["stats"]:
        _print("stats", state.id, figures())
        return 0
    _follow(state, group, interval, figures)
    return 0


def _follow(state: states.State, group: Cgroup, interval: float, figures: Callable[[], dict[str, Any]]) -> None:
    """Until the container ends: pidfd, the kernel's notice of memory running out, and the interval are what is waited
    for.
    """
    import select

    pidfd = state.pidfd()
    if pidfd is None:
        return
    notices, release = _out_of_memory_notices(group)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    for fd, events in notices.items():
        poller.register(fd, events)
    for fd, events in notices.items():
        if events == select.POLLPRI:
            _take_notice(fd)
    kills = group.oom_kills()
    try:
        while True:
            ready = dict(poller.poll(interval * 1000))
            if pidfd in ready:
                return
            for fd in ready:
                _take_notice(fd)
            if not ready:
                _print("stats", state.id, figures())
                continue
            now = group.oom_kills()
            if now != kills:
                kills = now
                _print("oom", state.id, None)
    finally:
        for fd in release:
            os.close(fd)
        os.close(pidfd)


def _take_notice(fd: int) -> None:
    """Reads what has woken us: an eventfd's counter, or v2's file, which is ready from its opening until it is read."""
    try:
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        pass  # an eventfd has no position
    try:
        os.read(fd, 4096)
    except OSError:
        pass  # the group is being removed: the pidfd says so next


def _out_of_memory_notices(group: Cgroup) -> tuple[dict[int, int], list[int]]:
    """({descriptor: poll events}, descriptors to close): an eventfd on v1, memory.events itself on v2."""
    import select

    if group.mode == "v2":
        path = f"{group.paths['']}/memory.events"
        if not os.path.exists(path):
            return {}, []
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return {fd: select.POLLPRI}, [fd]
    directory = group.paths.get("memory")
    if directory is None:
        return {}, []
    control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    notice = os.eventfd(0, os.EFD_CLOEXEC)
    register = os.open(f"{directory}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(register, b"%d %d" % (notice, control))
    finally:
        os.close(register)
    return {notice: select.POLLIN}, [notice, control]


def _print(kind: str, container_id: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container_id}
    if data is not None:
        event["data"] = data
    os.write(1, fastjson.dumps(event) + b"\n")


def duration(text: str) -> float:
    """Seconds of "500ms", "5s", "1m". InvalidArgument for anything else, and for nothing at all."""
    for unit, factor in _UNITS:
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit() and number.isascii():
            seconds = float(number) * factor
            if seconds > 0:
                return seconds
    raise InvalidArgument(f"--interval: {text!r} is not a duration above zero")
