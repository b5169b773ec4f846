"""What `wherry-runc` keeps of each container between its calls: one directory per container under --root, mode 0700.

    <root>/<id>/config.json     the configuration as it was when the container was created, byte for byte
    <root>/<id>/state.json      pid and its start time, cgroup paths, bundle, … ; written to a temporary name and renamed
    <root>/<id>/exec.fifo       there as long as the container is created and not started
    <root>/<id>/notify/         the socket of a container that is a service manager's service

Runs in `wherry-runc` only: the shim keeps its own files. **Invariant:** a directory without state.json is a container
being made, or one whose making was killed: `delete --force` removes it. A pid counts only together with its start
time, so a reused pid is never taken for the container.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, SyscallError
from wherry.linux import cgroups
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.spec.oci import Config

CREATED, RUNNING, PAUSED, STOPPED = "created", "running", "paused", "stopped"
FIFO = "exec.fifo"
SHARED_MOUNT = "mount"
"""Which mount `shared_mounts` has made; there only in a container without a mount namespace."""
_FORMAT = 1
_LATER = ("descriptors", "new_keyring", "resctrl_made", "unit")
"""What the files of earlier versions lack: it has its initial value then."""
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_ID_LIMIT = 1024
_CONFIG_LIMIT = 16 << 20


def check_id(container_id: str) -> str:
    """The id itself, when it is one: letters, digits, "_", "+", "-", "."; InvalidArgument else (it becomes a
    directory's name).
    """
    if not container_id:
        raise InvalidArgument("container id cannot be empty")
    if container_id in (".", "..") or len(container_id) > _ID_LIMIT or not _ID_CHARACTERS.issuperset(container_id):
        raise InvalidArgument(f"invalid container ID format: {container_id[:80]!r}")
    return container_id


def read_config(path: str) -> tuple[bytes, Config]:
    """A configuration file's bytes and value. NotFound, or InvalidArgument for what is no JSON object; its fields are
    not checked here.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound(f"JSON specification file {path} not found") from None
        raise SyscallError("open", path, error.errno or 0) from None
    try:
        data = bytearray()
        while part := os.read(fd, 1 << 14):
            data += part
            if len(data) > _CONFIG_LIMIT:
                raise InvalidArgument(f"{path}: larger than {_CONFIG_LIMIT} bytes")
        raw = bytes(data)
        config = fastjson.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: not valid JSON: {error}") from None
    except OSError as error:
        raise SyscallError("read", path, error.errno or 0) from None
    finally:
        os.close(fd)
    if not isinstance(config, dict):
        raise InvalidArgument(f"{path}: a configuration is a JSON object")
    return raw, config  # type: ignore[return-value]


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks after boot; None when it is gone or only a zombie is left
    (proc_pid_stat(5), fields 3 and 22).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class State:
    """One container's state. `directory` is its place; the rest is state.json."""

    __slots__ = (
        "bundle",
        "cgroup_paths",
        "created",
        "descriptors",
        "directory",
        "id",
        "new_keyring",
        "oci_version",
        "owner",
        "pid",
        "resctrl_made",
        "rootfs",
        "start",
        "unit",
    )

    def __init__(self, directory: str, container_id: str) -> None:
        self.directory = directory
        self.id = container_id
        self.pid = 0
        self.start = 0
        self.bundle = ""
        self.rootfs = ""
        self.created = ""
        self.oci_version = ""
        self.owner = 0
        self.new_keyring = True
        self.resctrl_made = False
        self.unit = ""
        self.cgroup_paths: dict[str, str] = {}
        self.descriptors: list[str] = []
        """What the first process's 0, 1 and 2 were when it was made ("pipe:[123]"): a restore gives it others in their place."""

    def save(self) -> None:
        values = {name: getattr(self, name) for name in self.__slots__ if name != "directory"}
        write_file(f"{self.directory}/state.json", fastjson.dumps({"format": _FORMAT, **values}))

    def config(self) -> Config:
        return read_config(f"{self.directory}/config.json")[1]

    def lock(self) -> None:
        """Waits until no other call changes the container's configuration; holds until this process ends."""
        import fcntl

        try:
            fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"container does not exist: {self.id}") from None
        fcntl.flock(fd, fcntl.LOCK_EX)

    def cgroup(self) -> Cgroup:
        if not self.cgroup_paths:
            from wherry.linux.cgroups.none import NoCgroup

            return NoCgroup(self.pid if self.is_alive() else 0)  # a pid that was used again is somebody else's
        return cgroups.reopen(self.cgroup_paths, unit=self.unit)

    def is_alive(self) -> bool:
        """Whether the first process runs (a zombie does not)."""
        return self.pid > 0 and start_time(self.pid) == self.start

    def status(self) -> str:
        if not self.is_alive():
            return STOPPED
        if os.path.exists(f"{self.directory}/{FIFO}"):
            return CREATED
        return PAUSED if self.cgroup().is_frozen() else RUNNING

    def pidfd(self) -> int | None:
        """A descriptor of the first process; None when it is gone. The caller closes it."""
        try:
            fd = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return None
        if self.is_alive():  # checked after the descriptor was opened, so it cannot be another process's
            return fd
        os.close(fd)
        return None

    def report(self, config: Config) -> dict[str, Any]:
        """The state as OCI runtime.md "State" describes it, with what runc adds."""
        status = self.status()
        annotations = config.get("annotations")
        return {
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": 0 if status == STOPPED else self.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            **({"annotations": annotations} if annotations else {}),
            "owner": "",  # `list` says it
        }

    def remove(self) -> None:
        """Forgets the container: its directory goes, state.json first of all, so that half a removal is not taken for
        a container.
        """
        below = [f"notify/{name}" for name in _names(f"{self.directory}/notify")]
        for name in ["state.json", *below, *sorted(_names(self.directory))]:
            try:
                os.unlink(f"{self.directory}/{name}")
            except FileNotFoundError:
                pass
            except IsADirectoryError:  # notify, and what a restore leaves that was killed
                os.rmdir(f"{self.directory}/{name}")
        try:
            os.rmdir(self.directory)
        except FileNotFoundError:
            pass


def make(root: str, container_id: str) -> State:
    """A directory for a new container. AlreadyExists when the id is taken."""
    check_id(container_id)
    directory = f"{root}/{container_id}"
    try:
        try:
            os.mkdir(directory, 0o700)
        except FileNotFoundError:
            # an ordinary user's lies in $XDG_RUNTIME_DIR, where "sticky" says: not to be cleaned up
            os.makedirs(root, 0o1700 if os.geteuid() else 0o700, exist_ok=True)
            os.mkdir(directory, 0o700)
    except FileExistsError:
        raise AlreadyExists(f"container with given ID already exists: {container_id}") from None
    except OSError as error:
        raise SyscallError("mkdir", directory, error.errno or 0) from None
    return State(directory, container_id)


def load(root: str, container_id: str) -> State:
    """The container's state. NotFound "container does not exist"; DataLoss for a damaged file."""
    check_id(container_id)
    directory = f"{root}/{container_id}"
    try:
        with open(f"{directory}/state.json", "rb", 0) as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"container does not exist: {container_id}") from None
    try:
        values: Any = fastjson.loads(data)
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']}")
        state = State(directory, container_id)
        for name in State.__slots__:
            if name not in ("directory", "id") and (name in values or name not in _LATER):
                setattr(state, name, values[name])
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"{directory}/state.json is damaged: {error}") from None
    return state


def every(root: str) -> list[State]:
    """All containers under `root`, by name. Directories without a state are passed over."""
    found = []
    for name in sorted(_names(root)):
        try:
            found.append(load(root, name))
        except (NotFound, InvalidArgument):
            continue
    return found


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replaces the file as a whole: readers see the old or the new content."""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}.{os.getpid()}" if directory else f".{name}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise SyscallError("write", path, error.errno or 0) from None


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
