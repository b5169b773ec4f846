"""The entry of `wherry-runc`: global options, the verb, and what becomes of an error.

Exit status 1 for errors (255 from `exec` whose command line is right), else what the verb says: the container's own for
`run` and `exec` in the foreground. An error is one line in the log (--log, --log-format) and one on stderr, as containerd
and dockerd read them from runc.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found,unused-ignore]  # the C half of signal, which would import enum
import os
import sys
import time

from wherry import errors
from wherry.runtime.cli import options
from wherry.runtime.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERBS = {
    "checkpoint": "checkpoint a running container",
    "create": "create a container",
    "delete": "delete any resources held by the container",
    "events": "display container events such as OOM notifications, cpu, memory, and IO usage statistics",
    "exec": "execute new process inside the container",
    "features": "show the enabled features",
    "kill": "send the specified signal (default: SIGTERM) to the container's init process",
    "list": "list containers started with the given root",
    "pause": "suspend all processes inside the container",
    "ps": "display the processes running inside a container",
    "restore": "restore a container from a previous checkpoint",
    "resume": "resume all processes that have been previously paused",
    "run": "create and run a container",
    "spec": "create a new specification file",
    "start": "execute the user defined process in a created container",
    "state": "output the state of a container",
    "update": "update container resource constraints",
}
_ENTERING = ("create", "exec", "restore", "run")
"""Verbs whose process, or a child of it, goes into a container."""
_TAKING_A_COMMAND = ("exec", "ps")
"""Verbs whose arguments may be options of another program's."""
GLOBAL = (
    Option("debug", "enable debug logging", kind="switch"),
    Option("log", "the file to write logs to (default: stderr)"),
    Option("log-format", "'text' or 'json'", default="text"),
    Option(
        "root",
        f"directory of the containers' state, on a tmpfs (default: {options.DEFAULT_ROOT}, of a user $XDG_RUNTIME_DIR/wherry-runc)",
    ),
    Option(
        "criu", "path to the criu binary used for checkpoint and restore (default: the first in the usual directories)"
    ),
    Option("systemd-cgroup", "cgroups are units of systemd's: cgroupsPath is slice:prefix:name", kind="switch"),
    Option(
        "rootless",
        "'true', 'false' or 'auto': whether a container may go without cgroups that cannot be made",
        default="auto",
    ),
    Option("version", "print the version", short="v", kind="switch"),
)


class UnknownVerbError(errors.InvalidArgument):
    """Exit status 3, as runc's."""


class Globals:
    """The global options."""

    __slots__ = ("criu", "debug", "log", "log_format", "root", "rootless", "systemd_cgroup")

    def __init__(self, values: dict[str, Any]) -> None:
        self.criu: str = values["criu"]
        self.debug: bool = values["debug"]
        self.log: str = values["log"]
        self.log_format: str = values["log-format"]
        self.systemd_cgroup: bool = values["systemd-cgroup"]
        self.root: str = os.path.abspath(values["root"] or options.default_root())
        self.rootless: bool | None = options.true_or_false("--rootless", values["rootless"], other=("auto", ""))

    def check(self) -> None:
        """InvalidArgument."""
        if self.root == "/":
            raise errors.InvalidArgument("Option --root argument should not be set to /")
        if self.log_format not in ("", "text", "json"):
            raise errors.InvalidArgument(f"invalid log-format: {self.log_format!r}")

    def write(self, level: str, message: str) -> None:
        """One log entry."""
        if level == "debug" and not self.debug:
            return
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.log_format == "json":
            from wherry.wire import fastjson

            line = fastjson.dumps({"level": level, "msg": message, "time": when})
        else:
            escaped = message.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            line = f'time="{when}" level={level} msg="{escaped}"'.encode("utf-8", "replace")
        if not self.log:
            os.write(2, line + b"\n")
            return
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line + b"\n")
        finally:
            os.close(fd)

    def fatal(self, message: str) -> None:
        """The error that ends this call: in the log, and on stderr."""
        try:
            self.write("error", message)
        except OSError as error:
            os.write(2, f"wherry-runc: cannot write to --log {self.log}: {error.strerror}\n".encode())
        if self.log:
            os.write(2, f"{message}\n".encode("utf-8", "replace"))


def main(arguments: list[str]) -> int:
    """The exit status of `wherry-runc arguments…`."""
    _open_standard_streams()
    settings = Globals({option.name: option.initial() for option in GLOBAL})
    failed = 1
    try:
        if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:  # by `entry`
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        values, rest = options.parse(GLOBAL, arguments)
        settings = Globals(values)
        settings.check()
        if values["version"]:
            return _print_version()
        if values["help"] or not rest or rest[0] in ("help", "h"):
            return _print_help(rest[1:2])
        verb, *words = rest
        module = _load(verb)
        own, rest = _parse_verb(verb, module.OPTIONS, words, values)
        settings = Globals(values)
        settings.check()
        if verb == "exec":
            failed = 255
        return _run(settings, verb, module, own, rest)
    except UnknownVerbError as error:
        settings.fatal(str(error))
        return 3
    except options.UsageError as error:
        settings.fatal(str(error))
        return 1
    except errors.WherryError as error:
        prefix = "exec failed: " if failed == 255 and not str(error).startswith("exec failed") else ""
        settings.fatal(f"{prefix}{error}")
        return failed
    except OSError as error:  # one that no module has worded: never a traceback for a user
        settings.fatal(f"{error.filename or 'wherry-runc'}: {(error.strerror or str(error)).lower()}")
        return failed
    except KeyboardInterrupt as error:  # what was begun is undone
        settings.fatal("interrupted")
        return _end_by_signal(error.args[0] if error.args else 2)


def _end_by_signal(number: int) -> int:
    """As a program ends that knows nothing of the signal: a shell that has started it stops, too."""
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _open_standard_streams() -> None:
    """Where the caller has closed 0, 1 or 2, they become /dev/null: else the next file that we open would be the
    container's input or output.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest number that is free: this one


def _load(verb: str) -> Any:
    if verb not in VERBS:
        raise UnknownVerbError(f"No help topic for '{verb}': the verbs are {', '.join(VERBS)}")
    __import__(name := f"wherry.runtime.cli.{verb}")
    return sys.modules[name]


def _parse_verb(
    verb: str, table: tuple[Option, ...], words: list[str], settings: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """(values of the verb's options, its arguments). As in runc since 1.5 global options may stand among them, which go to `settings`, and
    "--" before a command.
    """
    own = {option.name for option in table}
    outer = [option for option in GLOBAL if option.name not in own and option.name != "version"]
    given = {option.name: settings[option.name] for option in outer}
    values, rest = options.parse((*table, *outer), words, mixed=verb not in _TAKING_A_COMMAND, given=given)
    if verb in _TAKING_A_COMMAND and rest[1:2] == ["--"]:
        del rest[1]
    settings.update({name: values.pop(name) for name in given})
    return values, rest


def _run(settings: Globals, verb: str, module: Any, values: dict[str, Any], rest: list[str]) -> int:
    if values["help"]:
        return _print_help([verb])
    if verb in _ENTERING:
        from wherry.runtime.cli import interpreter

        interpreter.require_readonly()
    status: int = module.run(settings, values, rest)
    return status


def _print_version() -> int:
    from wherry import __version__
    from wherry.runtime.cli.features import SPECIFICATION, libseccomp_version

    lines = [f"wherry-runc version {__version__}", f"spec: {SPECIFICATION}"]
    if version := libseccomp_version():
        lines.append(f"libseccomp: {version}")
    os.write(1, ("\n".join(lines) + "\n").encode())
    return 0


def _print_help(topic: list[str]) -> int:
    if topic:
        module = _load(topic[0])
        text = (
            f"NAME:\n   wherry-runc {topic[0]} - {VERBS[topic[0]]}\n\nUSAGE:\n   wherry-runc {module.USAGE}\n\n"
            f"EXAMPLES:\n{module.EXAMPLES}\nOPTIONS:\n{options.describe(module.OPTIONS)}"
        )
    else:
        width = max(map(len, VERBS))
        verbs = "".join(f"   {verb:<{width}}  {about}\n" for verb, about in VERBS.items())
        text = (
            "NAME:\n   wherry-runc - Open Container Initiative runtime: runs containers from bundles, with runc's command line\n\n"
            "USAGE:\n   wherry-runc [global options] command [command options] [arguments...]\n\n"
            f"COMMANDS:\n{verbs}\nGLOBAL OPTIONS:\n{options.describe(GLOBAL)}\n"
            "Run 'wherry-runc help COMMAND' for the options of a command.\n"
        )
    os.write(1, text.encode())
    return 0
