"""`wherry-runc checkpoint`: saves a running container to files by CRIU. It has ended then, unless --leave-running or
--pre-dump.
"""

from __future__ import annotations

import os

from wherry.errors import Conflict, InvalidArgument, NotFound
from wherry.runtime import checkpoint
from wherry.runtime import state as states
from wherry.runtime.cli import ending, options
from wherry.runtime.cli.options import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.cli.main import Globals

USAGE = "checkpoint [options] <container-id>"
EXAMPLES = (
    "   wherry-runc checkpoint --image-path /saved/web web\n"
    "   wherry-runc checkpoint --image-path /saved/1 --pre-dump web\n"
    "   wherry-runc checkpoint --image-path /saved/2 --parent-path ../1 web\n"
)
COMMON = (
    Option("image-path", "directory of criu's image files (default: checkpoint, in the working directory)"),
    Option("work-path", "directory of criu's work files and log (default: the image path)"),
    Option("tcp-established", "allow open tcp connections", kind="switch"),
    Option("ext-unix-sk", "allow external unix sockets", kind="switch"),
    Option("shell-job", "allow shell jobs: a terminal that is not the container's", kind="switch"),
    Option("file-locks", "handle file locks", kind="switch"),
    Option("manage-cgroups-mode", "how criu treats cgroups: soft, full, strict or ignore"),
    Option(
        "empty-ns", "create a namespace, but don't restore its properties: network, which is always so", kind="many"
    ),
    Option("auto-dedup", "remove from earlier images what later ones have", kind="switch"),
    Option("lazy-pages", "leave memory to be fetched when it is used (userfaultfd)", kind="switch"),
)
OPTIONS = (
    *COMMON,
    Option("parent-path", "the image of an earlier --pre-dump, relative to the image path"),
    Option("leave-running", "leave the container running", kind="switch"),
    Option("tcp-skip-in-flight", "skip tcp connections that are being made", kind="switch"),
    Option("link-remap", "allow one to link unlinked files back when possible", kind="switch"),
    Option("pre-dump", "save the memory only and leave the container running", kind="switch"),
    Option("page-server", "ADDRESS:PORT of a criu that takes the memory"),
    Option("status-fd", "a descriptor that gets a NUL byte when --lazy-pages is ready", kind="number", default=-1),
)


def run(settings: Globals, values: dict[str, Any], arguments: list[str]) -> int:
    options.expect(arguments, 1, 1, USAGE)
    state = states.load(settings.root, arguments[0])
    status = state.status()
    if status in (states.CREATED, states.STOPPED):
        raise Conflict(f"Container cannot be checkpointed in {status} state")
    asked = common(settings, values)
    asked.parent_path = _parent(asked.image_path, values["parent-path"])
    asked.page_server = _page_server(values["page-server"])
    asked.status_fd = _status_fd(values["status-fd"])
    asked.leave_running, asked.pre_dump = values["leave-running"], values["pre-dump"]
    asked.tcp_skip_in_flight, asked.link_remap = values["tcp-skip-in-flight"], values["link-remap"]
    config = state.config()
    checkpoint.checkpoint(state, config, asked)
    if not asked.leave_running and not asked.pre_dump:
        ending.destroy(settings, state, config)
    return 0


def common(settings: Globals, values: dict[str, Any]) -> checkpoint.Options:
    """What `restore` is asked in the same words."""
    if os.geteuid() != 0:
        settings.write("warning", "criu needs root: checkpoint and restore are not expected to work without")
    for name in values["empty-ns"]:
        if name != "network":
            raise InvalidArgument(f"namespace {name!r} is not supported")
    asked = checkpoint.Options()
    asked.criu = settings.criu
    asked.image_path = os.path.abspath(values["image-path"] or "checkpoint")
    asked.work_path = os.path.abspath(values["work-path"]) if values["work-path"] else ""
    asked.cgroups_mode = values["manage-cgroups-mode"]
    asked.tcp_established, asked.ext_unix_sk = values["tcp-established"], values["ext-unix-sk"]
    asked.shell_job, asked.file_locks = values["shell-job"], values["file-locks"]
    asked.auto_dedup, asked.lazy_pages = values["auto-dedup"], values["lazy-pages"]
    return asked


def _parent(image_path: str, path: str) -> str:
    if path.startswith("/"):
        raise InvalidArgument("--parent-path must be relative")
    if path and not os.path.isdir(os.path.join(image_path, path)):
        raise NotFound(f"invalid --parent-path: {os.path.join(image_path, path)} is not a directory")
    return path


def _page_server(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    address, _, port = text.rpartition(":")
    if not address or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise InvalidArgument("Use --page-server ADDRESS:PORT to specify page server")
    return address.strip("[]"), int(port)


def _status_fd(number: int) -> int:
    if number < 0:
        return -1
    import fcntl

    try:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise InvalidArgument(f"invalid --status-fd argument {number}: not writable")
    except OSError as error:
        raise InvalidArgument(f"invalid --status-fd argument {number}: {(error.strerror or '').lower()}") from None
    return number
