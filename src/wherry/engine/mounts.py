"""`-v`, `--mount`, `--tmpfs` and an image's VOLUMEs: from what the user wrote to `MountPoint`s. Pure; volumes are created by the caller.

Source: Docker's bind specification "source:destination[:options]" and the Mount object of the Engine API. A later entry for the same
destination is an error, except that it replaces an image's VOLUME.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Callable, Iterable

import msgspec

from wherry.engine.records import MountPoint
from wherry.errors import InvalidArgument
from wherry.volumes.model import ANONYMOUS_LABEL
from wherry.wire.engine import HostConfig, Mount, VolumeOptions

_PROPAGATION = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}
_CONSISTENCY = {"consistent", "cached", "delegated"}  # hints for virtual machines; a kernel mount is always consistent
_TMPFS_DEFAULTS = ("nosuid", "nodev", "noexec")


def resolve(
    host: HostConfig, image_volumes: Iterable[str], mounts_of: Callable[[str], list[MountPoint]]
) -> list[MountPoint]:
    """All mounts of a container in the order of their destinations' depth. InvalidArgument in Docker's words.

    `mounts_of`: those of the container that is named. What is mounted explicitly takes the place of what another container had there.
    """
    found: dict[str, MountPoint] = {}
    inherited: dict[str, MountPoint] = {}

    def add(point: MountPoint) -> None:
        if point.destination in found:
            raise InvalidArgument(f"Duplicate mount point: {point.destination}")
        found[point.destination] = point

    for bind in host.binds or []:
        add(_parse_bind(bind))
    for mount in host.mounts or []:
        add(_from_mount(mount))
    for destination, options in (host.tmpfs or {}).items():
        add(
            MountPoint(
                type="tmpfs",
                source="",
                destination=_destination(destination, destination),
                mode=options,
                options=_tmpfs_options(options),
            )
        )
    for spec in host.volumes_from or []:
        inherited |= {point.destination: point for point in _from_container(spec, mounts_of)}
    found = inherited | found
    for destination in image_volumes:
        clean = _destination(destination, destination)
        if clean not in found:
            found[clean] = MountPoint(
                type="volume", source="", destination=clean, name=secrets.token_hex(32), copy_up=True, anonymous=True
            )
    return sorted(found.values(), key=lambda point: (point.destination.count("/"), point.destination))


def _from_container(spec: str, mounts_of: Callable[[str], list[MountPoint]]) -> list[MountPoint]:
    """--volumes-from: "container[:mode]"."""
    ref, _, mode = spec.partition(":")
    if not ref:
        raise InvalidArgument("volumes-from specification cannot be an empty string")
    options = _parse_mode(mode, spec)
    if "nocopy" in options or any(option in _PROPAGATION for option in options):
        raise InvalidArgument(f"invalid mode: {mode}")
    return [
        msgspec.structs.replace(point, read_only=point.read_only or "ro" in options, mode="", copy_up=False)
        for point in mounts_of(ref)
        if point.type != "tmpfs" or point.from_mounts_api
    ]


def _destination(text: str, whole: str) -> str:
    if not text.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{whole}': invalid mount config: invalid mount path: '{text}' mount path must be absolute"
        )
    if "\0" in text:
        raise InvalidArgument(f"invalid volume specification: {whole!r}: NUL in a path")
    clean = posixpath.normpath(text)
    clean = "/" + clean.lstrip("/")
    if clean == "/":
        raise InvalidArgument(
            f"invalid volume specification: '{whole}': invalid mount config: invalid specification: destination can't be '/'"
        )
    return clean


def _parse_bind(text: str) -> MountPoint:
    if "\0" in text:
        raise InvalidArgument(f"invalid volume specification: {text!r}: NUL in a path")
    parts = text.split(":")
    if len(parts) == 1:
        source, destination, mode = "", parts[0], ""
    elif len(parts) == 2:
        (source, destination), mode = parts, ""
    elif len(parts) == 3:
        source, destination, mode = parts
    else:
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    if len(parts) > 1 and not source:
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    options = _parse_mode(mode, text)
    clean = _destination(destination, text)
    if source.startswith("/"):
        if "nocopy" in options:
            raise InvalidArgument(
                f"invalid volume specification: '{text}': invalid mount config for type \"bind\": field VolumeOptions must not be specified"
            )
        return MountPoint(
            type="bind",
            source=posixpath.normpath(source),
            destination=clean,
            read_only="ro" in options,
            mode=mode,
            propagation=next((option for option in options if option in _PROPAGATION), "rprivate"),
            create_source=True,
        )
    if any(option in _PROPAGATION for option in options):
        raise InvalidArgument(f"invalid volume specification: '{text}': invalid mount config: invalid mode: {mode}")
    name = source or secrets.token_hex(32)
    return MountPoint(
        type="volume",
        source="",
        destination=clean,
        name=name,
        read_only="ro" in options,
        mode=mode or "z",
        copy_up="nocopy" not in options,
        anonymous=not source,
    )


def _parse_mode(mode: str, whole: str) -> list[str]:
    options = mode.split(",") if mode else []
    groups = [{"ro", "rw"}, {"z", "Z"}, _PROPAGATION, _CONSISTENCY, {"nocopy"}]
    used: set[int] = set()
    for option in options:
        group = next((index for index, words in enumerate(groups) if option in words), None)
        if group is None or group in used:
            raise InvalidArgument(
                f"invalid volume specification: '{whole}': invalid mount config: invalid mode: {mode}"
            )
        used.add(group)
    return options


def _from_mount(mount: Mount) -> MountPoint:
    def bad(why: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "{mount.type}": {why}')

    if not mount.target:
        raise bad("field Target must not be empty")
    if not mount.target.startswith("/"):
        raise bad(f"invalid mount path: '{mount.target}' mount path must be absolute")
    destination = posixpath.normpath("/" + mount.target.lstrip("/"))
    if destination == "/":
        raise bad("invalid specification: destination can't be '/'")
    match mount.type:
        case "bind":
            return _bind_mount(mount, destination)
        case "volume":
            options = mount.volume_options
            if mount.bind_options or mount.tmpfs_options:
                raise bad("options of another mount type are set")
            subpath = options.subpath if options else ""
            if subpath and not mount.source:
                raise bad("must not set Subpath when using anonymous volumes")
            if subpath and (subpath.startswith("/") or ".." in subpath.split("/") or "\0" in subpath):
                raise bad("subpath must be a relative path within the volume")
            if options and options.driver_config and options.driver_config.name not in ("", "local"):
                raise bad(f"wherry has no volume driver {options.driver_config.name!r}")
            return MountPoint(
                type="volume",
                source="",
                destination=destination,
                name=mount.source or secrets.token_hex(32),
                read_only=mount.read_only,
                mode="z",
                copy_up=not subpath and not (options and options.no_copy),
                anonymous=not mount.source,
                from_mounts_api=True,
                subpath=subpath,
            )
        case "tmpfs":
            return _tmpfs_mount(mount, destination)
        case "npipe" | "cluster" | "image":
            raise InvalidArgument(f"wherry does not support mounts of type {mount.type!r} yet")
        case _:
            raise bad("mount type unknown")


def _bind_mount(mount: Mount, destination: str) -> MountPoint:
    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "bind": {why}')

    if not mount.source:
        raise refuse("field Source must not be empty")
    if not mount.source.startswith("/"):
        raise refuse(f"invalid mount path: '{mount.source}' mount path must be absolute")
    options = mount.bind_options
    propagation = (options.propagation if options else "") or "rprivate"
    if propagation not in _PROPAGATION:
        raise refuse(f"invalid propagation mode: {propagation}")
    if options and options.read_only_non_recursive and options.read_only_force_recursive:
        raise refuse("ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other")
    create = bool(options and options.create_mountpoint)
    source = posixpath.normpath(mount.source)
    if not create and not os.path.lexists(source):
        raise refuse(f"bind source path does not exist: {source}")
    return MountPoint(
        type="bind",
        source=source,
        destination=destination,
        read_only=mount.read_only,
        propagation=propagation,
        recursive=not (options and options.non_recursive),
        read_only_below=not (options and options.read_only_non_recursive),
        from_mounts_api=True,
        create_source=create,
    )


def _tmpfs_mount(mount: Mount, destination: str) -> MountPoint:
    if mount.source:
        raise InvalidArgument('invalid mount config for type "tmpfs": field Source must not be specified')
    words = ["ro"] if mount.read_only else []
    options = mount.tmpfs_options
    if options:
        if options.size_bytes < 0 or options.mode < 0:
            raise InvalidArgument('invalid mount config for type "tmpfs": size and mode must not be negative')
        if options.mode:
            words.append(f"mode={options.mode & 0o7777:o}")
        if options.size_bytes:
            words.append(f"size={options.size_bytes}")
        for pair in options.options or []:
            words.append("=".join(pair))
    text = ",".join(words)
    return MountPoint(
        type="tmpfs", source="", destination=destination, mode=text, options=_tmpfs_options(text), from_mounts_api=True
    )


_TMPFS_FLAGS = {
    "ro",
    "rw",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "dirsync",
    "noatime",
    "atime",
    "nodiratime",
    "relatime",
    "strictatime",
    "mand",
    "nomand",
}
_TMPFS_VALUES = {"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}


def _tmpfs_options(text: str) -> tuple[str, ...]:
    """Docker's defaults (noexec, nosuid, nodev), each taken back by its opposite."""
    asked = [word for word in text.split(",") if word]
    for word in asked:
        key, _, value = word.partition("=")
        if not (word in _TMPFS_FLAGS or (key in _TMPFS_VALUES and value)):
            raise InvalidArgument(f'invalid tmpfs option ["{word}"]')
    opposites = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
    taken_back = {opposites[word] for word in asked if word in opposites}
    return tuple(word for word in _TMPFS_DEFAULTS if word not in taken_back and word not in asked) + tuple(asked)


def volume_settings(host: HostConfig, point: MountPoint) -> tuple[dict[str, str], dict[str, str]]:
    """Labels and driver options that the volume of `point` gets if it is made now."""
    if point.anonymous and not point.from_mounts_api:
        return {ANONYMOUS_LABEL: ""}, {}
    for mount in host.mounts or []:
        if mount.type == "volume" and posixpath.normpath(mount.target) == point.destination:
            options = mount.volume_options or VolumeOptions()
            driver = options.driver_config
            labels = {**(options.labels or {}), **({ANONYMOUS_LABEL: ""} if point.anonymous else {})}
            return labels, dict((driver.options if driver else None) or {})
    return {}, {}


def check_propagation(point: MountPoint) -> None:
    """InvalidArgument when the mount that a bind's source lies on cannot propagate as `point` wants it (mount_namespaces(7)).

    As dockerd, at each start: a mount may be made shared meanwhile.
    """
    wanted = point.propagation.removeprefix("r")
    if point.type != "bind" or wanted not in ("shared", "slave"):
        return
    try:
        fd = os.open(point.source, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # the runtime says it better
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            number = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        fields = next((fields for line in file if (fields := line.split(" "))[0] == number), None)
    if fields is None:
        return
    tags = {tag.partition(":")[0] for tag in fields[6 : fields.index("-")]}
    if "shared" in tags or (wanted == "slave" and "master" in tags):
        return
    kind = "a shared mount" if wanted == "shared" else "a shared or slave mount"
    raise InvalidArgument(f"path {point.source} is mounted on {fields[4]} but it is not {kind}")


def create_bind_source(point: MountPoint) -> None:
    """`-v /missing:/x` makes the directory, as Docker does. InvalidArgument when the path cannot exist."""
    if point.type != "bind":
        return
    try:
        os.stat(point.source)
    except FileNotFoundError:
        if not point.create_source:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            ) from None
        try:
            os.makedirs(point.source, 0o755, exist_ok=True)
        except OSError as error:
            raise InvalidArgument(
                f"error while creating mount source path '{point.source}': mkdir {point.source}: {(error.strerror or '').lower()}"
            ) from error
    except OSError as error:
        raise InvalidArgument(
            f"error while creating mount source path '{point.source}': {(error.strerror or '').lower()}"
        ) from error
