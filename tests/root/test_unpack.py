"""Layers become files as they were packed; a hostile layer touches nothing outside and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.core.db import Database
from wherry.core.small_layers import MAX_BLOB, MAX_DIRECTORIES, MAX_ENTRIES, MAX_TAR
from wherry.core.snapshots import Snapshots
from wherry.core.unpack import Unpacked, unpack_layer
from wherry.core.unpackers import Growing, Unpackers
from wherry.errors import DataLoss, Internal, InvalidArgument, SyscallError, WherryError
from wherry.linux.mounts import mount_overlay
from wherry.linux.remove import remove_tree
from wherry.spec.ids import ChainId, Digest
from wherry.spec.image import chain_ids

pytestmark = pytest.mark.requires("root")


class Tar:
    """A layer that is being written, member by member."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._archive = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", **fields: object) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size, info.mode = (
            kind,
            link,
            len(data),
            0o755 if kind == tarfile.DIRTYPE else 0o644,
        )
        for key, value in fields.items():
            setattr(info, key, value)
        self._archive.addfile(info, io.BytesIO(data))
        return self

    def directory(self, name: str, **fields: object) -> Tar:
        return self.add(name, tarfile.DIRTYPE, **fields)

    def symlink(self, name: str, link: str) -> Tar:
        return self.add(name, tarfile.SYMTYPE, link=link)

    def hard_link(self, name: str, link: str) -> Tar:
        return self.add(name, tarfile.LNKTYPE, link=link)

    def bytes(self) -> bytes:
        self._archive.close()
        return self._buffer.getvalue()


def unpack(data: bytes, target: Path) -> Unpacked:
    target.mkdir(exist_ok=True)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack_layer(io.BytesIO(data), fd, Digest("sha256:" + hashlib.sha256(data).hexdigest()))
    finally:
        os.close(fd)


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def listing(root: Path) -> list[tuple[object, ...]]:
    """Everything about everything below `root`, to compare two trees."""
    rows: list[tuple[object, ...]] = []
    inodes: dict[int, int] = {}
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([".", *directories, *files]):
            path = Path(directory, name)
            found = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
            target = os.readlink(path) if path.is_symlink() else ""
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
            }
            same = (
                inodes.setdefault(found.st_ino, len(inodes))
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)
                else 0
            )
            rows.append(
                (
                    str(path.relative_to(root)), oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, found.st_rdev,
                    hashlib.sha256(content).hexdigest(), target, xattrs, same,
                )
            )  # fmt: skip
    return rows


# --- faithful


@pytest.fixture
def rich_tree(tmp_path: Path) -> Path:
    """One of everything that a root file system may hold."""
    root = tmp_path / "rich"
    (root / "usr/bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "usr/bin/su").write_bytes(b"#!setuid")
    os.chown(root / "usr/bin/su", 0, 42)
    (root / "usr/bin/su").chmod(0o6755)
    (root / "owned").write_text("x")
    os.chown(root / "owned", 100_000, 4_000_000_000)
    os.link(root / "owned", root / "usr/hard")
    (root / "sym").symlink_to("/usr/bin/su")
    (root / "dangling").symlink_to("../../../nowhere")
    os.mkfifo(root / "pipe", 0o620)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(8, 1))
    (root / ("long-" + "n" * 240)).write_text("long")
    deep = root.joinpath(*["d" * 60] * 10)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(os.urandom(300_000))
    (root / os.fsdecode(b"not-utf8-\xff\xfe")).write_text("bytes")
    (root / "unicode-ü").write_text("ü")
    (root / "empty").write_text("")
    with (root / "sparse").open("wb") as file:
        for n in range(30):
            file.seek(n * 1_000_000)
            file.write(b"data" * 100)
        file.truncate(50_000_000)
    os.setxattr(root / "owned", "user.note", b"\0\1=binary")
    os.setxattr(root / "usr", "user.directory", b"1")
    os.setxattr(root / "usr/bin/su", "security.capability", b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12))
    for n, directory in enumerate([root / "usr/bin", root / "usr", root / "tmp", root]):
        os.utime(directory, ns=(10**18 + n, 10**18 + n * 1000))
    os.utime(root / "sym", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    return root


@pytest.mark.parametrize(
    "options",
    [("--format=posix", "--sparse"), ("--format=posix",), ("--format=posix", "--sparse", "--sparse-version=0.1")],
)
@pytest.mark.parametrize("compress", [None, "gzip", "zstd"])
def test_a_tree_comes_out_as_it_went_in(
    rich_tree: Path, tmp_path: Path, options: tuple[str, ...], compress: str | None
) -> None:
    plain = subprocess.run(
        ["tar", *options, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", str(rich_tree), "-cf", "-", "."],
        capture_output=True,
        check=True,
    ).stdout
    stored = plain
    if compress == "gzip":
        import gzip

        stored = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])
    elif compress == "zstd":
        import zstandard

        stored = zstandard.compress(plain[:5000]) + zstandard.compress(plain[5000:])
    target = tmp_path / "out"
    target.mkdir()
    fd = os.open(target, os.O_RDONLY)
    unpacked = unpack_layer(io.BytesIO(stored), fd, Digest("sha256:" + hashlib.sha256(plain).hexdigest()))
    os.close(fd)
    assert listing(target) == listing(rich_tree)
    assert unpacked.implied == []
    if "--sparse" in options:
        assert (target / "sparse").stat().st_blocks * 512 < 5_000_000


def test_whiteouts_become_what_overlayfs_reads(tmp_path: Path) -> None:
    data = (
        Tar()
        .directory("etc")
        .add("etc/.wh.motd")
        .directory("var")
        .add("var/.wh..wh..opq")
        .add("var/new")
        .add(".wh.gone")
    )
    unpack(data.bytes(), tmp_path)
    assert is_whiteout(tmp_path / "etc/motd") and is_whiteout(tmp_path / "gone")
    assert is_opaque(tmp_path / "var") and (tmp_path / "var/new").exists()
    assert not (tmp_path / "var/.wh..wh..opq").exists()


def test_a_whiteout_does_not_touch_what_the_same_layer_brings(tmp_path: Path) -> None:
    data = (
        Tar().add("a", data=b"1").add(".wh.a").add(".wh.b").add("b", data=b"2").directory("c").add("c/f").add(".wh.c")
    )
    data.add(".wh.d").directory("d").add(".wh.e").add("e/f", data=b"3")
    unpack(data.bytes(), tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("a", "b", "e/f")] == [b"1", b"2", b"3"]
    assert is_opaque(tmp_path / "c") and (tmp_path / "c/f").exists()
    assert is_opaque(tmp_path / "d") and is_opaque(tmp_path / "e")


def test_a_later_member_replaces_an_earlier_one_of_its_name(tmp_path: Path) -> None:
    data = Tar().directory("a").add("a/inside").add("a", data=b"file now").symlink("b", "a").add("b", data=b"no link")
    data.add("c", data=b"1").hard_link("d", "c").add("c", data=b"2").directory("e", mode=0o700).add("e/f").directory(
        "e", mode=0o711
    )
    unpack(data.bytes(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"file now"
    assert (tmp_path / "b").read_bytes() == b"no link" and not (tmp_path / "b").is_symlink()
    assert ((tmp_path / "c").read_bytes(), (tmp_path / "d").read_bytes()) == (b"2", b"1")
    assert (tmp_path / "e/f").exists() and stat.S_IMODE((tmp_path / "e").stat().st_mode) == 0o711


def test_names_are_those_of_the_layer_however_they_are_written(tmp_path: Path) -> None:
    data = Tar().directory("./x/").add("./x//y/./z", data=b"1").add("/rooted", data=b"2").hard_link("h", "/x/y/z")
    unpacked = unpack(data.bytes(), tmp_path)
    assert (tmp_path / "x/y/z").read_bytes() == (tmp_path / "h").read_bytes() == b"1"
    assert (tmp_path / "rooted").read_bytes() == b"2"
    assert unpacked.implied == [b".", b"x/y"]


def test_a_link_inside_of_the_layer_is_followed_inside_of_the_layer(tmp_path: Path) -> None:
    data = (
        Tar()
        .directory("usr")
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .add("lib/a")
        .add("abs/b")
    )
    unpack(data.bytes(), tmp_path)
    assert sorted(os.listdir(tmp_path / "usr/lib")) == ["a", "b"]
    assert (tmp_path / "lib").is_symlink()


def test_a_directory_implied_behind_a_link_is_known_by_its_place(tmp_path: Path) -> None:
    data = Tar().directory("usr").directory("usr/lib").symlink("lib", "usr/lib").symlink("all", "/")
    data.add("lib/x/y/a").add("lib/z/a").add("all/etc/a").directory("usr/lib/x", mode=0o711).directory("lib/q/r")
    unpacked = unpack(data.bytes(), tmp_path)
    assert sorted(unpacked.implied) == [b".", b"etc", b"usr/lib/q", b"usr/lib/x/y", b"usr/lib/z"]


def test_a_name_below_a_link_that_was_replaced_is_what_it_says(tmp_path: Path) -> None:
    data = Tar().directory("a").symlink("b", "a").add("b/c/1").directory("b").add("b/c/2")
    assert unpack(data.bytes(), tmp_path).implied == [b".", b"a/c", b"b/c"]


def test_attributes_of_overlayfs_in_a_tar_are_not_applied(tmp_path: Path) -> None:
    headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.kept": "1",
        "SCHILY.xattr.user.overlay.opaque": "y",
    }
    unpack(Tar().directory("d", pax_headers=headers).bytes(), tmp_path)
    assert os.listxattr(tmp_path / "d") == ["user.kept"]


def test_a_layers_size_is_that_of_its_files_and_links(tmp_path: Path) -> None:
    data = Tar().add("a", data=b"x" * 1000).hard_link("b", "a").symlink("c", "12345").directory("d")
    unpacked = unpack(data.bytes(), tmp_path)
    assert (unpacked.size, unpacked.entries) == (1005, 4)


# --- hostile

HOSTILE = {
    "a name with ..": Tar().add("../escaped"),
    "a name with .. in the middle": Tar().directory("a").add("a/../../escaped"),
    "a directory with ..": Tar().directory("../escaped"),
    "a parent that is a link out": Tar().symlink("evil", "../outside").add("evil/escaped"),
    "a parent that is an absolute link": Tar().symlink("evil", "{outside}").add("evil/escaped"),
    "a link through a link": Tar().symlink("a", "..").symlink("b", "a/outside").add("b/escaped"),
    "a parent that is a link to /proc": Tar().symlink("evil", "/proc/self/cwd").add("evil/escaped"),
    "a hard link to a file outside": Tar().hard_link("h", "../outside/secret"),
    "a hard link to an absolute file outside": Tar().hard_link("h", "{outside}/secret"),
    "a hard link through a link": Tar().symlink("evil", "{outside}").hard_link("h", "evil/secret"),
    "a hard link to a link's name": Tar().hard_link("h", "missing"),
    "a hard link to a directory": Tar().directory("d").hard_link("h", "d"),
    "a hard link to a whiteout": Tar().add(".wh.x").hard_link("h", "x"),
    "a hard link over a directory": Tar().add("f").directory("d").hard_link("d", "f"),
    "a whiteout of nothing": Tar().add(".wh."),
    "a whiteout of the directory": Tar().add(".wh.."),
    "a whiteout of the directory above": Tar().add(".wh..."),
    "a file in place of the root": Tar().add("./."),
    "a link in place of the root": Tar().symlink(".", "{outside}"),
    "a file below a file": Tar().add("f").add("f/g"),
    "a name longer than the file system's": Tar().add("n" * 300),
    "a user that does not fit": Tar().add("f", uid=2**32),
    "the user that means unchanged": Tar().add("f", uid=2**32 - 1),
    "a group that does not fit": Tar().add("f", gid=-1),
    "a time beyond time": Tar().add("f", pax_headers={"mtime": "9" * 30}),
    "a device that does not fit": Tar().add("f", tarfile.CHRTYPE, devmajor=0o7777777, devminor=0o7777777),
    "a file larger than any disk": Tar().add("f", pax_headers={"GNU.sparse.map": "", "GNU.sparse.size": str(1 << 61)}),
    "a file that ends early": Tar().add("f", pax_headers={"size": "99999999999"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile_tars() -> dict[str, bytes]:
    return {name: tar.bytes() for name, tar in HOSTILE.items()}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_layer_is_refused_and_touches_nothing_outside(
    attack: str, tmp_path: Path, hostile_tars: dict[str, bytes]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    before = listing(outside)
    place = str(outside).encode()
    data = hostile_tars[attack]
    if b"{outside}" in data:  # the same length, so that only the checksum changes
        rebuilt = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=rebuilt, mode="w") as new:
            for member in old:
                member.linkname = member.linkname.replace("{outside}", place.decode())
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
        data = rebuilt.getvalue()
    with pytest.raises((InvalidArgument, DataLoss, SyscallError)):
        unpack(data, tmp_path / "layer")
    assert listing(outside) == before
    assert sorted(os.listdir(tmp_path)) == ["layer", "outside"]


NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "out"]), min_size=1, max_size=4
).map("/".join)
MEMBERS = st.tuples(
    st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]),
    NAMES,
    st.one_of(NAMES, st.just("{outside}"), st.just("/"), st.just("../outside/secret")),
)  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MEMBERS, max_size=8))
def test_no_order_of_members_reaches_outside(members: list[tuple[bytes, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        outside, layer = Path(place, "outside"), Path(place, "layer")
        outside.mkdir()
        (outside / "secret").write_text("secret")
        before = listing(outside)
        tar = Tar()
        for kind, name, link in members:
            link = link.replace("{outside}", str(outside)) or "a"
            tar.add(name or "a", kind, link=link if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "", data=b"")
        with contextlib.suppress(InvalidArgument, DataLoss, SyscallError):
            unpack(tar.bytes(), layer)
        assert listing(outside) == before
        assert sorted(os.listdir(place)) == ["layer", "outside"]


# --- in a worker process, or without


MORE = bytes(MAX_BLOB)
"""A file's content that makes a layer large."""


@pytest.fixture(params=["in a thread", "by a worker"])
def begun(request: pytest.FixtureRequest) -> Tar:
    """A small layer, and one that is not."""
    return Tar() if request.param == "in a thread" else Tar().add("more", data=MORE)


def unpack_in_engine(data: bytes, root: Path, diff_id: str | None = None) -> tuple[Unpacked, int]:
    """As wherryd does it. → also the number of workers."""

    async def run() -> tuple[Unpacked, int]:
        (root / "blob").write_bytes(data)
        (root / "fs").mkdir()
        unpackers, before = Unpackers(), children()
        found = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        digest = Digest(diff_id or "sha256:" + hashlib.sha256(found).hexdigest())
        try:
            unpacked = await unpackers.unpack(str(root / "blob"), str(root / "fs"), digest)
            return unpacked, len(children() - before)
        finally:
            await unpackers.close()

    return asyncio.run(run())


def children() -> set[str]:
    """The processes that this one has started."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread has ended
            found.update((task / "children").read_text().split())
    return found


def test_a_layer_is_unpacked_and_reported_as_the_library_does(begun: Tar, tmp_path: Path) -> None:
    data = begun.directory("./").directory("a").add("a/b", data=b"x").bytes()
    (tmp_path / "engine").mkdir()
    unpacked, workers = unpack_in_engine(data, tmp_path / "engine")
    assert unpacked == unpack(data, tmp_path / "library")
    assert listing(tmp_path / "engine/fs") == listing(tmp_path / "library")
    assert workers == (1 if len(data) > MAX_BLOB else 0)


def test_errors_are_passed_on_as_their_kind(begun: Tar, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="outside of the layer"):
        unpack_in_engine(begun.add("../x").bytes(), tmp_path)


def test_failed_system_calls_are_internal(begun: Tar, tmp_path: Path) -> None:
    with pytest.raises(Internal, match='"f/x": not a directory') as caught:
        unpack_in_engine(begun.add("f").add("f/x").bytes(), tmp_path)
    assert caught.type is Internal


def test_a_layer_with_another_diff_id_is_data_loss(begun: Tar, tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="as the image's config says"):
        unpack_in_engine(begun.add("x").bytes(), tmp_path, "sha256:" + "0" * 64)


def many(count: int, name: str) -> bytes:
    tar = Tar()
    for n in range(count):
        tar.add(name.format(n))
    return tar.bytes()


@pytest.mark.parametrize(
    ("data", "workers"),
    [
        (lambda: gzip.compress(Tar().add("f", data=bytes(MAX_TAR - tarfile.RECORDSIZE)).bytes()), 0),
        (lambda: gzip.compress(Tar().add("f", data=bytes(MAX_TAR)).bytes()), 1),
        (lambda: gzip.compress(Tar().add("f").bytes() + bytes(MAX_TAR)), 1),
        (lambda: gzip.compress(many(MAX_ENTRIES, "{}")), 0),
        (lambda: gzip.compress(many(MAX_ENTRIES + 1, "{}")), 1),
        (lambda: gzip.compress(many(MAX_DIRECTORIES, "d{}/f")), 0),
        (lambda: gzip.compress(many(MAX_DIRECTORIES + 1, "d{}/f")), 1),
        (lambda: many(1, "d/" * (MAX_DIRECTORIES + 1) + "f"), 1),
        (lambda: many(1, "d//" * (MAX_DIRECTORIES + 1) + "f"), 1),
    ],
)
def test_what_is_more_than_small_is_not_unpacked_in_the_engine(
    data: Callable[[], bytes], workers: int, tmp_path: Path
) -> None:
    blob = data()
    assert len(blob) <= MAX_BLOB
    unpacked, found = unpack_in_engine(blob, tmp_path)
    assert unpacked.entries
    assert found == workers


def test_a_layer_is_unpacked_while_it_arrives(tmp_path: Path) -> None:
    data = Tar().add("first", data=b"1" * 100_000).add("second", data=b"2" * 3_000_000).bytes()
    consumed: list[int] = []

    async def run() -> None:
        blob = tmp_path / "blob"
        (tmp_path / "fs").mkdir()
        unpackers, growing = Unpackers(), Growing(len(data))
        with blob.open("wb", buffering=0) as file:

            async def arrive() -> None:
                for start in range(0, len(data), 200_000):
                    file.write(data[start : start + 200_000])
                    growing.advance(file.tell())
                    await asyncio.sleep(0)
                growing.finish()

            async with asyncio.TaskGroup() as group:
                group.create_task(arrive())
                group.create_task(
                    unpackers.unpack(
                        str(blob),
                        str(tmp_path / "fs"),
                        Digest("sha256:" + hashlib.sha256(data).hexdigest()),
                        growing=growing,
                        on_consumed=consumed.append,
                    )
                )
        await unpackers.close()

    asyncio.run(run())
    assert (tmp_path / "fs/second").stat().st_size == 3_000_000
    assert consumed == sorted(consumed) and consumed[-1] <= len(data)


def test_a_worker_works_on_after_an_abort(tmp_path: Path) -> None:
    data = Tar().add("f", data=MORE).bytes()
    diff_id = Digest("sha256:" + hashlib.sha256(data).hexdigest())

    async def run() -> None:
        (tmp_path / "blob").write_bytes(data)
        unpackers = Unpackers(limit=1)
        for n in range(3):
            (tmp_path / f"fs{n}").mkdir()
        growing = Growing(len(data))
        growing.advance(600)
        growing.fail()
        with pytest.raises(Internal, match="aborted"):
            await unpackers.unpack(str(tmp_path / "blob"), str(tmp_path / "fs0"), diff_id, growing=growing)
        early = Growing(len(data))
        early.advance(1536)
        with pytest.raises(WherryError):  # answers before everything has arrived
            await unpackers.unpack(str(tmp_path / "missing"), str(tmp_path / "fs1"), diff_id, growing=early)
        await unpackers.unpack(str(tmp_path / "blob"), str(tmp_path / "fs2"), diff_id)
        await unpackers.close()

    asyncio.run(run())
    assert (tmp_path / "fs2/f").exists()


# --- stacks


def snapshots_in(root: Path) -> Iterator[Snapshots]:
    db = Database(str(root / "db"))
    yield Snapshots(str(root / "snapshots"), db)
    db.close()


async def stack(snapshots: Snapshots, layers: list[bytes]) -> ChainId:
    """Unpacks and commits the layers, lowest first. → the topmost."""
    diffs = [Digest("sha256:" + hashlib.sha256(data).hexdigest()) for data in layers]
    chain = chain_ids(diffs)
    staged = []
    for n, data in enumerate(layers):
        new = snapshots.stage(chain[n], chain[n - 1] if n else None, diffs[n])
        new.unpacked = unpack(data, Path(new.fs))
        staged.append(new)
    await snapshots.commit(staged)
    return chain[-1]


@contextlib.contextmanager
def mounted(snapshots: Snapshots, key: str, target: Path) -> Iterator[Path]:
    target.mkdir()
    rootfs = snapshots.mounts(key)
    mount_overlay(rootfs.lower, rootfs.upper, rootfs.work, str(target))
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.requires("overlay")
def test_128_layers_are_one_file_system(tmp_path: Path) -> None:
    layers = [
        Tar().add(f"f{n}", data=b"%d" % n).add("top", data=b"%d" % n).add(f".wh.f{n - 2}").bytes() for n in range(128)
    ]
    for snapshots in snapshots_in(tmp_path):

        async def run(snapshots: Snapshots = snapshots) -> None:
            await snapshots.open()
            await snapshots.prepare("c1", await stack(snapshots, layers))

        asyncio.run(run())
        assert len(snapshots.mounts("c1").lower) == 128 + 1  # the mount points
        with mounted(snapshots, "c1", tmp_path / "mnt") as root:
            assert {"f126", "f127", "top"} <= set(os.listdir(root)) and "f125" not in os.listdir(root)
            assert (root / "top").read_bytes() == b"127"
            (root / "written").write_text("x")
        assert asyncio.run(snapshots.usage("c1")) == (1, 1)


@pytest.mark.requires("overlay")
def test_directories_that_a_layer_does_not_mention_keep_their_attributes(tmp_path: Path) -> None:
    base = (
        Tar()
        .directory("./", mode=0o711, uid=7)
        .directory("a", mode=0o700, uid=1000, mtime=1_000_000_000)
        .directory("a/b", mode=0o1777, gid=5)
    )
    middle = Tar().add("a/b/c/one")
    top = Tar().add("a/b/c/two")
    for snapshots in snapshots_in(tmp_path):

        async def run(snapshots: Snapshots = snapshots) -> None:
            await snapshots.open()
            await snapshots.prepare("c1", await stack(snapshots, [base.bytes(), middle.bytes(), top.bytes()]))

        asyncio.run(run())
        with mounted(snapshots, "c1", tmp_path / "mnt") as root:
            a, b = (root / "a").stat(), (root / "a/b").stat()
            assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_uid) == (0o711, 7)
            assert (stat.S_IMODE(a.st_mode), a.st_uid, a.st_mtime) == (0o700, 1000, 1_000_000_000)
            assert (stat.S_IMODE(b.st_mode), b.st_gid) == (0o1777, 5)
            assert sorted(os.listdir(root / "a/b/c")) == ["one", "two"]


def test_attributes_are_not_inherited_through_a_link_that_a_layer_plants(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True, mode=0o755)
    base = Tar().directory("a").directory("a/b", mode=0o777, uid=1000)
    planted = Tar().add("a/b/c").symlink("a", str(outside))
    for snapshots in snapshots_in(tmp_path):

        async def run(snapshots: Snapshots = snapshots) -> None:
            await snapshots.open()
            await stack(snapshots, [base.bytes(), planted.bytes()])

        asyncio.run(run())
    assert (stat.S_IMODE((outside / "b").stat().st_mode), (outside / "b").stat().st_uid) == (0o755, 0)


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for n in range(3000):
        os.mkdir("d" * 50, dir_fd=fd)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=fd)
        os.close(os.open(f"file{n}", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(str(top))
    assert os.listdir(tmp_path) == []


def test_removal_does_not_follow_links(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (outside / "d").mkdir(parents=True)
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    remove_tree(str(tree))
    (tmp_path / "itself").symlink_to(outside)
    remove_tree(str(tmp_path / "itself"))
    assert os.listdir(tmp_path) == ["outside"] and os.listdir(outside) == ["d"]


def test_what_lies_in_a_directory_with_set_group_id_belongs_to_whom_the_tar_says(tmp_path: Path) -> None:
    data = Tar().directory("a", mode=0o2775, gid=50).add("a/file").symlink("a/link", "file").directory("a/b")
    unpack(data.bytes(), tmp_path)
    assert (tmp_path / "a").stat().st_gid == 50
    assert {name: (tmp_path / "a" / name).lstat().st_gid for name in ("file", "link", "b")} == dict.fromkeys(
        ("file", "link", "b"), 0
    )


def test_the_last_owner_of_a_directory_that_a_tar_has_twice_counts(tmp_path: Path) -> None:
    unpack(Tar().directory("a", uid=5, gid=6).directory("a").bytes(), tmp_path)
    assert ((tmp_path / "a").stat().st_uid, (tmp_path / "a").stat().st_gid) == (0, 0)
