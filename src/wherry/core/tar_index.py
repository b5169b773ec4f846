"""Turns a layer's tar into two files: the tar as it came, decompressed, and an erofs image of metadata whose files lie in it.

Runs in an unpack worker, for small things in wherryd: for the driver erofs what `unpack` does for directories. The same reader, the same rules: a
name with ".." is refused; a link on the way leads to another place in the layer only; the last of several entries with one name counts; whiteouts
become what overlayfs reads. Nothing is made under a name that a tar chose.

**Invariants**: memory is bounded by MAX_ENTRIES and MAX_TEXT (the tree is made in memory, the data are not); what follows the archive in the
file `tar` are the data of sparse files, which a tar packs.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from hashlib import sha256
from typing import BinaryIO

from wherry.core.compression import Source, decompressed
from wherry.core.erofs_image import BLOCK, HOLE, MAX_BLOCKS, Node, encode_device, split_xattr, write_image
from wherry.core.tar import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, MAX_SIZE, Entry, Reader, shown
from wherry.core.unpack import (
    OPAQUE,
    OVERLAY_XATTRS,
    WHITEOUT,
    WHITEOUT_META,
    WHITEOUT_OPAQUE,
    Unpacked,
    check_attributes,
)
from wherry.errors import DataLoss, InvalidArgument, SyscallError
from wherry.spec.ids import Digest

TAR = "tar"
IMAGE = "image"
MAX_ENTRIES = 1 << 20
MAX_TEXT = 256 << 20
"""Bytes of all names, targets and attributes of a layer, and of the paths of directories that it implies."""
_MAX_CHUNKS = 1 << 16
_MAX_XATTRS = 64 << 10
_MAX_LINKS = 40  # as the kernel
_NAME_MAX = 255
_DIRECTORY = 170  # what an implied directory counts beside its path
_OPAQUE = OPAQUE.encode()
_COPY = 1 << 20


def index_layer(source: Source, root_fd: int, diff_id: Digest) -> Unpacked:
    """Writes `tar` and `image` into the empty directory `root_fd`. Errors as `unpack.unpack_layer`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with (
            open(os.open(TAR, flags, 0o600, dir_fd=root_fd), "r+b", buffering=0) as tar,
            open(os.open(IMAGE, flags, 0o600, dir_fd=root_fd), "w+b") as image,
        ):
            kept = _Kept(decompressed(source), tar)
            reader = Reader(kept)
            indexer = _Indexer()
            for entry in reader:
                try:
                    indexer.add(entry, kept.position - reader.buffered)
                except OSError as error:
                    raise SyscallError("unpack", shown(entry.name), error.errno or errno.EIO) from None
                except OverflowError:
                    raise InvalidArgument(f"tar: {shown(entry.name)} has a number that does not fit") from None
            reader.drain()
            kept.check(diff_id)
            end = indexer.lay_out_sparse(tar, kept.position)
            write_image(indexer.root, end, image)
            indexer.unpacked.implied = list(indexer.implied)
            return indexer.unpacked
    except OSError as error:
        raise SyscallError("write", "the layer's tar", error.errno or errno.EIO) from None


class _Kept:
    """A stream that is written to a file while it is read."""

    def __init__(self, source: Source, file: BinaryIO) -> None:
        self._source, self._file = source, file
        self._hash = sha256()
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self.position += len(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        return data

    def check(self, diff_id: Digest) -> None:
        found = "sha256:" + self._hash.hexdigest()
        if found != diff_id:
            raise DataLoss(f"layer: its content has the digest {found}, not {diff_id} as the image's config says")


Place = tuple[Node, bytes]
"""A directory, and where it is: its path without links on the way."""


class _Indexer:
    """The tree that a tar makes. Methods as `unpack._Extractor` has them."""

    def __init__(self) -> None:
        self._now = time.time_ns()
        self.root = Node(stat.S_IFDIR | 0o755, mtime_ns=self._now, children={})
        self.unpacked = Unpacked()
        self.implied: dict[bytes, None] = {b".": None}
        self._known: dict[bytes, Place] = {}  # directory, as tars name it
        self._sparse: list[tuple[Node, int, list[tuple[int, int]]]] = []
        self._text = 0

    def add(self, entry: Entry, offset: int) -> None:
        """`offset`: where its data begin in the stream."""
        self.unpacked.entries += 1
        if self.unpacked.entries > MAX_ENTRIES:
            raise InvalidArgument("tar: too many entries for the storage driver erofs")
        self._count_text(len(entry.name) + len(entry.link))
        check_attributes(entry)
        parts = _parts(entry.name)
        if not parts:
            if entry.kind != DIRECTORY:
                raise InvalidArgument(f"tar: {shown(entry.name)} would replace the layer's root")
            self._dress(self.root, entry)
            self.implied.pop(b".", None)
            return
        name = parts.pop()
        if name.startswith(WHITEOUT):
            self._whiteout(parts, name)
            return
        parent, place = self._parent(parts)
        match entry.kind:
            case b"0":
                self._file(entry, offset, parent, name)
            case b"5":
                self._directory(entry, parent, place, name)
            case b"1":
                self._hard_link(entry, parent, name)
            case b"2":
                if len(entry.link) >= 4096:
                    raise OSError(errno.ENAMETOOLONG, "")
                node = Node(stat.S_IFLNK | 0o777, size=len(entry.link), target=entry.link)
                self.unpacked.size += len(entry.link)
                self._put(parent, name, node, entry)
            case _:
                kinds = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
                device = encode_device(*entry.device) if entry.kind != FIFO else 0
                self._put(parent, name, Node(kinds[entry.kind], device=device), entry)

    def _count_text(self, size: int) -> None:
        self._text += size
        if self._text > MAX_TEXT:
            raise InvalidArgument("tar: its names and attributes are too much for the storage driver erofs")

    # --- directories by name

    def _parent(self, parts: list[bytes], *, make: bool = True) -> Place:
        """The directory of that name. Made if it is missing and `make`, else FileNotFoundError."""
        path = b"/".join(parts)
        found = self._known.get(path)
        if found is not None:
            return found
        found = self.root, b""
        for count, name in enumerate(parts):
            found = self._enter(found, name, parts[: count + 1], make=make)
        self._known[path] = found
        return found

    def _enter(self, parent: Place, name: bytes, path: list[bytes], *, make: bool) -> Place:
        directory, place = parent[0], _join(parent[1], name)
        assert directory.children is not None
        found = directory.children.get(name)
        if found is None:
            if not make:
                raise FileNotFoundError(errno.ENOENT, "")
            return self._imply(directory, name, place), place
        if found.is_directory:
            return found, place
        if stat.S_ISLNK(found.mode):
            return self._follow(path)
        if not make or not found.is_whiteout:
            raise NotADirectoryError(errno.ENOTDIR, "")
        made = self._imply(directory, name, place)
        made.xattrs = {_OPAQUE: b"y"}
        return made, place

    def _imply(self, parent: Node, name: bytes, place: bytes) -> Node:
        assert parent.children is not None
        node = Node(stat.S_IFDIR | 0o755, mtime_ns=self._now, children={})
        parent.children[_named(name)] = node
        self.implied[place] = None
        self._count_text(len(place) + _DIRECTORY)
        return node

    def _follow(self, path: list[bytes]) -> Place:
        """The directory that the kernel would find with the layer as the root (openat2, RESOLVE_IN_ROOT)."""
        way = [(self.root, b"")]
        pending = path[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                if len(way) > 1:
                    way.pop()
                continue
            children = way[-1][0].children
            found = children.get(name) if children is not None else None
            if found is not None and stat.S_ISLNK(found.mode):
                links += 1
                if links > _MAX_LINKS:
                    found = None
                else:
                    if found.target.startswith(b"/"):
                        way = way[:1]
                    pending += [part for part in reversed(found.target.split(b"/")) if part not in (b"", b".")]
                    continue
            if found is None or not found.is_directory:
                text = shown(b"/".join(path))
                raise InvalidArgument(f"tar: {text} is a link that leads to no directory of this layer")
            way.append((found, name))
        return way[-1][0], b"/".join(name for _, name in way[1:])

    # --- entries

    def _put(self, parent: Node, name: bytes, node: Node, entry: Entry) -> None:
        self._replace(parent, name, node)
        self._dress(node, entry)

    def _replace(self, parent: Node, name: bytes, node: Node) -> bool:
        """→ whether a whiteout was in its place."""
        assert parent.children is not None
        found = parent.children.get(_named(name))
        parent.children[name] = node
        if found is None:
            return False
        if found.is_directory or stat.S_ISLNK(found.mode):
            self._known.clear()
        return found.is_whiteout

    def _file(self, entry: Entry, offset: int, parent: Node, name: bytes) -> None:
        node = Node(stat.S_IFREG, size=entry.size)
        if entry.sparse is not None:
            self._sparse.append((node, offset, entry.sparse))
        elif entry.size:
            node.chunk_bits = max((entry.size - 1) // BLOCK, 0).bit_length()
            if node.chunk_bits > 31:
                raise InvalidArgument(f"tar: {shown(entry.name)} is too large for the storage driver erofs")
            node.chunks = [offset // BLOCK]
        self.unpacked.size += entry.size
        if self.unpacked.size > MAX_SIZE:
            raise InvalidArgument("tar: the sizes of its files add up to more than a layer may have")
        self._put(parent, name, node, entry)

    def _directory(self, entry: Entry, parent: Node, place: bytes, name: bytes) -> None:
        assert parent.children is not None
        found = parent.children.get(name)
        if found is None or not found.is_directory:
            found = Node(stat.S_IFDIR, children={})
            if self._replace(parent, name, found):
                found.xattrs = {_OPAQUE: b"y"}
        self._dress(found, entry)
        self.implied.pop(_join(place, name), None)

    def _hard_link(self, entry: Entry, parent: Node, name: bytes) -> None:
        parts = _parts(entry.link)
        if not parts:
            raise InvalidArgument(f"tar: {shown(entry.name)} is a hard link to the layer's root")
        try:
            children = self._parent(parts[:-1], make=False)[0].children
            found = children.get(parts[-1]) if children is not None else None
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if found is None or found.is_whiteout or found.is_directory:
            raise InvalidArgument(
                f"tar: {shown(entry.name)} is a hard link to {shown(entry.link)}, which is no file of this layer"
            )
        assert parent.children is not None
        there = parent.children.get(_named(name))
        if there is found:
            return
        if there is not None and there.is_directory:
            raise InvalidArgument(f"tar: the hard link {shown(entry.name)} would replace a directory")
        self._replace(parent, name, found)

    def _whiteout(self, parts: list[bytes], name: bytes) -> None:
        if name == WHITEOUT_OPAQUE:
            node, _ = self._parent(parts)
            node.xattrs = {**(node.xattrs or {}), _OPAQUE: b"y"}
            return
        if name.startswith(WHITEOUT_META):
            return  # aufs's own files, which old images carry
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArgument(f"tar: {shown(name)} hides nothing that has a name")
        children = self._parent(parts)[0].children
        assert children is not None
        found = children.get(hidden)
        if found is None:
            children[_named(hidden)] = Node(stat.S_IFCHR, mtime_ns=self._now)
        elif found.is_directory:  # it hides what lower layers have under that name; what this layer has stays
            found.xattrs = {**(found.xattrs or {}), _OPAQUE: b"y"}

    def _dress(self, node: Node, entry: Entry) -> None:
        node.uid, node.gid, node.mtime_ns = entry.uid, entry.gid, entry.mtime_ns
        if not stat.S_ISLNK(node.mode):
            node.mode = stat.S_IFMT(node.mode) | entry.mode
        wanted = {key: value for key, value in entry.xattrs.items() if not key.startswith(OVERLAY_XATTRS)}
        if not wanted:
            return
        for key, value in wanted.items():
            if key.startswith(b"user.") and not (stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode)):
                raise OSError(errno.EPERM, "")
            found = split_xattr(key)
            if found is None or (not found[1] and key.endswith(b".")):
                raise OSError(errno.EOPNOTSUPP, "")
            if len(key) > _NAME_MAX:
                raise OSError(errno.ERANGE, "")
            self._count_text(len(key) + len(value))
        node.xattrs = {**(node.xattrs or {}), **wanted}
        if sum(len(key) + len(value) + 8 for key, value in node.xattrs.items()) > _MAX_XATTRS:
            raise OSError(errno.ENOSPC, "")

    # --- sparse files

    def lay_out_sparse(self, tar: BinaryIO, end: int) -> int:
        """Copies the data of sparse files to the end of `tar`, each piece where it belongs in its chunk. → where the file ends then."""
        tar.truncate(end := -(-end // BLOCK) * BLOCK)
        for node, offset, pieces in self._sparse:
            if not node.size:
                continue
            blocks = -(-node.size // BLOCK)
            bits = max((blocks - 1).bit_length() - (_MAX_CHUNKS.bit_length() - 1), 0)
            if bits > 31:
                raise InvalidArgument("tar: a sparse file is too large for the storage driver erofs")
            chunk = BLOCK << bits
            node.chunk_bits, node.chunks = bits, [HOLE] * -(-node.size // chunk)
            for start, length in pieces:
                while length:
                    number, within = divmod(start, chunk)
                    if node.chunks[number] == HOLE:
                        node.chunks[number] = end // BLOCK
                        end += chunk
                        if end // BLOCK > MAX_BLOCKS:
                            raise InvalidArgument("tar: its sparse files are too large for the storage driver erofs")
                    taken = min(length, chunk - within, _COPY)
                    _copy(tar.fileno(), offset, node.chunks[number] * BLOCK + within, taken)
                    start, length, offset = start + taken, length - taken, offset + taken
        tar.truncate(end)
        return end


def _copy(fd: int, source: int, target: int, size: int) -> None:
    data = os.pread(fd, size, source)
    while data:
        written = os.pwrite(fd, data, target)
        data, target = data[written:], target + written


def _parts(name: bytes) -> list[bytes]:
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidArgument(f"tar: {shown(name)} is outside of the layer")
    return parts


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _named(name: bytes) -> bytes:
    if len(name) > _NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, "")
    return name
