"""Layers made by hypothesis, header by header as no archiver writes them: whatever they say, they are unpacked or refused.

Each goes to a real unpack worker, as a pulled layer does. Nothing outside changes, the worker goes on to the next, and its memory stays bounded.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.images import Entry, ImageSpec, docker_archive, layer
from tests.root import test_unpack
from tests.root.test_pull import Store, leftovers, store_in
from tests.root.test_unpack import listing

from wherry.core import unpack
from wherry.core.archive import Archives
from wherry.core.layer_form import LayerForm
from wherry.core.layers import LayerWork
from wherry.core.unpackers import _START, Unpackers
from wherry.errors import InvalidArgument, WherryError
from wherry.linux.remove import remove_tree
from wherry.spec.ids import ImageId

pytestmark = pytest.mark.requires("root")

MOST_MEMORY = 100 << 20
"""Of a worker, whatever it unpacks of what is made here."""


# --- tars ------------------------------------------------------------------------------------------------------------------------------


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base_256(value: int, width: int) -> bytes:
    data = bytearray((value & ((1 << (8 * width)) - 1)).to_bytes(width, "big"))
    data[0] |= 0x80
    return bytes(data)


def numbers(width: int) -> st.SearchStrategy[bytes]:
    """A field of a header: sensible, at the edges, or none at all."""
    return st.one_of(
        st.integers(0, 0o7777).map(lambda value: octal(value, width)),
        st.sampled_from([-1, -(1 << 40), 1 << 31, (1 << 32) - 1, 1 << 33, 1 << 62, (1 << 63) - 1]).map(
            lambda value: base_256(value, width)
        ),
        st.sampled_from([b"", b"\xff" * 12, b"99", b" 7 ", b"-1", b"1 2", b"\x80", b"7" * 12]).map(
            lambda text: text[:width].ljust(width, b"\0")
        ),
    )


PARTS = st.sampled_from(
    [b"a", b"b", b"c", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b".wh.", b".wh...", b".wh..wh.x", b".wh..wh.", b"\xff\xfe",
     b"a b", b"n" * 255, b"n" * 256, b".removing-1-0", b"etc", "ü".encode()]
)  # fmt: skip
USUAL = st.sampled_from([b"a", b"b", b"c", b"etc"])
NAMES = st.lists(st.one_of(USUAL, USUAL, USUAL, PARTS), min_size=1, max_size=4).map(b"/".join)
LINKS = st.one_of(
    NAMES,
    st.sampled_from(
        [b"../outside", b"../outside/secret", b"/proc/self/cwd/outside", b"/", b"/proc/self/root", b"l" * 5000]
    ),
)
KINDS = st.sampled_from(
    [*(bytes([code]) for code in b"01234567"), b"\0", b"S", b"D", b"M", b"V", b"N", b"g", b"A", b"\xff"]
)
COMMON = st.sampled_from([b"0", b"0", b"5", b"5", b"2", b"1"])
MAPS = st.lists(st.sampled_from([0, 1, 5, 512, 1 << 20, 1 << 40, (1 << 62) - 1, 1 << 62, 1 << 63, 10**19]), max_size=6)
SIZES = st.sampled_from(
    [b"0", b"5", b"512", b"600", b"-1", b"", b"1e3", b"9223372036854775807", b"99999999999999999999999"]
)
PAX = st.one_of(
    st.tuples(st.sampled_from([b"path", b"GNU.sparse.name"]), st.one_of(NAMES, st.just(b"../outside/secret"))),
    st.tuples(st.just(b"linkpath"), LINKS),
    st.tuples(st.sampled_from([b"size", b"uid", b"gid", b"GNU.sparse.realsize", b"GNU.sparse.size"]), SIZES),
    st.tuples(st.sampled_from([b"mtime", b"atime"]), st.sampled_from([b"0.5", b"-1.5", b"1e9", b"9" * 30, b"1." + b"1" * 40, b"."])),
    st.tuples(
        st.sampled_from(
            [b"user.a", b"trusted.overlay.opaque", b"trusted.overlay.redirect", b"security.capability", b"user.a\0b", b"", b"x" * 300,
             b"system.posix_acl_access", b"nonsense"]
        ).map(lambda name: b"SCHILY.xattr." + name),
        st.one_of(st.binary(max_size=30), st.just(b"v" * 70_000)),
    ),
    st.tuples(st.just(b"GNU.sparse.map"), MAPS.map(lambda numbers: b",".join(b"%d" % number for number in numbers))),
    st.tuples(st.sampled_from([b"GNU.sparse.major", b"GNU.sparse.minor"]), st.sampled_from([b"0", b"1", b"2", b"x"])),
    st.tuples(st.sampled_from([b"GNU.sparse.offset", b"GNU.sparse.numbytes"]), SIZES),
    st.tuples(st.binary(max_size=5), st.binary(max_size=5)),
)  # fmt: skip


def header(
    name: bytes, kind: bytes, *, link: bytes = b"", size: bytes, fields: list[bytes], tail: bytes = b""
) -> bytes:
    """`fields`: mode, uid, gid, mtime, major, minor. `tail`: what is in place of the ustar prefix (old GNU: the sparse map)."""
    mode, uid, gid, mtime, major, minor = fields
    block = bytearray(
        name[:100].ljust(100, b"\0") + mode + uid + gid + size + mtime + b" " * 8 + kind + link[:100].ljust(100, b"\0")
        + (b"ustar  \0" if tail else b"ustar\x0000") + bytes(64) + major + minor
    )  # fmt: skip
    block += bytes(41) + tail[:126] if tail else b""
    block = block[:512].ljust(512, b"\0")
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


PLAIN = [octal(0o644, 8), octal(0, 8), octal(0, 8), octal(0, 12), octal(0, 8), octal(0, 8)]


def extension(kind: bytes, data: bytes) -> bytes:
    return header(b"././@LongLink", kind, size=octal(len(data), 12), fields=PLAIN) + padded(data)


def old_map(pieces: list[int], more: int) -> bytes:
    text = b"".join(base_256(number, 12) if number >= 1 << 33 else octal(number, 12) for number in pieces[:8])
    return text.ljust(96, b"\0") + bytes([more]) + octal(pieces[-1] % (1 << 30) if pieces else 0, 12)


@st.composite
def members(draw: st.DrawFn) -> bytes:
    out = b""
    kind, data = (
        draw(KINDS),
        draw(st.sampled_from([b"", b"data", b"x" * 512, b"y" * 600, b"1\n0\n4\n".ljust(512, b"\0") + b"data"])),
    )
    if draw(st.integers(0, 3)) == 0:
        records = draw(st.lists(PAX, max_size=5))
        text = b"".join(record(key, value) for key, value in records)
        cut = draw(st.sampled_from([0, 0, 0, 0, 1]))
        out += extension(draw(st.sampled_from([b"x", b"x", b"x", b"g", b"X"])), text[: len(text) - cut])
    if draw(st.integers(0, 4)) == 0:
        out += extension(b"L", draw(st.one_of(NAMES, st.just(b"d/" * 2100), st.binary(max_size=20))) + b"\0")
    if draw(st.integers(0, 4)) == 0:
        out += extension(b"K", draw(LINKS) + b"\0")
    honest = draw(st.integers(0, 7)) > 0
    size = octal(len(data), 12) if honest else draw(numbers(12))
    usual = draw(st.integers(0, 5)) > 0
    fields = PLAIN if usual else [draw(numbers(width)) for width in (8, 8, 8, 12, 8, 8)]
    tail = old_map(draw(MAPS), draw(st.sampled_from([0, 0, 1]))) if kind == b"S" else b""
    out += header(draw(NAMES), kind, link=draw(LINKS), size=size, fields=fields, tail=tail)
    return out + padded(data)


def through_link(target: bytes) -> bytes:
    """A link, and a file below what it leads to."""
    zero = octal(0, 12)
    link = header(b"a", b"2", link=target, size=zero, fields=PLAIN)
    return link + header(b"a/secret", b"0", size=zero, fields=PLAIN)


CLIMBS = st.one_of(
    st.sampled_from([b"../x", b"../outside/secret", b"/../x", b"a/../../x"]).map(
        lambda name: header(name, b"0", size=octal(0, 12), fields=PLAIN)
    ),
    st.sampled_from([b"../outside", b"..", b"/proc/self/cwd/outside", b"./../outside"]).map(through_link),
)
MEMBERS = st.one_of(members(), members(), members(), CLIMBS)
TARS = st.tuples(st.lists(MEMBERS, max_size=8).map(b"".join), st.sampled_from([b"", bytes(1024), bytes(512)])).map(
    b"".join
)


# --- a worker --------------------------------------------------------------------------------------------------------------------------


class Worker:
    """A real one, spoken to directly: an unpack worker answers every job, or it is broken."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers: dict[str, int] = {}
        self.outside = root / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("secret")
        self.before = listing(self.outside)
        words = [sys.executable, "-I", "-S", "-c", _START, *(path for path in sys.path if os.path.isabs(path))]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root
        )

    def unpack(self, data: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        (self.root / "blob").write_bytes(data)
        target = self.root / "layer"
        target.mkdir()
        diff = "sha256:" + hashlib.sha256(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).hexdigest()
        job = {
            "blob": str(self.root / "blob"),
            "target": str(target),
            "diff_id": diff,
            "form": LayerForm.TREE,
            "available": len(data),
            "complete": True,
        }
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            if "consumed" not in answer:
                break
        else:
            pytest.fail(self.process.stderr.read().decode())
        remove_tree(str(target))
        assert listing(self.outside) == self.before
        assert sorted(os.listdir(self.root)) == ["blob", "outside"]
        kind = "ok" if "ok" in answer else answer["error"]["kind"]
        self.answers[kind] = self.answers.get(kind, 0) + 1
        return answer

    @property
    def peak(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    def close(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@contextmanager
def worker() -> Iterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="w") as place:
        made = Worker(Path(place))
        try:
            yield made
        finally:
            made.close()


def test_whatever_a_tar_says_it_is_unpacked_or_refused() -> None:
    with worker() as unpacker:

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
        @given(TARS)
        def attack(data: bytes) -> None:
            answer = unpacker.unpack(data)
            assert "ok" in answer or answer["error"]["kind"] in ("InvalidArgument", "DataLoss", "SyscallError"), answer
            if "ok" in answer:
                assert 0 <= answer["ok"]["size"] <= 1 << 62

        attack()
        assert unpacker.peak < MOST_MEMORY
        assert {"ok", "InvalidArgument"} <= set(unpacker.answers), unpacker.answers


def test_an_attribute_whose_name_has_a_nul_is_refused() -> None:
    tar = extension(b"x", record(b"SCHILY.xattr.user.a\0b", b"v")) + header(b"f", b"0", size=octal(0, 12), fields=PLAIN)
    with worker() as unpacker:
        assert unpacker.unpack(tar)["error"]["kind"] == "InvalidArgument"


def test_what_is_remembered_of_directories_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names compress to next to nothing, and stay in memory to the end."""
    monkeypatch.setattr(unpack, "_MAX_REMEMBERED", 100_000)
    many = b"".join(header(b"d%d" % number, b"5", size=octal(0, 12), fields=PLAIN) for number in range(1000))
    with pytest.raises(InvalidArgument, match="too many directories"):
        test_unpack.unpack(many, tmp_path / "mentioned")
    implied = b"".join(header(b"d%d/f" % number, b"0", size=octal(0, 12), fields=PLAIN) for number in range(1000))
    with pytest.raises(InvalidArgument, match="too many directories"):
        test_unpack.unpack(implied, tmp_path / "implied")
    again = header(b"d", b"5", size=octal(0, 12), fields=PLAIN) * 1000
    assert test_unpack.unpack(again, tmp_path / "again").entries == 1000


def test_sizes_that_add_up_to_more_than_64_bits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of holes alone cost nothing, and what a layer's size is recorded in has a limit."""
    monkeypatch.setattr(unpack, "MAX_SIZE", 3 << 40)
    holes = [record(b"GNU.sparse.map", b""), record(b"GNU.sparse.size", b"%d" % (1 << 40))]
    file = extension(b"x", b"".join(holes)) + header(b"f", b"0", size=octal(0, 12), fields=PLAIN)
    assert test_unpack.unpack(file * 3, tmp_path / "fits").size == 3 << 40
    with pytest.raises(InvalidArgument, match="add up"):
        test_unpack.unpack(file * 4, tmp_path / "too-much")


# --- a whole load ----------------------------------------------------------------------------------------------------------------------


def test_a_refused_layer_leaves_no_half_of_itself(tmp_path: Path) -> None:
    """Loaded as the second layer of an image: after an error nothing is recorded and nothing on disk; what was loaded goes whole."""
    seen = {"loaded": 0, "refused": 0}
    below = layer([Entry("a", b"1"), Entry("c/b", b"2")])

    async def load(store: Store, archives: Archives, tar: bytes) -> None:
        async def stream() -> AsyncIterator[bytes]:
            yield docker_archive(ImageSpec((below, tar), {}), ["hostile:latest"])

        try:
            [image] = await archives.load(stream(), lambda _: None, quiet=True)
        except WherryError:
            seen["refused"] += 1
        else:
            seen["loaded"] += 1
            await store.images.delete(ImageId(image.id))
            await store.images.collect()
        assert list(store.images.all()) == []
        assert leftovers(tmp_path) == []

    with asyncio.Runner() as runner:
        context = store_in(tmp_path)
        store = runner.run(context.__aenter__())
        unpackers = Unpackers()
        archives = Archives(store.images, unpackers, LayerWork(store.images.snapshots))

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(TARS)
        def attack(data: bytes) -> None:
            runner.run(load(store, archives, data))

        try:
            attack()
        finally:
            runner.run(unpackers.close())
            runner.run(context.__aexit__(None, None, None))
    assert seen["refused"] > 5, seen
