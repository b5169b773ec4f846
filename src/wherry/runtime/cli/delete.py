"""`wherry-runc delete`: removes what is left of a container that has stopped, or with --force ends it first."""

from __future__ import annotations

import os

from wherry.errors import Conflict, DataLoss, FailedPrecondition, NotFound, WherryError
from wherry.linux import cgroups
from wherry.runtime import state as states
from wherry.runtime.cli import ending, options
from wherry.runtime.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.cli.main import Globals
    from wherry.runtime.state import State

USAGE = "delete [options] <container-id>"
EXAMPLES = "   wherry-runc delete web\n   wherry-runc delete --force web\n"
OPTIONS = (Option("force", "delete the container even if it runs (uses SIGKILL)", short="f", kind="switch"),)
_EXIT_SECONDS = 10.0


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    force = values["force"]
    try:
        state = states.load(settings.root, arguments[0])
        config = state.config()
    except (NotFound, DataLoss):
        if not force:
            raise
        _remove_remains(settings, states.check_id(arguments[0]))
        return 0
    status = state.status()
    if status == states.CREATED or (force and status != states.STOPPED):
        _end(state)
    elif status != states.STOPPED:
        raise Conflict(f"cannot delete container {state.id} that is not stopped: {status}")
    ending.destroy(settings, state, config)
    return 0


def _remove_remains(settings: Globals, container_id: str) -> None:
    """Of a container whose making was killed, or whose files are damaged: its cgroup is where its configuration says,
    if that is still there.
    """
    from wherry.runtime import oci_validate

    leftover = states.State(f"{settings.root}/{container_id}", container_id)
    try:
        config = leftover.config()
        oci_validate.check(config)
    except WherryError:
        leftover.remove()
        return
    path = config["linux"].get("cgroupsPath", "")
    if settings.systemd_cgroup:
        from wherry.linux.cgroups import systemd

        group: Cgroup = systemd.open_unit(path, container_id, {}, {})
    else:
        group = cgroups.open_group(path or (container_id if os.geteuid() else f"/{container_id}"), unified=True)
    group.kill()
    group.delete()
    leftover.remove()


def _end(state: State) -> None:
    """SIGKILL, and the wait for its effect."""
    from wherry.linux import pidfds
    from wherry.runtime.cli import kill

    pidfd = state.pidfd()
    if pidfd is None:
        return
    try:
        try:
            kill.send(state, 9)
        except (Conflict, NotFound):  # it has ended, or another delete is quicker
            return
        if not pidfds.await_end(pidfd, _EXIT_SECONDS):
            raise FailedPrecondition(f"container {state.id}: process {state.pid} does not end after SIGKILL")
    finally:
        os.close(pidfd)
