"""Turns a layer's tar into files below one directory, and never outside of it.

Runs in an unpack worker (`unpack_worker`), for small things in wherryd. Everything is done around directory descriptors: a member's directory
is reached component by component without following links; where a component is a link, the kernel resolves it with that directory as its root
(openat2, RESOLVE_IN_ROOT), so that a link can lead to another place in the layer only.

Whiteouts become what overlayfs reads: `.wh.NAME` a character device 0/0, `.wh..wh..opq` the attribute trusted.overlay.opaque.
Sources: OCI image-spec layer.md; kernel Documentation/filesystems/overlayfs.rst; CVE-2021-32760, CVE-2025-47290 (unpacking that touched the host).

**Invariants**: a name with ".." is refused, a leading "/" means the layer's root; nothing that exists is written through (files are made with
O_EXCL); attributes of overlayfs itself in a tar are not applied; owner, mode, xattrs and times are set through the file's own descriptor
wherever it can be opened. What was begun is the caller's to remove when an error is raised.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from wherry.core.compression import CHUNK, Source, decompressed
from wherry.core.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    MAX_SIZE,
    SYMLINK,
    Entry,
    Reader,
    shown,
)
from wherry.errors import DataLoss, InvalidArgument, SyscallError
from wherry.linux.remove import remove_at
from wherry.linux.syscalls import openat2
from wherry.spec.ids import Digest

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

OPAQUE = "trusted.overlay.opaque"
WHITEOUT = b".wh."
WHITEOUT_META = b".wh..wh."
WHITEOUT_OPAQUE = b".wh..wh..opq"
OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")
_OPEN_DIRECTORIES = 400  # of the 1024 descriptors that a process has by default
_MAX_ID = 2**32 - 2
_MAX_TIME = 1 << 40  # seconds
_SMALL = 128 << 10
_MAX_REMEMBERED = (
    128 << 20
)  # bytes of memory for what is known of directories: half a million with names of usual length
_REMEMBERED = 170  # what one takes beside its name


@dataclass(slots=True)
class Unpacked:
    """`size` is the sum of the sizes of files and symbolic links, as Docker counts a layer. `implied`: directories that the tar did not
    mention, each by its place in the layer, without links on the way; whoever stacks the layer gives them the attributes that they have below."""

    size: int = 0
    entries: int = 0
    implied: list[bytes] = field(default_factory=list)


def unpack(reader: Reader, root_fd: int) -> Unpacked:
    """Extracts every entry below `root_fd`, an empty directory that nothing else writes to. InvalidArgument, DataLoss or SyscallError."""
    extractor = _Extractor(root_fd)
    try:
        for entry in reader:
            try:
                extractor.extract(entry, reader)
            except OSError as error:
                raise SyscallError("unpack", shown(entry.name), error.errno or errno.EIO) from None
            except OverflowError:
                raise InvalidArgument(f"tar: {shown(entry.name)} has a number that does not fit") from None
        extractor.finish()
    finally:
        extractor.close()
    return extractor.unpacked


def unpack_layer(source: Source, root_fd: int, diff_id: Digest) -> Unpacked:
    """As `unpack`, of a layer as it is stored or sent. DataLoss unless what it decompresses to has that diff id."""
    hashed = _Hashed(decompressed(source))
    reader = Reader(hashed)
    unpacked = unpack(reader, root_fd)
    reader.drain()
    hashed.check(diff_id)
    return unpacked


def check_diff_id(path: str, diff_id: Digest) -> None:
    """DataLoss unless the layer in that file decompresses to what has that diff id."""
    with open(path, "rb") as file:
        hashed = _Hashed(decompressed(file))
        while hashed.read(CHUNK):
            pass
    hashed.check(diff_id)


class _Hashed:
    """A stream whose digest is computed while it is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = sha256()

    def check(self, diff_id: Digest) -> None:
        found = "sha256:" + self._hash.hexdigest()
        if found != diff_id:
            raise DataLoss(f"layer: its content has the digest {found}, not {diff_id} as the image's config says")

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data


def check_attributes(entry: Entry) -> None:
    """InvalidArgument for an owner or a time that no file can have."""
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        raise InvalidArgument(f"tar: {shown(entry.name)} belongs to an impossible user or group")
    if not -_MAX_TIME < entry.mtime_ns // 1_000_000_000 < _MAX_TIME:
        raise InvalidArgument(f"tar: {shown(entry.name)} has an impossible time")


class _Extractor:
    def __init__(self, root_fd: int) -> None:
        self.unpacked = Unpacked()
        self._root = root_fd
        self._open: dict[bytes, int] = {}  # directory, as tars name it → descriptor
        self._real: dict[bytes, bytes] = {}  # of those that are behind links: → where they are
        self._directory_times: dict[bytes, int] = {}
        self._replaced = False  # whether a directory or a link has gone for something else
        self._implied: dict[bytes, None] = {b".": None}
        self._remembered = 0

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def finish(self) -> None:
        """Sets the directories' times, which their content has changed since."""
        for name, mtime in self._directory_times.items():
            self._trim()
            directory, _, last = name.rpartition(b"/")
            times = (mtime, mtime)
            with contextlib.suppress(
                FileNotFoundError, NotADirectoryError, InvalidArgument
            ):  # replaced later in the tar
                if name == b".":
                    os.utime(self._root, ns=times)
                    continue
                parent = self._parent(directory, make=False)
                if not self._replaced or stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.utime(last, ns=times, dir_fd=parent, follow_symlinks=False)
        self.unpacked.implied = list(self._implied)

    def extract(self, entry: Entry, reader: Reader) -> None:
        self._trim()
        self.unpacked.entries += 1
        check_attributes(entry)
        directory, _, name = entry.name.rstrip(b"/").removeprefix(b"./").rpartition(b"/")
        if name in (b"", b".", b".."):
            directory, name = self._split(entry)
            if not name:
                self._extract_root(entry)
                return
        if name.startswith(WHITEOUT):
            self._whiteout(directory, name)
            return
        parent = self._parent(directory)
        match entry.kind:
            case b"0":
                self._file(entry, reader, parent, name)
            case b"5":
                self._directory(entry, parent, directory, name)
            case b"1":
                self._hard_link(entry, parent, name)
            case b"2":
                self._make(lambda: os.symlink(entry.link, name, dir_fd=parent), parent, name)
                self.unpacked.size += len(entry.link)
                self._dress_by_name(entry, parent, name)
            case _:
                self._node(entry, parent, name)

    # --- directories by name

    @staticmethod
    def _parts(name: bytes) -> list[bytes]:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise InvalidArgument(f"tar: {shown(name)} is outside of the layer")
        return parts

    def _split(self, entry: Entry) -> tuple[bytes, bytes]:
        parts = self._parts(entry.name)
        return (b"/".join(parts[:-1]), parts[-1]) if parts else (b"", b"")

    def _trim(self) -> None:
        """Keeps the number of open directories bounded. Only between entries: an entry may hold two of them."""
        while len(self._open) > _OPEN_DIRECTORIES:
            os.close(self._open.pop(next(iter(self._open))))

    def _parent(self, directory: bytes, *, make: bool = True) -> int:
        """A descriptor of the directory that a tar calls that. Made if it is missing and `make`, else FileNotFoundError."""
        if not directory:
            return self._root
        fd = self._open.get(directory)
        if fd is not None:
            return fd
        parts = self._parts(directory)
        if not parts:
            return self._root
        current, done = self._root, 0
        for count in range(len(parts) - 1, 0, -1):
            known = self._open.get(b"/".join(parts[:count]))
            if known is not None:
                current, done = known, count
                break
        # Only the last directory and those on the way that are new are opened; all stay open until the next `_trim`.
        for count in range(done, len(parts)):
            prefix = b"/".join(parts[: count + 1])
            current = self._open[prefix] = self._enter(current, parts[count], prefix, make=make)
        if b"/".join(parts) != directory and directory not in self._open:
            current = self._open[directory] = os.dup(current)
        return current

    def _enter(self, parent: int, name: bytes, path: bytes, *, make: bool) -> int:
        """Opens the directory `name` in `parent`; `path` is the whole way to it."""
        if self._real:
            self._is_at(path, self._place(path.rpartition(b"/")[0], name))
        try:
            return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not make:
                raise
        except NotADirectoryError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                return self._follow(path)
            if not make or not _is_whiteout(found):
                raise
            os.unlink(name, dir_fd=parent)
            fd = self._imply(parent, name, path)
            os.setxattr(fd, OPAQUE, b"y")
            return fd
        return self._imply(parent, name, path)

    def _follow(self, path: bytes) -> int:
        """Opens a directory behind a link; the layer's directory is the root of the look-up."""
        try:
            fd = openat2(
                self._root, path, os.O_RDONLY | os.O_DIRECTORY, resolve=_RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
            )
        except SyscallError:
            raise InvalidArgument(f"tar: {shown(path)} is a link that leads to no directory of this layer") from None
        with contextlib.suppress(OSError):  # its path is longer than paths are: it keeps the name that the tar gives it
            root, place = (os.readlink(b"/proc/self/fd/%d" % there) for there in (self._root, fd))
            self._is_at(path, place.removeprefix(root).lstrip(b"/"))
        return fd

    def _is_at(self, path: bytes, place: bytes) -> None:
        if place == path:
            self._real.pop(path, None)
        elif self._real.get(path) != place:
            self._count_directory(path + place)
            self._real[path] = place

    def _place(self, directory: bytes, name: bytes) -> bytes:
        """Where `name` in a directory that was entered is, without links on the way."""
        directory = self._real.get(directory, directory)
        return directory + b"/" + name if directory else name

    def _imply(self, parent: int, name: bytes, path: bytes) -> int:
        os.mkdir(name, 0o755, dir_fd=parent)
        self._count_directory(path)
        self._implied[self._real.get(path, path)] = None
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        os.fchmod(fd, 0o755)
        return fd

    # --- entries

    def _make(self, create: Callable[[], object], parent: int, name: bytes) -> bool:
        """Calls `create`; what is in its place already is removed first. → whether that was a whiteout."""
        try:
            create()
            return False
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
                remove_at(parent, name)
                self._forget_all_but(parent)
            else:
                os.unlink(name, dir_fd=parent)
            create()
            return _is_whiteout(found)

    def _forget_all_but(self, keep: int) -> None:
        """A directory or a link has gone: no name may lead to it any more. The descriptor in use stays open until the next entry."""
        self._replaced = True
        for path in [path for path, fd in self._open.items() if fd != keep]:
            os.close(self._open.pop(path))
        self._real = {path: place for path, place in self._real.items() if path in self._open}

    def _file(self, entry: Entry, reader: Reader, parent: int, name: bytes) -> None:
        try:
            fd = os.open(name, _CREATE_FILE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._make(lambda: os.close(os.open(name, _CREATE_FILE, 0o600, dir_fd=parent)), parent, name)
            fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if entry.sparse is not None:
                _write_sparse(fd, entry, reader)
            elif entry.size <= _SMALL:
                if entry.size:
                    _write(fd, reader.whole(entry.size))
            else:
                for piece in reader.data():
                    _write(fd, piece)
            self.unpacked.size += entry.size
            if self.unpacked.size > MAX_SIZE:  # holes cost nothing; what is recorded has 64 bits
                raise InvalidArgument("tar: the sizes of its files add up to more than a layer may have")
            _dress(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _directory(self, entry: Entry, parent: int, directory: bytes, name: bytes) -> None:
        opaque = False
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                opaque = self._make(lambda: os.mkdir(name, 0o700, dir_fd=parent), parent, name)
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        try:
            _dress(fd, entry)
            if opaque:
                os.setxattr(fd, OPAQUE, b"y")
        finally:
            os.close(fd)
        path = self._place(b"/".join(self._parts(directory)), name)
        self._implied.pop(path, None)
        if self._directory_times.pop(path, None) is None:
            self._count_directory(path)
        self._directory_times[path] = entry.mtime_ns

    def _count_directory(self, path: bytes) -> None:
        """Directories are remembered to the end, and compress to next to nothing in a tar."""
        self._remembered += len(path) + _REMEMBERED
        if self._remembered > _MAX_REMEMBERED:
            raise InvalidArgument("tar: too many directories")

    def _extract_root(self, entry: Entry) -> None:
        if entry.kind != DIRECTORY:
            raise InvalidArgument(f"tar: {shown(entry.name)} would replace the layer's root")
        _dress(self._root, entry)
        self._implied.pop(b".", None)
        self._directory_times[b"."] = entry.mtime_ns

    def _hard_link(self, entry: Entry, parent: int, name: bytes) -> None:
        parts = self._parts(entry.link)
        if not parts:
            raise InvalidArgument(f"tar: {shown(entry.name)} is a hard link to the layer's root")
        try:
            source = self._parent(b"/".join(parts[:-1]), make=False)
            found = os.stat(parts[-1], dir_fd=source, follow_symlinks=False)
        except (OSError, SyscallError) as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
            found = None
        if found is None or _is_whiteout(found) or stat.S_ISDIR(found.st_mode):
            raise InvalidArgument(
                f"tar: {shown(entry.name)} is a hard link to {shown(entry.link)}, which is no file of this layer"
            )
        target = parts[-1]

        def link() -> None:
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

        try:
            link()
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                return
            if stat.S_ISDIR(there.st_mode):
                raise InvalidArgument(f"tar: the hard link {shown(entry.name)} would replace a directory") from None
            os.unlink(name, dir_fd=parent)
            link()

    def _node(self, entry: Entry, parent: int, name: bytes) -> None:
        kinds = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
        device = os.makedev(*entry.device) if entry.kind != FIFO else 0
        self._make(lambda: os.mknod(name, kinds[entry.kind] | 0o600, device, dir_fd=parent), parent, name)
        self._dress_by_name(entry, parent, name)

    def _dress_by_name(self, entry: Entry, parent: int, name: bytes) -> None:
        """For what cannot be opened: it was made just now, in a directory that nobody else writes to."""
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        for key, value in _xattrs(entry):
            os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), key, value, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, directory: bytes, name: bytes) -> None:
        if name == WHITEOUT_OPAQUE:
            os.setxattr(self._parent(directory), OPAQUE, b"y")
            return
        if name.startswith(WHITEOUT_META):
            return  # aufs's own files, which old images carry
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArgument(f"tar: {shown(name)} hides nothing that has a name")
        parent = self._parent(directory)
        try:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            os.chown(hidden, 0, 0, dir_fd=parent, follow_symlinks=False)  # as in an image of the layer
        except FileExistsError:
            # It hides what lower layers have under that name; what this layer has stays.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                fd = os.open(hidden, _OPEN_DIRECTORY, dir_fd=parent)
                try:
                    os.setxattr(fd, OPAQUE, b"y")
                finally:
                    os.close(fd)


def _dress(fd: int, entry: Entry) -> None:
    """Owner (root as well: a directory with set-group-id gives its group to what is made in it), then mode (a change of owner clears
    set-user-id), then attributes (it clears capabilities too)."""
    os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, entry.mode)
    for key, value in _xattrs(entry):
        os.setxattr(fd, key, value)


def _xattrs(entry: Entry) -> Iterable[tuple[bytes, bytes]]:
    for key, value in entry.xattrs.items():
        if not key.startswith(OVERLAY_XATTRS):
            yield key, value


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _write_sparse(fd: int, entry: Entry, reader: Reader) -> None:
    pieces = iter(entry.sparse or ())
    offset = left = 0
    for data in reader.data():
        view = memoryview(data)
        while view:
            if not left:
                offset, left = next(pieces)
            taken = os.pwrite(fd, view[:left], offset)
            view, offset, left = view[taken:], offset + taken, left - taken
    os.ftruncate(fd, entry.size)
