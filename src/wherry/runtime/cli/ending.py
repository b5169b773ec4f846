"""What follows a container's start and its end: hooks, and the removal of all that is left. `start` and `delete` need this and
nothing of what makes a container.
"""

from __future__ import annotations

import os

from wherry.errors import WherryError
from wherry.runtime import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.cli.main import Globals
    from wherry.runtime.rdt import Group as Resctrl
    from wherry.runtime.state import State
    from wherry.spec.oci import Config


def destroy(settings: Globals, state: State, config: Config | None) -> None:
    """Removes all that is left of a container whose first process has ended: processes, cgroup, state. Then its
    poststop hooks run.
    """
    group = state.cgroup()
    group.kill()
    group.delete()
    if os.path.exists(f"{state.directory}/{states.SHARED_MOUNT}"):
        from wherry.runtime.cli import shared_mounts  # system calls by ctypes, which most containers' end does not need

        shared_mounts.remove(state)
    resctrl = resctrl_of(state, config) if config is not None else None
    if resctrl is not None:
        resctrl.delete()
    state.remove()
    if config is not None:
        run_poststop_hooks(settings, state, config)


def resctrl_of(state: State, config: Config) -> Resctrl | None:
    """The resctrl group of a container that has one."""
    wanted = config["linux"].get("intelRdt")
    if wanted is None:
        return None
    from wherry.runtime import rdt

    group = rdt.Group(wanted, state.id)
    group.made = state.resctrl_made
    return group


def run_poststart_hooks(state: State, config: Config) -> None:
    """When one fails the container is killed (OCI runtime.md "Lifecycle"), and the error raised."""
    described = (config.get("hooks") or {}).get("poststart")
    if not described:
        return
    from wherry.runtime import hooks

    document = hooks.state(config, state.id, states.RUNNING, state.pid, state.bundle)
    try:
        hooks.run(hooks.parse({"poststart": described})["poststart"], document, state.bundle)
    except WherryError:
        state.cgroup().kill()
        raise


def run_poststop_hooks(settings: Globals, state: State, config: Config) -> None:
    """One that fails is logged, and the others run (OCI runtime.md "Lifecycle")."""
    described = (config.get("hooks") or {}).get("poststop")
    if not described:
        return
    from wherry.runtime import hooks

    document = hooks.state(config, state.id, states.STOPPED, 0, state.bundle)
    for hook in hooks.parse({"poststop": described})["poststop"]:
        try:
            hooks.run([hook], document, state.bundle)
        except WherryError as error:
            settings.write("warning", str(error))
