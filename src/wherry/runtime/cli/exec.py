"""`wherry-runc exec`: one more process in a running container. Errors end with status 255, the process's own status
is passed on.
"""

from __future__ import annotations

import os

from wherry.errors import Conflict, InvalidArgument, StartError, WherryError
from wherry.linux import cgroups
from wherry.runtime import container, oci_validate
from wherry.runtime import state as states
from wherry.runtime.cli import filters, options
from wherry.runtime.cli.foreground import (
    Foreground,
    become_subreaper,
    require_terminal_or_socket,
    send_console,
    send_descriptor,
)
from wherry.runtime.cli.launch import preserved_fds, write_pid_file
from wherry.runtime.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals
    from wherry.spec.oci import Config, Process

USAGE = "exec [options] <container-id> <command> [argument...]   (or --process FILE <container-id>)"
EXAMPLES = "   wherry-runc exec web ls /\n   wherry-runc exec --tty --env TERM=xterm web sh\n   wherry-runc exec --user 1000:1000 web id\n"
OPTIONS = (
    Option("console-socket", "path to an AF_UNIX socket which receives the master of the process's terminal"),
    Option("pidfd-socket", "path to an AF_UNIX socket which receives a pidfd of the process"),
    Option("cwd", "current working directory in the container"),
    Option("env", "set environment variables (KEY=VALUE, may be repeated)", short="e", kind="many"),
    Option("tty", "allocate a pseudo-TTY", short="t", kind="switch"),
    Option("user", "uid[:gid]", short="u"),
    Option("additional-gids", "additional gids (may be repeated)", short="g", kind="many"),
    Option("process", "path to a file with the process as in config.json", short="p"),
    Option("detach", "detach from the process", short="d", kind="switch"),
    Option("pid-file", "the file to write the process id to"),
    Option("process-label", "the SELinux label of the process"),
    Option("apparmor", "the AppArmor profile of the process"),
    Option("no-new-privs", "set no_new_privs for the process", kind="switch"),
    Option("cap", "add a capability to the process (may be repeated)", short="c", kind="many"),
    Option("preserve-fds", "pass N additional file descriptors to the process", kind="number", default=0),
    Option(
        "cgroup",
        "run the process in an existing group below the container's: [controller[,controller]:]path",
        kind="many",
    ),
    Option("ignore-paused", "allow exec in a paused container: it begins when the container is resumed", kind="switch"),
)


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1 if values["process"] else None, USAGE)
    state = states.load(settings.root, arguments[0])
    status = state.status()
    if status == states.STOPPED:
        raise Conflict("cannot exec in a stopped container")
    if status == states.PAUSED and not values["ignore-paused"]:
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)")
    config = state.config()
    oci_validate.check(config)
    process = described(values, config, arguments[1:])
    detached = values["detach"]
    require_terminal_or_socket(
        terminal=bool(process.get("terminal")), detached=detached, socket=values["console-socket"]
    )
    preserved = preserved_fds(process, values["preserve-fds"], activated=False)
    program, flags = filters.program_for(settings.root, config)
    pidfd = state.pidfd()
    if pidfd is None:
        raise Conflict("cannot exec in a stopped container")
    foreground = None if detached else Foreground()
    if not detached:
        become_subreaper()
    try:
        started = container.exec_process(
            state.pid,
            pidfd,
            config,
            process,
            cgroup=cgroups.below(state.cgroup(), sub_groups(values["cgroup"])),
            stdio=container.Stdio(0, 1, 2),
            seccomp_bpf=program,
            seccomp_flags=flags,
            container_id=state.id,
            new_keyring=state.new_keyring,
            bundle=state.bundle,
            console_newlines=not values["console-socket"],
            parent_death_signal=0,
            preserve_fds=preserved,
        )
    except StartError as error:
        raise StartError(error.step, f"exec failed: unable to start container process: {error}", error.errno) from None
    finally:
        os.close(pidfd)
    settings.write("debug", f"container {state.id}: process {started.pid} beside {state.pid}")
    for warning in started.warnings:
        settings.write("warning", warning)
    try:
        if values["pidfd-socket"]:
            send_descriptor(values["pidfd-socket"], b"setns", started.pidfd, "--pidfd-socket")
        if values["pid-file"]:
            write_pid_file(values["pid-file"], started.pid)
        if started.console is not None and values["console-socket"]:
            send_console(values["console-socket"], started.console)
    except WherryError:  # nobody would ever know of it
        os.kill(started.pid, 9)
        os.waitpid(started.pid, 0)
        raise
    if foreground is None:
        started.close()
        return 0
    console, started.console = started.console, None
    status_code = foreground.wait(started.pid, console)
    started.close()
    return status_code


def sub_groups(words: list[str]) -> dict[str, str]:
    """--cgroup's values: {controller: path below the container's group}, "" for all of them."""
    groups: dict[str, str] = {}
    for word in words:
        controllers, colon, path = word.partition(":")
        if not colon:
            if len(words) != 1:
                raise InvalidArgument(f"invalid --cgroup argument: {word} (missing <controller>: prefix)")
            return {"": word}
        for controller in controllers.split(","):
            if not controller:
                raise InvalidArgument(f"invalid --cgroup argument: {word} (empty <controller> prefix)")
            if controller in groups:
                raise InvalidArgument(f"invalid --cgroup argument(s): controller {controller} specified multiple times")
            groups[controller] = path
    return groups


def described(values: dict[str, Any], config: Config, command: list[str]) -> Process:
    """The process that the options describe: a file, or the container's own process with changes."""
    if values["process"]:
        process: Any = states.read_config(os.path.abspath(values["process"]))[1]
        oci_validate.check_process(process)
        return process  # type: ignore[no-any-return]
    process = dict(config.get("process", {}))
    process["args"] = command
    process["terminal"] = values["tty"]
    process.pop("consoleSize", None)
    process.setdefault("cwd", "/")
    if values["cwd"]:
        process["cwd"] = values["cwd"]
    process["env"] = [*process.get("env", ()), *values["env"]]
    if values["apparmor"]:
        process["apparmorProfile"] = values["apparmor"]
    if values["process-label"]:
        process["selinuxLabel"] = values["process-label"]
    if values["no-new-privs"]:
        process["noNewPrivileges"] = True
    user = dict(process.get("user", {"uid": 0, "gid": 0}))
    if values["user"]:
        uid, _, gid = values["user"].partition(":")
        user["uid"] = _id("--user", uid)
        user["gid"] = _id("--user", gid) if gid else user.get("gid", 0)
    if values["additional-gids"]:
        user["additionalGids"] = [
            *user.get("additionalGids", ()),
            *(_id("--additional-gids", gid) for gid in values["additional-gids"]),
        ]
    process["user"] = user
    if values["cap"]:
        have = process.get("capabilities", {})
        # an ambient capability has to be inheritable: without any of those there is no use in asking
        kinds = ("bounding", "effective", "permitted", *(("ambient",) if "inheritable" in have else ()))
        added = {name: [*have.get(name, ()), *values["cap"]] for name in kinds}
        process["capabilities"] = {**have, **added}
    oci_validate.check_process(process)
    return process  # type: ignore[no-any-return]


def _id(option: str, text: str) -> int:
    """A number in the range of user ids; names are not looked up, and what is none is never taken for root
    (CVE-2024-40635).
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFE):
        raise InvalidArgument(f"{option}: {text!r} is not a user or group id")
    return int(text)
