"""`wherry-runc restore`: a container runs again from the files of a checkpoint, under any id, on the bundle that it had."""

from __future__ import annotations

import os

from wherry.errors import NotFound, NotImplemented
from wherry.runtime import oci_validate, restore
from wherry.runtime import state as states
from wherry.runtime.cli import checkpoint, ending, launch, options
from wherry.runtime.cli.foreground import Foreground, become_subreaper, require_terminal_or_socket, send_console
from wherry.runtime.cli.options import Option
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals
    from wherry.spec.oci import Config

USAGE = "restore [options] <container-id>"
EXAMPLES = "   wherry-runc restore --detach --bundle /containers/web --image-path /saved/web web\n"
OPTIONS = (
    *checkpoint.COMMON,
    Option("bundle", "path to the root of the bundle directory, defaults to the current directory", short="b"),
    Option("console-socket", "path to an AF_UNIX socket which receives the master of the container's terminal"),
    Option("pid-file", "the file to write the process id to"),
    Option("detach", "detach from the container's process", short="d", kind="switch"),
    Option("no-subreaper", "do not reap processes whose parents have died", kind="switch"),
    Option("no-pivot", "the root of a container is always changed by pivot_root", kind="refused", default=False),
    Option("lsm-profile", "the label that the processes get instead of their own, as TYPE:NAME"),
    Option("lsm-mount-context", "the SELinux context that mounts get instead of their own"),
)


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    container_id = states.check_id(arguments[0])
    bundle = os.path.abspath(values["bundle"] or ".")
    config = states.read_config(f"{bundle}/config.json")[1]
    oci_validate.check(config)
    terminal = bool(config.get("process", {}).get("terminal"))
    detached = values["detach"]
    require_terminal_or_socket(terminal=terminal, detached=detached, socket=values["console-socket"])
    rootfs = os.path.realpath(os.path.join(bundle, config["root"]["path"]))
    if not os.path.isdir(rootfs):
        raise NotFound(f"invalid rootfs: {rootfs} is not a directory")
    asked = checkpoint.common(settings, values)
    asked.lsm_profile, asked.lsm_mount_context = values["lsm-profile"], values["lsm-mount-context"]
    if asked.cgroups_mode == "strict":
        raise NotImplemented(
            "--manage-cgroups-mode strict: the container's cgroup is there before its processes, and strict refuses one that is"
        )
    foreground = None if detached else Foreground()
    if not detached and not values["no-subreaper"]:
        become_subreaper()
    state = states.make(settings.root, container_id)

    def record(made: restore.Restored) -> None:
        """The container is whole: from here on the other verbs know it."""
        state.pid, state.start = made.pid, states.start_time(made.pid) or 0
        state.bundle, state.rootfs, state.oci_version = bundle, rootfs, config["ociVersion"]
        state.created, state.owner = launch.now(), os.geteuid()
        state.cgroup_paths, state.unit = made.cgroup.paths, made.cgroup.unit
        state.descriptors = launch.standard_streams(terminal=terminal)
        _note_time_namespace(config, made.pid)
        states.write_file(f"{state.directory}/config.json", fastjson.dumps(config))
        state.save()
        if made.console is not None and values["console-socket"]:
            send_console(values["console-socket"], made.console)
        if values["pid-file"]:
            launch.write_pid_file(values["pid-file"], made.pid)

    try:
        states.write_file(f"{state.directory}/config.json", fastjson.dumps(config))
        made = restore.restore(
            state, config, asked, rootfs=rootfs, bundle=bundle, stdio=(0, 1, 2), on_ready=record, systemd=settings.systemd_cgroup
        )  # fmt: skip
    except BaseException:
        state.remove()
        raise
    for warning in made.warnings:
        settings.write("warning", warning)
    console, made.console = made.console, None
    if foreground is None:
        if console is not None:
            os.close(console)
        return 0
    try:
        return foreground.wait(made.pid, console)
    finally:
        ending.destroy(settings, state, config)


def _note_time_namespace(config: Config, pid: int) -> None:
    """criu puts the processes into a time namespace, so that their clocks go on: an exec is to join it."""
    entries = config["linux"].setdefault("namespaces", [])
    if any(entry["type"] == "time" for entry in entries):
        return
    try:
        if os.readlink(f"/proc/{pid}/ns/time") != os.readlink("/proc/self/ns/time"):
            entries.append({"type": "time"})
    except FileNotFoundError:
        pass  # a kernel without
