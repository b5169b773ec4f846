"""Layers as erofs images over their tars: what the kernel shows of them is what the unpacker makes of the same tars."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.snapshot_suite import BASE, CAPABILITY, TOP, directory, file, layer

from wherry.core.drivers import choose_driver
from wherry.core.drivers.erofs import Erofs
from wherry.core.layer_form import LayerForm, unpack_as
from wherry.core.trees import differences
from wherry.core.unpack import Unpacked
from wherry.errors import DataLoss, FailedPrecondition, InvalidArgument, WherryError
from wherry.linux.mounts import mount_overlay
from wherry.linux.remove import remove_tree
from wherry.spec.ids import Digest

pytestmark = pytest.mark.requires("root", "overlay", "erofs")


def unpacked(form: LayerForm, tar: bytes, target: Path, diff_id: str = "") -> Unpacked | str:
    """→ the failure's words, if it fails."""
    target.mkdir(mode=0o755)
    target.chmod(0o755)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return unpack_as(form, io.BytesIO(tar), fd, Digest(diff_id or "sha256:" + hashlib.sha256(tar).hexdigest()))
    except WherryError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        os.close(fd)


def compare(tar: bytes, place: Path) -> Unpacked | str:
    """Both forms of a layer, which must be the same. → what was said of it."""
    tree = unpacked(LayerForm.TREE, tar, place / "tree")
    image = unpacked(LayerForm.EROFS, tar, place / "erofs")
    if isinstance(tree, str) or isinstance(image, str):
        assert str(tree).partition(":")[0] == str(image).partition(":")[0]
        return tree
    assert (tree.size, tree.entries, sorted(tree.implied)) == (image.size, image.entries, sorted(image.implied))
    with Erofs().readable([str(place / "erofs")]) as (mounted,):
        assert list(differences(str(place / "tree"), mounted, tree.implied)) == []
    return image


NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "b/a", "./a/", "c/../a", "a/c", "é" * 100, ".wh.a", "a/.wh.b", "a/.wh..wh..opq", "."])  # fmt: skip
TARGETS = st.sampled_from(["a", "b", "/a", "../a", "a/b", "..", ".", "/", "b/a", "x" * 600, "a/../b"])
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.sampled_from([0, 1, 70_000]),
        "gid": st.sampled_from([0, 1, 2**32 - 2]),
        "mtime": st.sampled_from([0, 1.5, 1_600_000_000, -3]),
        "devmajor": st.integers(0, 2),
        "devminor": st.sampled_from([0, 3, 300]),
        "xattrs": st.dictionaries(st.sampled_from(["security.capability", "user.a", "trusted.b"]), st.just(CAPABILITY), max_size=2),
    }
)  # fmt: skip
SIZES = st.sampled_from([0, 1, 511, 512, 513, 5000])
MEMBERS = st.tuples(NAMES, KINDS, TARGETS, SIZES, FIELDS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(MEMBERS, max_size=10))
def test_whatever_a_tar_holds_both_forms_are_the_same(
    members: list[tuple[str, bytes, str, int, dict[str, object]]],
) -> None:
    rows = []
    for name, kind, target, size, fields in members:
        data = target.encode() if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else os.urandom(size)
        rows.append((name, kind, data if kind in (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE) else b"", fields))
    with tempfile.TemporaryDirectory() as place:
        try:
            compare(layer(*rows), Path(place))
        finally:
            remove_tree(f"{place}/tree")


def test_the_layers_of_the_contract(tmp_path: Path) -> None:
    for number, tar in enumerate((BASE, TOP)):
        (tmp_path / str(number)).mkdir()
        assert isinstance(compare(tar, tmp_path / str(number)), Unpacked)


def test_what_takes_a_directorys_place_has_its_own_time(tmp_path: Path) -> None:
    tar = layer(
        directory("a", mtime=5), file("a", b"1", mtime=6), ("b", tarfile.SYMTYPE, b".", {}), directory("c", mtime=7), directory("b/c", mtime=8)
    )  # fmt: skip
    assert isinstance(compare(tar, tmp_path), Unpacked)
    assert [(tmp_path / "tree" / name).stat().st_mtime for name in "ac"] == [6, 8]


def test_what_needs_many_blocks(tmp_path: Path) -> None:
    """Directories of thousands of names of all lengths, long targets, attributes larger than blocks, a file of many pages."""
    chance = random.Random(4)
    names = {"".join(chance.choices("abcdefgh!~", k=chance.randint(1, 255))) for _ in range(4000)} - {".", ".."}
    tar = layer(
        *(file(f"many/{name}", b"%d" % n, xattrs={"user.n": b"v" * (n % 700)}) for n, name in enumerate(sorted(names))),
        *((f"links/{n}", tarfile.SYMTYPE, b"t" * n, {}) for n in range(1, 1200, 7)),
        file("large", random.Random(5).randbytes(3_000_001), xattrs={"user.large": b"x" * 3000}),
        *(directory(f"d{n}", xattrs={"trusted.t": b"y" * n}) for n in range(0, 900, 3)),
    )
    found = compare(tar, tmp_path)
    assert isinstance(found, Unpacked) and found.entries > 4000


def test_sparse_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "small").open("wb") as made:
        made.seek(100_000)
        made.write(b"in the middle")
        made.truncate(300_001)
    with (source / "huge").open("wb") as made:
        for offset in (0, 5 << 20, (1 << 30) + 77, (1 << 32) + 4095):
            made.seek(offset)
            made.write(b"piece %d" % offset)
    (source / "hole").write_bytes(b"")
    os.truncate(source / "hole", 70_000)
    for version in ("--format=gnu", "--format=posix --sparse-version=0.0", "--format=posix --sparse-version=1.0"):
        place = tmp_path / version[-3:]
        place.mkdir()
        command = ["tar", "-S", *version.split(), "-cf", "-", "-C", source, "small", "hole", "huge"]
        tar = subprocess.run(command, capture_output=True, check=True).stdout
        image = unpacked(LayerForm.EROFS, tar, place / "erofs")
        assert isinstance(image, Unpacked) and image.size == sum(
            (source / n).stat().st_size for n in ("small", "hole", "huge")
        )
        with Erofs().readable([str(place / "erofs")]) as (mounted,):
            for name in ("small", "hole"):
                assert Path(mounted, name).read_bytes() == (source / name).read_bytes()
            with open(f"{mounted}/huge", "rb") as read:
                for offset in (0, 5 << 20, (1 << 30) + 77, (1 << 32) + 4095):
                    wanted = b"piece %d" % offset
                    assert os.pread(read.fileno(), len(wanted), offset) == wanted
                    assert os.pread(read.fileno(), 5, offset + 100_000) == bytes(
                        len(os.pread(read.fileno(), 5, offset + 100_000))
                    )
        assert (place / "erofs/tar").stat().st_blocks * 512 < 4 << 20


def test_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    assert "DataLoss" in str(unpacked(LayerForm.EROFS, BASE, tmp_path / "a", "sha256:" + "0" * 64))
    cut = BASE[:5000]
    assert str(unpacked(LayerForm.EROFS, cut, tmp_path / "b")).startswith(DataLoss.__name__)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.core.tar_index.MAX_ENTRIES", 10)
    found = unpacked(LayerForm.EROFS, layer(*(file(f"f{n}") for n in range(11))), tmp_path / "a")
    assert found == f"{InvalidArgument.__name__}: tar: too many entries for the storage driver erofs"


def test_erofs_does_not_live_on_overlay(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "mnt"):
        (tmp_path / name).mkdir()
    mount_overlay([str(tmp_path / "lower")], str(tmp_path / "upper"), str(tmp_path / "work"), str(tmp_path / "mnt"))
    try:
        with pytest.raises(FailedPrecondition, match=r"driver not supported: erofs: .*is on overlay"):
            choose_driver(str(tmp_path / "mnt"), "erofs")
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
