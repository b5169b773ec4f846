"""What every storage driver has to do, on the real kernel: one suite, imported by tests that bring
the fixture `place` (a directory and the driver's name).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import signal
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from wherry.core.db import Database
from wherry.core.drivers import DRIVERS
from wherry.core.drivers.driver import Driver, Prepared
from wherry.core.layer_form import unpack_as
from wherry.core.rootfs import BindRoot, ErofsRoot, FuseOverlayRoot
from wherry.core.snapshots import Snapshots
from wherry.errors import AlreadyExists, FailedPrecondition, NotFound
from wherry.linux import fuse, mounts
from wherry.spec.ids import ChainId, Digest
from wherry.spec.image import chain_ids

Place = tuple[Path, str]
Member = tuple[str, bytes, bytes, dict[str, object]]

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)


def layer(*members: Member) -> bytes:
    """A tar of (name, kind, content or target, further fields; `xattrs` among them)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for n, (name, kind, content, fields) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644, 1_600_000_000 + n
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname, content = content.decode(), b""
            info.size = len(content)
            for key, value in fields.items():
                if key == "xattrs":
                    assert isinstance(value, dict)
                    info.pax_headers = {
                        f"SCHILY.xattr.{name}": data.decode("utf-8", "surrogateescape") for name, data in value.items()
                    }
                else:
                    setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def file(name: str, content: bytes = b"", **fields: object) -> Member:
    return name, tarfile.REGTYPE, content, fields


def directory(name: str, **fields: object) -> Member:
    return name, tarfile.DIRTYPE, b"", fields


BASE = layer(
    directory("./", mode=0o755),
    directory("bin"),
    file("bin/su", b"#!setuid", mode=0o6755, gid=42),
    file("bin/ping", b"ping", xattrs={"security.capability": CAPABILITY}),
    ("bin/hard", tarfile.LNKTYPE, b"bin/su", {}),
    ("bin/link", tarfile.SYMTYPE, b"su", {}),
    directory("etc", uid=1, gid=2, xattrs={"user.directory": b"1"}),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", xattrs={"user.note": b"v"}),
    file("etc/gone", b"1"),
    directory("opaque"),
    file("opaque/hidden", b"1"),
    directory("dir-to-file"),
    file("dir-to-file/x", b"1"),
    file("file-to-dir", b"1"),
    directory("tmp", mode=0o1777),
    ("pipe", tarfile.FIFOTYPE, b"", {"mode": 0o620}),
    ("null", tarfile.CHRTYPE, b"", {"devmajor": 1, "devminor": 3, "mode": 0o666}),
    file("big", b"b" * 300_000),
)
TOP = layer(
    file("etc/.wh.gone"),
    directory("opaque"),
    file("opaque/.wh..wh..opq"),
    file("opaque/shown", b"2"),
    file("dir-to-file", b"2"),
    directory("file-to-dir"),
    file("file-to-dir/y", b"2"),
    file("bin/su", b"replaced"),
    file("implied/way/deep", b"2"),
)
CHANGES = """
echo new > etc/new; rm etc/passwd; rm -r opaque; mkdir opaque; echo o > opaque/o
chmod 600 big; touch -d @0 tmp/t; rm -r file-to-dir; echo f > file-to-dir
mv bin moved; ln etc/new hard; truncate -s 4M sparse; mkfifo fifo; mknod zero c 1 5
"""
EXPECTED = {
    *("C /etc", "A /etc/new", "D /etc/passwd", "C /opaque", "D /opaque/shown", "A /opaque/o", "C /big", "C /tmp", "A /tmp/t"),
    *("C /file-to-dir", "D /bin", "A /moved", "A /moved/su", "A /moved/hard", "A /moved/link", "A /moved/ping", "A /hard"),
    *("A /sparse", "A /fifo", "A /zero"),
}  # fmt: skip


def listing(root: str) -> dict[str, object]:
    """Everything about everything below `root`, but for who owns which inode."""
    rows: dict[str, object] = {}
    linked: dict[int, str] = {}
    for top, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([".", *directories, *files]):
            path = os.path.join(top, name)
            here = os.path.relpath(path, root)
            found = os.lstat(path)
            if stat.S_ISSOCK(found.st_mode):
                continue
            data = hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(found.st_mode) else ""
            target = os.readlink(path) if os.path.islink(path) else ""
            xattrs = {}
            for key in os.listxattr(path, follow_symlinks=False):
                if not key.startswith("trusted.overlay"):
                    xattrs[key] = os.getxattr(path, key, follow_symlinks=False)
            is_new = here == "." or found.st_mtime > 1_700_000_000  # made by this test, not by a layer
            mtime = 0 if is_new else found.st_mtime_ns
            first = linked.setdefault(found.st_ino, here) if not stat.S_ISDIR(found.st_mode) else here
            same = first if first != here else ""
            rows[here] = (
                oct(found.st_mode),
                found.st_uid,
                found.st_gid,
                mtime,
                found.st_rdev,
                data,
                target,
                xattrs,
                same,
            )
    return rows


class Store:
    """Snapshots in a directory, as the engine has them."""

    def __init__(self, root: Path, driver: str | Driver) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self._db = Database(str(root / "db"))
        self.snapshots = Snapshots(
            str(root / "snapshots"), self._db, DRIVERS[driver]() if isinstance(driver, str) else driver
        )
        try:
            asyncio.run(self.snapshots.open())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._db.close()

    def stack(self, layers: Sequence[bytes]) -> ChainId:
        """Unpacks and commits them. → the top."""

        async def run() -> None:
            staged = []
            for n, data in enumerate(layers):
                new = self.snapshots.stage(chain[n], chain[n - 1] if n else None, diffs[n])
                fd = os.open(new.fs, os.O_RDONLY | os.O_DIRECTORY)
                new.unpacked = unpack_as(self.snapshots.driver.form, io.BytesIO(data), fd, diffs[n])
                os.close(fd)
                staged.append(new)
            await self.snapshots.commit(staged)

        diffs = [Digest("sha256:" + hashlib.sha256(data).hexdigest()) for data in layers]
        chain = chain_ids(diffs)
        asyncio.run(run())
        return chain[-1]

    def prepare(self, key: str, top: ChainId | None) -> None:
        asyncio.run(self.snapshots.prepare(key, top))

    def remove(self, key: str) -> None:
        async def run() -> None:
            await self.snapshots.remove(key)
            await self.snapshots.trash.empty()

        asyncio.run(run())

    def changes(self, key: str) -> set[str]:
        return {f"{'CAD'[change.kind]} /{os.fsdecode(change.path)}" for change in self.snapshots.changes(key)}


@contextmanager
def mounted(store: Store, key: str) -> Iterator[str]:
    """The container's root file system, mounted as the shim does."""
    root, pid = store.snapshots.mounts(key), 0
    if isinstance(root, BindRoot):
        fd = mounts.clone_tree(root.path, recursive=True)
    elif isinstance(root, FuseOverlayRoot):
        fd, pid = fuse.open_overlay(list(root.lower), root.upper, root.work)
    elif isinstance(root, ErofsRoot):
        fd = mounts.open_erofs_overlay(list(root.lower), root.upper, root.work)
    else:
        fd = mounts.open_overlay(list(root.lower), root.upper, root.work)
    try:
        yield f"/proc/{os.getpid()}/fd/{fd}/"
    finally:
        os.close(fd)
        if pid:
            os.waitpid(pid, 0)


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    found = Store(place[0] / "engine", place[1])
    yield found
    asyncio.run(found.snapshots.keep_only({}))
    asyncio.run(found.snapshots.trash.empty())
    found.close()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Store]:
    """What every driver is compared with."""
    found = Store(tmp_path / "overlay", "overlay2")
    yield found
    found.close()


def test_a_container_sees_what_overlayfs_shows(store: Store, overlay: Store) -> None:
    trees = []
    for one in (store, overlay):
        top = one.stack([BASE, TOP])
        one.prepare("c1", top)
        with mounted(one, "c1") as root:
            trees.append(listing(root))
        with one.snapshots.view(top) as fd:
            assert listing(f"/proc/self/fd/{fd}") == trees[-1]
        assert one.changes("c1") == set()
    assert trees[0] == trees[1]
    shown = {"etc/hosts", ".dockerenv", "opaque/shown", "implied/way/deep"}
    assert shown <= set(trees[0]) and not {"etc/gone", "opaque/hidden", "dir-to-file/x"} & set(trees[0])


def test_changes_and_the_layer_that_they_make(store: Store) -> None:
    top = store.stack([BASE, TOP])
    store.prepare("c1", top)
    store.prepare("c2", top)
    with mounted(store, "c1") as root:
        subprocess.run(["bash", "-ec", CHANGES], cwd=root, check=True)
        os.setxattr(f"{root}etc/new", "user.new", b"1")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{root}socket")
        assert store.changes("c1") - {"A /socket"} == EXPECTED  # also while it runs
    assert store.changes("c1") - {"A /socket"} == EXPECTED
    assert store.changes("c2") == set()
    tar = io.BytesIO()
    store.snapshots.write_changes("c1", tar.write)
    if store.snapshots.driver.name != "fuse-overlayfs":  # which does not tell of holes
        assert len(tar.getvalue()) < 2 << 20  # the hole of 4 MiB is none of it
    store.prepare("c3", store.stack([BASE, TOP, tar.getvalue()]))
    with mounted(store, "c1") as before, mounted(store, "c3") as after:
        assert listing(before) == listing(after)
    exported = io.BytesIO()
    store.snapshots.export("c1", exported.write)
    exported.seek(0)
    with tarfile.open(fileobj=exported) as archive:
        names = set(archive.getnames())
    assert {"etc/new", "moved/su", "sparse"} <= names and not {"bin", "etc/passwd", "etc/.wh.passwd"} & names


def test_what_is_written_in_place_is_changed(store: Store) -> None:
    store.prepare("c1", store.stack([BASE]))
    with mounted(store, "c1") as root:
        with open(f"{root}big", "r+b") as written:
            written.write(b"x")
        os.setxattr(f"{root}bin/ping", "security.capability", CAPABILITY[:4] + b"\x01" + CAPABILITY[5:])
    assert store.changes("c1") == {"C /big", "C /bin", "C /bin/ping"}
    size, inodes = asyncio.run(store.snapshots.usage("c1"))
    assert 300_000 < size < 310_000 and inodes >= 3


def test_a_base_that_was_thrown_away_is_made_by_who_reads_it(store: Store) -> None:
    """Who asks what to mount does so on the event loop: a driver whose base takes long has none made there."""
    store.prepare("c1", store.stack([BASE]))
    [base] = Path(store.snapshots.root, "init").iterdir()
    store.snapshots.driver.remove(str(base))
    store.snapshots.mounts("c1")
    assert base.exists() == store.snapshots.driver.is_instant
    assert store.changes("c1") == set() and base.exists()
    store.snapshots.driver.remove(str(base))
    with mounted(store, "c1") as root:
        Path(root, "etc/new").write_bytes(b"12345")
    assert asyncio.run(store.snapshots.usage("c1"))[0] >= 5 and base.exists()


def test_128_layers(store: Store) -> None:
    layers = [layer(file(f"f{n}", b"%d" % n), file("last", b"%d" % n)) for n in range(128)]
    store.prepare("c1", store.stack(layers))
    with mounted(store, "c1") as root:
        assert Path(root, "last").read_bytes() == b"127"
        assert len([name for name in os.listdir(root) if name.startswith("f")]) == 128
        Path(root, "f0").unlink()
    assert store.changes("c1") == {"D /f0"}


def test_what_is_not_there_and_what_is_there_already(store: Store) -> None:
    with pytest.raises(NotFound):
        store.prepare("c1", ChainId("sha256:" + "0" * 64))
    store.prepare("c1", None)
    with pytest.raises(AlreadyExists):
        store.prepare("c1", None)
    store.remove("c1")
    store.remove("c1")
    for ask in (store.snapshots.mounts, store.snapshots.changes):
        with pytest.raises(NotFound):
            ask("c1")


def test_containers_and_layers_go_in_any_order(store: Store) -> None:
    top = store.stack([BASE, TOP])
    for key in ("c1", "c2"):
        store.prepare(key, top)
    store.remove("c1")
    with mounted(store, "c2") as root:
        assert Path(root, "bin/su").read_bytes() == b"replaced"
    assert store.snapshots.parents_in_use() == {top}
    store.remove("c2")
    forgotten = store.snapshots.forget([found.chain_id for found in store.snapshots.layers()])
    asyncio.run(store.snapshots.remove_layers(forgotten))
    left = [os.listdir(f"{store.snapshots.root}/{name}") for name in ("layers", "active", "init", "trash")]
    assert left == [[], [], [], []]


@pytest.mark.parametrize("step", ["base", "prepare"])
def test_what_a_killed_engine_was_making_is_gone(place: Place, step: str) -> None:
    root = place[0] / "killed"
    store = Store(root, place[1])
    top = store.stack([BASE, TOP])
    store.close()
    pid = os.fork()
    if pid == 0:
        try:
            dying = Store(root, _dying(place[1], step))
            dying.prepare("c1", top)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    store = Store(root, place[1])
    left = {name: os.listdir(f"{store.snapshots.root}/{name}") for name in ("active", "init", "trash")}
    assert left["active"] == left["trash"] == [] and len(left["init"]) == (0 if step == "base" else 1)
    store.prepare("c1", top)
    assert store.changes("c1") == set()
    store.remove("c1")
    store.close()


def _dying(name: str, step: str) -> Driver:
    """A driver that is killed just before its work is recorded."""
    kind = DRIVERS[name]

    class Dying(kind):  # type: ignore[valid-type, misc]
        def make_base(self, path: str, layers: Sequence[str]) -> None:
            super().make_base(path, layers)
            if step == "base":
                os.kill(os.getpid(), signal.SIGKILL)

        def prepare(self, new: Prepared) -> None:
            super().prepare(new)
            os.kill(os.getpid(), signal.SIGKILL)

    found: Driver = Dying()
    return found


def test_another_drivers_containers_are_refused_and_its_layers_taken_or_refused(place: Place) -> None:
    root, other = place[0] / "other", "overlay2" if place[1] == "vfs" else "vfs"
    store = Store(root, other)
    top = store.stack([BASE])
    store.prepare("c1", top)
    store.close()
    with pytest.raises(FailedPrecondition, match=f"several valid graphdrivers: {other}, {place[1]}"):
        Store(root, place[1])
    store = Store(root, other)
    store.remove("c1")
    store.close()
    if place[1] == "erofs":
        with pytest.raises(FailedPrecondition, match=r"its layers were made with vfs"):
            Store(root, place[1])
        Store(place[0] / "own", place[1]).stack([BASE])
        with pytest.raises(FailedPrecondition, match=r"its layers were made with erofs"):
            Store(place[0] / "own", "vfs")
        return
    store = Store(root, place[1])
    store.prepare("c2", top)
    with mounted(store, "c2") as tree:
        assert Path(tree, "bin/su").read_bytes() == b"#!setuid"
    store.remove("c2")
    store.close()


def test_the_driver_finds_that_it_can_live_there(place: Place) -> None:
    before = os.listdir(place[0])
    driver = DRIVERS[place[1]]()
    driver.probe(str(place[0]))
    assert os.listdir(place[0]) == before
    assert all(len(pair) == 2 for pair in driver.status(str(place[0])))
