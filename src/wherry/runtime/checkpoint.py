"""A running container saved to files: what criu is told about it, and which of its mounts and namespaces are not its own.

Runs in `wherry-runc`. `restore` is the way back; `external_mounts` and the namespaces' keys are what both have to agree
on. Source: criu's images/rpc.proto; what runc asks of criu, so that images of either can be compared. **Invariant:** an
image directory is looked through before criu writes to it or reads from it: it holds plain files and links to earlier
images beside it, so no link in it leads criu, who is root, to another file (CVE-2026-53489). Absent: the container's
root file system (the caller's to keep), state files.
"""

from __future__ import annotations

import os
import stat

from wherry import errors
from wherry.errors import FailedPrecondition, InvalidArgument, NotFound, SyscallError, WherryError
from wherry.linux import namespaces, paths
from wherry.runtime import criu
from wherry.runtime import criu_rpc as rpc
from wherry.runtime.state import write_file
from wherry.wire import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from wherry.linux.cgroups import Cgroup
    from wherry.runtime.state import State
    from wherry.spec import oci

DESCRIPTORS = "descriptors.json"
"""What 0, 1 and 2 were, in the image directory; the file and its form are runc's."""
PARENT = "parent"
"""criu's link to the image that a directory continues."""
LAZY_SOCKET = "lazy-pages.socket"
"""Where `criu lazy-pages` listens, in its work directory, which is the images' unless it is told another."""
HOST_CONFIG = "/etc/criu/runc.conf"
"""The administrator's settings for criu under a runtime; may be absent."""
CONFIG_ANNOTATION = "org.criu.config"
EXTERNAL_NAMESPACES = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
"""Namespaces by path that stay outside of an image: OCI name → (name in /proc/PID/ns, criu's key)."""
_CHAIN = 64
_LOG_LEVEL = 4


class Options:
    """What both ways have in common, as runc's options say it. Paths are absolute; "" and None: not asked for."""

    __slots__ = (
        "auto_dedup", "cgroups_mode", "criu", "ext_unix_sk", "file_locks", "image_path", "lazy_pages", "leave_running", "link_remap",
        "lsm_mount_context", "lsm_profile", "page_server", "parent_path", "pre_dump", "shell_job", "status_fd", "tcp_established",
        "tcp_skip_in_flight", "work_path",
    )  # fmt: skip

    def __init__(self) -> None:
        self.criu = ""
        self.image_path = ""
        self.work_path = ""
        self.parent_path = ""  # relative to the image path
        self.cgroups_mode = ""
        self.lsm_profile = ""
        self.lsm_mount_context = ""
        self.page_server: tuple[str, int] | None = None
        self.status_fd = -1
        self.leave_running = self.pre_dump = self.lazy_pages = self.auto_dedup = self.link_remap = False
        self.tcp_established = self.tcp_skip_in_flight = self.ext_unix_sk = self.shell_job = self.file_locks = False

    def for_criu(self, config: oci.Config) -> dict[str, Any]:
        """The part of a request that a dump and a restore share."""
        spaces = (config.get("linux") or {}).get("namespaces") or ()
        network_is_own = any(entry["type"] == "network" and not entry.get("path") for entry in spaces)
        if self.cgroups_mode not in rpc.CGROUP_MODES:
            raise InvalidArgument(f"--manage-cgroups-mode: {self.cgroups_mode!r} is not soft, full, strict or ignore")
        return {
            "log_level": _LOG_LEVEL,
            "notify_scripts": True,
            "manage_cgroups": True,
            "manage_cgroups_mode": rpc.CGROUP_MODES[self.cgroups_mode],
            "shell_job": self.shell_job,
            "ext_unix_sk": self.ext_unix_sk,
            "tcp_established": self.tcp_established,
            "file_locks": self.file_locks,
            "orphan_pts_master": True,
            "auto_dedup": self.auto_dedup,
            "lazy_pages": self.lazy_pages,
            # links and addresses are whoever's made them; in a namespace by path that word makes criu (3.17) leave it locked
            "empty_ns": namespaces.NEWNET if network_is_own else None,
            "config_file": HOST_CONFIG,
        }


def checkpoint(state: State, config: oci.Config, options: Options) -> None:
    """Saves the container's processes to `options.image_path`. They have ended then, unless `leave_running` or `pre_dump`.

    FailedPrecondition with criu's own words when it cannot: then they run on.
    """
    check_config(config)
    request = {
        **options.for_criu(config),
        **_dump_options(state, options),
        "external": list(_external_namespaces(config)),
    }
    with open_directory(options.image_path, make=True) as images, open_directory(options.work_path, make=True) as work:
        check_images(images.fd, options.image_path)
        given = [fd for fd in (images.fd, work.fd) if fd >= 0]
        request["images_dir_fd"], request["log_file"] = criu.FIRST, "dump.log"
        request["work_dir_fd"] = criu.FIRST + 1 if options.work_path else None
        if not options.pre_dump:
            request["ext_mnt"] = [{"key": point, "val": name} for point, name in _dumped_mounts(state, config)]
            write_file(f"{options.image_path}/{DESCRIPTORS}", fastjson.dumps(state.descriptors))
        if options.pre_dump or options.lazy_pages:
            require_features(options, {"mem_track": options.pre_dump, "lazy_pages": options.lazy_pages})
        kind = rpc.PRE_DUMP if options.pre_dump else rpc.DUMP
        with criu.Session(options.criu, prepare=lambda: given, keep=tuple(given)) as session:
            ask(session, {"type": kind, "opts": request}, options, "dump.log", lambda *seen: _on_notify(options, *seen))


def _dump_options(state: State, options: Options) -> dict[str, Any]:
    group = state.cgroup()
    return {
        "pid": state.pid,
        "root": state.rootfs,
        "leave_running": options.leave_running,
        "tcp_skip_in_flight": options.tcp_skip_in_flight,
        "link_remap": options.link_remap,
        "freeze_cgroup": group.paths.get("freezer") or group.paths.get(""),
        "parent_img": options.parent_path or None,
        "track_mem": True if options.parent_path else None,
        "ps": {"address": options.page_server[0], "port": options.page_server[1]} if options.page_server else None,
    }


def _on_notify(options: Options, script: str, _pid: int, fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
    if script == "status-ready" and options.status_fd >= 0:
        os.write(options.status_fd, b"\0")


def ask(session: criu.Session, request: dict[str, Any], options: Options, log: str, on_notify: Any) -> dict[str, Any]:
    """criu's answer; an error of its gets the lines of its log that say why, and the log's place."""
    try:
        return session.ask(request, on_notify)
    except FailedPrecondition as error:
        place = f"{options.work_path or options.image_path}/{log}"
        said = criu.errors_of(place)
        raise FailedPrecondition(f"{error}{f': {said}' if said else ''}\nlog file: {place}") from None


def require_features(options: Options, wanted: dict[str, bool]) -> None:
    """FailedPrecondition naming what this criu on this kernel lacks."""
    with criu.Session(options.criu) as session:
        found = session.ask({"type": rpc.FEATURE_CHECK, "features": wanted}).get("features", {})
    missing = [name for name, is_wanted in wanted.items() if is_wanted and not found.get(name)]
    if missing:
        raise FailedPrecondition(f"criu is missing features: {', '.join(missing)} (does this kernel have them?)")


def check_config(config: oci.Config) -> None:
    """NotImplemented for what criu cannot be used with."""
    if not any(entry["type"] == "mount" for entry in (config.get("linux") or {}).get("namespaces") or ()):
        raise errors.NotImplemented(
            "linux.namespaces: a container without a mount namespace of its own is not checkpointed"
        )
    _check_annotations(config)


def _check_annotations(config: oci.Config) -> None:
    """A file of settings for criu, named by who made the bundle, could make it run any program: refused (CVE-2026-53492)."""
    if (config.get("annotations") or {}).get(CONFIG_ANNOTATION):
        raise errors.NotImplemented(
            f"annotation {CONFIG_ANNOTATION}: wherry-runc lets no bundle configure criu, only {HOST_CONFIG}"
        )


# ------------------------------------------------------------------------------------------------------- image directories


class Directory:
    """An open directory and its path; `fd` is -1 for none."""

    __slots__ = ("fd", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def open_here(self) -> int:
        """The same directory once more, by its path, in a mount namespace that was copied meanwhile."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if not os.path.sameopenfile(fd, self.fd):
            raise FailedPrecondition(f"{self.path} was replaced by another directory")
        return fd


def open_directory(path: str, *, make: bool = False) -> Directory:
    """`path`, made with mode 0700 if `make`; nothing for ""."""
    if not path:
        return Directory(-1, "")
    try:
        if make:
            os.makedirs(path, 0o700, exist_ok=True)
        return Directory(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)
    except FileNotFoundError:
        raise NotFound(f"image directory {path} does not exist") from None
    except FileExistsError:
        raise InvalidArgument(f"image directory {path} is not a directory") from None
    except OSError as error:
        raise SyscallError("open", path, error.errno or 0) from None


def check_images(fd: int, path: str, *, lazily: bool = False) -> None:
    """InvalidArgument unless the directory, and the images that it continues, hold plain files only and can be changed by
    their owner, who is we or root, alone. `lazily`: the socket of a `criu lazy-pages` may be there.
    """
    current = os.dup(fd)
    for _ in range(_CHAIN):
        try:
            status = os.fstat(current)
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                raise InvalidArgument(f"image directory {path}: other users can change it")
            following = _check_entries(current, path, LAZY_SOCKET if lazily else "")
            if following is None:
                return
            path = f"{path}/{following}"
            parent = os.open(following, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
        except OSError as error:
            raise InvalidArgument(f"image directory {path}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(current)
        current = parent
    os.close(current)
    raise InvalidArgument(f"image directory {path}: more than {_CHAIN} images continue one another")


def _check_entries(fd: int, path: str, socket: str) -> str | None:
    """The directory that this one continues."""
    following = None
    for name in os.listdir(fd):
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode) and name == PARENT:
            following = os.readlink(name, dir_fd=fd)
            if following.startswith("/"):
                raise InvalidArgument(f"image directory {path}: {name} is an absolute link")
        elif not stat.S_ISREG(mode) and not (name == socket and stat.S_ISSOCK(mode)):
            raise InvalidArgument(f"image directory {path}: {name[:80]!r} is not a plain file")
    return following


# ------------------------------------------------------------------------------------------------------ what is not its own


def external_mounts(config: oci.Config, group: Cgroup, root: int) -> Iterator[tuple[str, str | int]]:
    """(mount point, host path) of every mount that shows something of the host's: bind mounts, with their number among the `mounts` in
    place of a path; groups of cgroup v1; the device nodes of a container in a user namespace. Mount points are resolved inside the
    directory `root`.
    """
    for number, mount in enumerate(config.get("mounts") or ()):
        words = mount.get("options") or ()
        if "remount" in words:
            continue
        if mount.get("type") == "bind" or "bind" in words or "rbind" in words:
            yield resolve(root, mount["destination"]), number
        elif mount.get("type") == "cgroup" and group.mode == "v1":
            for _, name, path in group.mounts():
                yield f"{resolve(root, mount['destination'])}/{name}", path
    linux = config.get("linux") or {}
    if any(entry["type"] == "user" for entry in linux.get("namespaces") or ()):
        from wherry.runtime import devices

        for device in devices.wanted(linux.get("devices") or []):
            if device["type"] != "p":
                yield resolve(root, device["path"]), device["path"]


def resolve(root: int, path: str) -> str:
    """`path` with the links inside the directory `root` followed; as it is where nothing is there yet."""
    plain = os.path.normpath("/" + path.lstrip("/"))
    try:
        fd = paths.open_in_root(root, plain)
    except WherryError:
        return plain
    try:
        base, found = os.readlink(f"/proc/self/fd/{root}"), os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    if base == "/":
        return found
    return found[len(base) :] if found.startswith(base + "/") else plain


def _dumped_mounts(state: State, config: oci.Config) -> Iterator[tuple[str, str]]:
    root = os.open(f"/proc/{state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for point, _ in external_mounts(config, state.cgroup(), root):
            yield point, point
        for path in (config.get("linux") or {}).get("maskedPaths") or ():
            try:
                fd = paths.open_in_root(root, path)
            except WherryError:
                continue
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                yield path, "/dev/null"
            os.close(fd)
    finally:
        os.close(root)


def _external_namespaces(config: oci.Config) -> Iterator[str]:
    for entry in (config.get("linux") or {}).get("namespaces") or ():
        if entry.get("path") and entry["type"] in EXTERNAL_NAMESPACES:
            name, key = EXTERNAL_NAMESPACES[entry["type"]]
            try:
                inode = os.stat(entry["path"]).st_ino
            except OSError as error:
                raise SyscallError("stat", entry["path"], error.errno or 0) from None
            yield f"{name}[{inode}]:{key}"
