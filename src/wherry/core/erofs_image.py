"""Writes the erofs image of a tree whose files' data lie in another file, at multiples of 512 bytes: the metadata alone.

Runs where layers are unpacked. The kernel mounts the two together (Linux 6.12: `source` is the image, `device` the file with the data, neither of
them a block device). Source: the kernel's fs/erofs/erofs_fs.h. Of its forms one each is used: extended inodes; regular files in one chunk with an
index on device 1, sparse ones in more; directories and targets of links inline where they fit into the inode's block, else in blocks of their own;
attributes inline.

**Invariants**: an inode's inline data do not cross a block; names in a directory are sorted by their bytes; the tree is a tree (but for
files with several names). Deliberately absent: compression, a checksum (`fsck` compares layers), shared attributes.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from wherry.errors import InvalidArgument

BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
MAX_BLOCKS = (1 << 32) - 1
HOLE = -1

_SUPER_OFFSET = 1024
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
_DEVICE = struct.Struct("<64sIIHH52x")
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT = struct.Struct("<QHBx")
_CHUNK_INDEX = struct.Struct("<HHI")
_MAGIC = 0xE0F5E1E2
_COMPAT_MTIME = 2
_CHUNKED_FILE, _DEVICE_TABLE = 4, 8
_FLAT_PLAIN, _FLAT_INLINE, _CHUNK_BASED = 0, 2, 4
_EXTENDED = 1
_CHUNK_INDEXES = 0x20
_NID = 32
_MAX_CHUNK_BITS = 31

_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}
_PREFIXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)


@dataclass(slots=True, eq=False)
class Node:
    """`mode` with the type. `chunks`: of a regular file's data, the first block of each chunk of `1 << chunk_bits` blocks, or HOLE."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    device: int = 0
    links: int = 0
    children: dict[bytes, Node] | None = None
    xattrs: dict[bytes, bytes] | None = None
    start: int = 0
    chunk_bits: int = 0
    chunks: list[int] | None = field(default=None)
    nid: int = 0

    @property
    def is_directory(self) -> bool:
        return self.children is not None

    @property
    def is_whiteout(self) -> bool:
        return not self.device and stat.S_ISCHR(self.mode)


def encode_device(major: int, minor: int) -> int:
    """As the kernel's new_encode_dev. OverflowError when a number does not fit."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise OverflowError
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12


def write_image(root: Node, data_size: int, file: BinaryIO) -> None:
    """Writes the image to `file`, an empty one. `data_size`: of the file with the data. InvalidArgument when they do not fit into the format."""
    data_blocks = -(-data_size // BLOCK)
    if data_blocks > MAX_BLOCKS:
        raise InvalidArgument("layer: more than 2 TiB do not fit into an erofs image")
    nodes = list(_walk(root))
    places = []
    position = _SUPER_OFFSET + _SUPER.size + _DEVICE.size
    for node, _ in nodes:
        start, size, tail = _measure(node, position)
        node.nid = start // _NID
        places.append((start, tail))
        position = start + size
    first_block = next_block = -(-position // BLOCK)
    _write_super(file, root, len(nodes), data_blocks)
    written = _SUPER_OFFSET + _SUPER.size + _DEVICE.size
    for (node, parent), (start, tail) in zip(nodes, places, strict=True):
        body = _inode(node, parent, tail, next_block)
        if tail > 0:
            next_block += tail
        file.write(bytes(start - written) + body)
        written = start + len(body)
    file.write(bytes(first_block * BLOCK - written))
    for (node, parent), (_, tail) in zip(nodes, places, strict=True):
        if tail > 0:
            data = _content(node, parent)
            file.write(data + bytes(-len(data) % BLOCK))
    if next_block > MAX_BLOCKS:
        raise InvalidArgument("layer: its metadata do not fit into an erofs image")
    file.seek(_SUPER_OFFSET)
    _write_super(file, root, len(nodes), data_blocks, next_block)


def _walk(root: Node) -> Iterator[tuple[Node, Node]]:
    """Each node once, and the directory that it was found in; counts their names."""
    pending = [(root, root)]
    while pending:
        node, parent = pending.pop()
        yield node, parent
        if node.children is not None:
            for child in node.children.values():
                child.links += 1
                if child.links == 1:
                    pending.append((child, node))


def _measure(node: Node, position: int) -> tuple[int, int, int]:
    """→ where the inode goes, from `position` on; how long it is with what follows it; and how many blocks of its own it has, -1: inline data."""
    start = -(-position // _NID) * _NID
    head = _INODE.size + _xattrs_size(node)
    if node.chunks is not None:
        return start, -(-head // 8) * 8 + 8 * len(node.chunks), 0
    data = _content_size(node)
    if not data:
        return start, head, 0
    inline = head + data
    if data < BLOCK and inline <= BLOCK:
        if start % BLOCK + inline > BLOCK:
            start = -(-start // BLOCK) * BLOCK
        return start, inline, -1
    return start, head, -(-data // BLOCK)


def _inode(node: Node, parent: Node, tail: int, next_block: int) -> bytes:
    layout, union, size = _FLAT_PLAIN, node.device, node.size
    data = b""
    xattrs = _xattrs(node)
    if node.chunks is not None:
        layout, union = _CHUNK_BASED, _CHUNK_INDEXES | node.chunk_bits
        data = bytes(-len(xattrs) % 8) + b"".join(
            _CHUNK_INDEX.pack(0xFFFF, 0, 0xFFFFFFFF) if block == HOLE else _CHUNK_INDEX.pack(0, 1, block)
            for block in node.chunks
        )
    elif tail < 0:
        data = _content(node, parent)
        layout, union, size = _FLAT_INLINE, 0xFFFFFFFF, len(data)
    elif tail > 0:
        union = next_block
        size = len(node.target) or tail * BLOCK
    seconds, nanoseconds = divmod(node.mtime_ns, 1_000_000_000)
    count = (len(xattrs) - 12) // 4 + 1 if xattrs else 0
    links = node.links
    if node.children is not None:
        links = 2 + sum(child.children is not None for child in node.children.values())
    inode = _INODE.pack(
        layout << 1 | _EXTENDED, count, node.mode, 0, size, union, node.nid & 0xFFFFFFFF, node.uid, node.gid, seconds, nanoseconds, links,
    )  # fmt: skip
    return inode + xattrs + data


# --- directories and links -----------------------------------------------------------------------------------------------------------


def _content_size(node: Node) -> int:
    if node.children is None:
        return len(node.target)
    size = used = 0
    for name in sorted([b".", b"..", *node.children]):
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            size += BLOCK
            used = 0
        used += need
    return size + used


def _content(node: Node, parent: Node) -> bytes:
    """Of a directory its blocks: each its entries, then their names; of a link its target."""
    if node.children is None:
        return node.target
    entries = {**node.children, b".": node, b"..": parent}
    pieces: list[bytes] = []
    block: list[bytes] = []
    used = 0
    for name in sorted(entries):
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            pieces.append(_directory_block(block, entries).ljust(BLOCK, b"\0"))
            block, used = [], 0
        block.append(name)
        used += need
    pieces.append(_directory_block(block, entries))
    return b"".join(pieces)


def _directory_block(names: list[bytes], entries: dict[bytes, Node]) -> bytes:
    offset = _DIRENT.size * len(names)
    pieces = []
    for name in names:
        node = entries[name]
        pieces.append(_DIRENT.pack(node.nid, offset, _TYPES[stat.S_IFMT(node.mode)]))
        offset += len(name)
    return b"".join([*pieces, *names])


# --- attributes ----------------------------------------------------------------------------------------------------------------------


def split_xattr(key: bytes) -> tuple[int, bytes] | None:
    """→ the number of its prefix and the rest of the name; None for what the format has no place for."""
    for prefix, index in _PREFIXES:
        if key.startswith(prefix) and (prefix.endswith(b".") or key == prefix):
            return index, key[len(prefix) :]
    return None


def _xattrs_size(node: Node) -> int:
    if not node.xattrs:
        return 0
    size = 12
    for key, value in node.xattrs.items():
        found = split_xattr(key)
        assert found is not None
        size += -(-(4 + len(found[1]) + len(value)) // 4) * 4
    return size


def _xattrs(node: Node) -> bytes:
    if not node.xattrs:
        return b""
    pieces = [bytes(12)]
    for key, value in node.xattrs.items():
        found = split_xattr(key)
        assert found is not None
        index, name = found
        entry = struct.pack("<BBH", len(name), index, len(value)) + name + value
        pieces.append(entry + bytes(-len(entry) % 4))
    return b"".join(pieces)


# --- the superblock ------------------------------------------------------------------------------------------------------------------


def _write_super(file: BinaryIO, root: Node, inodes: int, data_blocks: int, blocks: int = 0) -> None:
    if not blocks:
        file.write(bytes(_SUPER_OFFSET))
    slot = (_SUPER_OFFSET + _SUPER.size) // _DEVICE.size
    fields = (
        _MAGIC, 0, _COMPAT_MTIME, BLOCK_BITS, 0, root.nid, inodes, 0, 0, blocks, 0, 0, bytes(16), bytes(16),
        _CHUNKED_FILE | _DEVICE_TABLE, 0, 1, slot, 0, 0, 0, 0,
    )  # fmt: skip
    file.write(_SUPER.pack(*fields) + _DEVICE.pack(b"", data_blocks, 0, 0, 0))


def patch_inode(file: BinaryIO, nid: int, mode: int, uid: int, gid: int, mtime_ns: int) -> None:
    """Changes what an image that nobody has mounted says of an inode."""
    file.seek(nid * _NID)
    fields = list(_INODE.unpack(file.read(_INODE.size)))
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    fields[2] = mode
    fields[7:11] = uid, gid, seconds, nanoseconds
    file.seek(nid * _NID)
    file.write(_INODE.pack(*fields))
