"""Starting the engine when a command needs one and none runs on the default socket: only as root, and only if WHERRY_AUTOSTART is not 0.

wherryd is started in a session of its own, with its log in its exec root. It says that it is ready by the protocol of sd_notify(3): READY=1 to the
datagram socket that NOTIFY_SOCKET names. So nothing is polled: this process sleeps until the message or the engine's end. Two commands that start at
the same moment agree by a lock; the second finds the first one's engine.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_DGRAM, socket
from fcntl import LOCK_EX, flock
from select import POLLIN, poll

from wherry.client.errors import ConnectionFailed
from wherry.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .app import App

_EXEC_ROOT = "/run/wherry"
_PATIENCE_MS = 60_000


def start_engine(app: App) -> None:
    """Returns when an engine answers on `app.address`. Unavailable when it cannot be started, with the end of its log."""
    if os.geteuid() != 0:
        raise ConnectionFailed(
            app.address.text,
            f"Cannot connect to the wherry engine at {app.address.text}. Is wherryd running? (Only root can start it by running a command.)",
        )
    os.makedirs(_EXEC_ROOT, mode=0o700, exist_ok=True)
    lock = os.open(f"{_EXEC_ROOT}/autostart.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        flock(lock, LOCK_EX)
        try:
            app.address.connect().close()
            return  # another command was faster
        except ConnectionFailed as error:
            if not error.refused:
                raise
        app.log("starting wherryd")
        _spawn_and_wait()
    finally:
        os.close(lock)


def _spawn_and_wait() -> None:
    path, log_path = f"{_EXEC_ROOT}/notify-{os.getpid()}.sock", f"{_EXEC_ROOT}/wherryd.log"
    notifications = socket(AF_UNIX, SOCK_DGRAM)
    try:
        notifications.bind(path)
        log_start = os.stat(log_path).st_size if os.path.exists(log_path) else 0
        pid = _spawn(path, log_path)
        pidfd = os.pidfd_open(pid)
        try:
            if not _wait(notifications, pidfd):
                _give_up(pid, log_path, log_start)
        finally:
            os.close(pidfd)
    finally:
        notifications.close()
        if os.path.exists(path):
            os.unlink(path)


def _spawn(notify_path: str, log_path: str) -> int:
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log_path, append, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    environment = {**os.environ, "NOTIFY_SOCKET": notify_path}
    command = engine_command()
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir("/")  # a daemon holds no directory of its caller's
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True, setsigdef=range(1, 32)
        )
    finally:
        os.fchdir(here)
        os.close(here)


def engine_command() -> list[str]:
    """How wherryd is started from here: the script beside this one, or this interpreter."""
    for folder in (os.path.dirname(os.path.realpath(sys.argv[0])), os.path.dirname(sys.executable)):
        candidate = f"{folder}/wherryd"
        if os.access(candidate, os.X_OK):
            return [candidate]
    return [sys.executable, "-c", "from wherry.daemon.main import main; raise SystemExit(main())"]


def _wait(notifications: socket, pidfd: int) -> bool:
    """True when the engine is ready, False when it has ended or says nothing for a minute."""
    ready = poll()
    ready.register(notifications.fileno(), POLLIN)
    ready.register(pidfd, POLLIN)
    while events := dict(ready.poll(_PATIENCE_MS)):
        if notifications.fileno() in events:
            if b"READY=1" in notifications.recv(4096).split(b"\n"):
                return True
        elif pidfd in events:
            return False
    return False


def _give_up(pid: int, log_path: str, log_start: int) -> None:
    ended, _ = os.waitpid(pid, os.WNOHANG)
    what = (
        "wherryd ended while it was starting"
        if ended
        else f"wherryd (process {pid}) did not become ready within a minute"
    )
    with open(log_path, "rb") as log:
        log.seek(log_start)
        tail = log.read().decode("utf-8", "replace").splitlines()[-20:]
    lines = [f"cannot start the engine: {what}. Its log, {log_path}, ends:", *(f"  {line}" for line in tail)]
    raise Unavailable("\n".join(lines))
