"""Loading and importing: every form of archive gives the same image; a hostile archive gives an error and nothing else."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.images import Entry, ImageSpec, docker_archive, image_config, image_id, layer, write_oci_layout

from wherry.core.archive import Archives
from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.images import Images
from wherry.core.layers import LayerWork
from wherry.core.snapshots import OverlaySnapshots
from wherry.core.unpackers import Unpackers
from wherry.errors import DataLoss, InvalidArgument, NotFound, WherryError
from wherry.spec.reference import parse

SPEC = ImageSpec(
    layers=(layer([Entry("a", b"1")]), layer([Entry("b", b"2")]), layer([Entry(".wh.a")])), config={"Cmd": ["/a"]}
)
Use = Callable[[Images, Archives], Awaitable[None]]


def with_archives(root: Path, use: Use) -> None:
    async def run() -> None:
        db = Database(str(root / "db"))
        snapshots = OverlaySnapshots(str(root / "snapshots"), db)
        images = Images(Content(str(root / "content")), snapshots, db)
        unpackers = Unpackers()
        try:
            await snapshots.open()
            await images.open()
            await use(images, Archives(images, unpackers, LayerWork(snapshots)))
        finally:
            await unpackers.close()
            db.close()

    asyncio.run(run())


async def stream(data: bytes, step: int = 10_007) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


def members(entries: dict[str, bytes | str]) -> bytes:
    """A tar; a value that is text makes a symbolic link, one that begins with "=" a hard link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, value in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(value, str):
                info.type = tarfile.LNKTYPE if value.startswith("=") else tarfile.SYMTYPE
                info.linkname = value.removeprefix("=")
                archive.addfile(info)
            else:
                info.size = len(value)
                archive.addfile(info, io.BytesIO(value))
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def oci_archive(tmp_path: Path, spec: ImageSpec = SPEC, name: str = "some/app:1") -> dict[str, bytes | str]:
    layout = tmp_path / "layout"
    write_oci_layout(str(layout), spec, name)
    return {str(path.relative_to(layout)): path.read_bytes() for path in sorted(layout.rglob("*")) if path.is_file()}


def docker_members(spec: ImageSpec = SPEC, **more: Any) -> dict[str, bytes | str]:
    with tarfile.open(fileobj=io.BytesIO(docker_archive(spec, ["app:1"]))) as archive:
        found: dict[str, bytes | str] = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(found["manifest.json"])
    manifest[0].update(more)
    found["manifest.json"] = json.dumps(manifest).encode()
    return found


@pytest.mark.parametrize(
    "compress",
    [lambda d: d, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["tar", "gzip", "bzip2", "xz", "zstd"],
)
def test_a_docker_archive_is_loaded_however_it_is_compressed(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    messages: list[dict[str, Any]] = []

    async def use(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(compress(docker_archive(SPEC, ["app:1", "team/app:2"]))), messages.append)
        assert image.id == image_id(SPEC)
        assert image.repo_tags == ("app:1", "team/app:2")
        assert len(images.snapshots.lower(image.top)) == 3
        assert len(list(images.content)) == 5

    with_archives(tmp_path, use)
    said = [message["stream"] for message in messages if "stream" in message]
    assert said == ["Loaded image: app:1\n", "Loaded image: team/app:2\n"]
    assert {message["id"] for message in messages if message.get("status") == "Loading layer"} == {
        sha256(d)[:12] for d in SPEC.layers
    }


def test_an_oci_layout_keeps_its_own_manifest(tmp_path: Path) -> None:
    async def use(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(members(oci_archive(tmp_path))), lambda _: None, quiet=True)
        assert (image.id, image.repo_tags) == (image_id(SPEC), ("some/app:1",))
        assert image.target.digest in json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]["digest"]

    with_archives(tmp_path, use)


def test_a_layout_whose_name_is_only_a_tag_gives_an_image_without_a_name(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []

    async def use(images: Images, archives: Archives) -> None:
        [image] = await archives.load(
            stream(members(oci_archive(tmp_path, name="latest"))), messages.append, quiet=True
        )
        assert image.references == ()
        assert messages == [{"stream": f"Loaded image ID: {image.id}\n"}]

    with_archives(tmp_path, use)


def test_an_archive_that_is_both_is_docker_by_name_and_oci_by_manifest(tmp_path: Path) -> None:
    """What Docker 25 and later save."""
    both = oci_archive(tmp_path, name="latest")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    manifest = json.loads(both["blobs/" + index["manifests"][0]["digest"].replace(":", "/")])
    path = {
        key: f"blobs/{key.replace(':', '/')}"
        for key in [manifest["config"]["digest"], *(d["digest"] for d in manifest["layers"])]
    }
    listed = {
        "Config": path[manifest["config"]["digest"]],
        "RepoTags": ["app:1"],
        "Layers": [path[d["digest"]] for d in manifest["layers"]],
    }
    both["manifest.json"] = json.dumps([listed]).encode()

    async def use(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(members(both)), lambda _: None)
        assert (image.id, image.repo_tags) == (image_id(SPEC), ("app:1",))
        assert image.target.digest == index["manifests"][0]["digest"]

    with_archives(tmp_path, use)


def test_layers_may_be_links_to_each_other_as_old_dockers_wrote_them(tmp_path: Path) -> None:
    spec = ImageSpec(layers=(SPEC.layers[0], SPEC.layers[0], SPEC.layers[0]), config={})
    found = docker_members(spec, Layers=["x/layer.tar", "y/layer.tar", "z/layer.tar"])
    found |= {"x/layer.tar": SPEC.layers[0], "y/layer.tar": "../x/layer.tar", "z/layer.tar": "=x/layer.tar"}

    async def use(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(members(found)), lambda _: None)
        assert image.id == image_id(spec)

    with_archives(tmp_path, use)


def test_several_images_of_one_archive_share_their_layers(tmp_path: Path) -> None:
    other = ImageSpec(SPEC.layers[:2], {"Cmd": ["/b"]})
    found = docker_members() | {f"{sha256(image_config(other))}.json": image_config(other)}
    manifest = json.loads(found["manifest.json"])
    manifest.append(
        {"Config": f"{sha256(image_config(other))}.json", "RepoTags": None, "Layers": manifest[0]["Layers"][:2]}
    )
    found["manifest.json"] = json.dumps(manifest).encode()

    async def use(images: Images, archives: Archives) -> None:
        loaded = await archives.load(stream(members(found)), lambda _: None)
        assert [image.id for image in loaded] == [image_id(SPEC), image_id(other)]
        assert len(images.snapshots.layers()) == 3

    with_archives(tmp_path, use)


def test_a_name_that_another_image_had_is_taken_from_it(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = []
    other = ImageSpec(SPEC.layers, {"Cmd": ["/other"]})

    async def use(images: Images, archives: Archives) -> None:
        for spec in (SPEC, other):
            await archives.load(stream(docker_archive(spec, ["app:1"])), messages.append, quiet=True)
        assert images.get("app:1").id == image_id(other)
        assert images.get(image_id(SPEC)).references == ()

    with_archives(tmp_path, use)
    renamed = f"The image app:1 already exists, renaming the old one with ID {image_id(SPEC)} to empty string\n"
    assert {"stream": renamed} in messages


def test_a_layout_for_several_platforms_gives_the_one_of_this_machine(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {}
    entries = []
    for architecture in ("s390x", SPEC.architecture):
        spec = ImageSpec(SPEC.layers, SPEC.config, architecture)
        files |= oci_archive(tmp_path, spec)
        entry = json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]
        entries.append(entry | {"platform": {"os": "linux", "architecture": architecture}, "annotations": {}})
    inner = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    files[f"blobs/sha256/{sha256(inner)}"] = inner
    top = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": f"sha256:{sha256(inner)}",
        "size": len(inner),
        "annotations": {"io.containerd.image.name": "docker.io/library/app:1"},
    }
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()

    async def use(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(members(files)), lambda _: None)
        assert (image.id, image.repo_tags) == (image_id(SPEC), ("app:1",))
        assert image.target.digest == top["digest"]

    with_archives(tmp_path, use)


def hostile(tmp_path: Path) -> dict[str, tuple[bytes, type[WherryError]]]:
    config = f"{sha256(image_config(SPEC))}.json"
    escape = docker_members() | {"../../escaped": b"x", "/escaped": b"x"}
    wrong_blob = oci_archive(tmp_path)
    victim = next(name for name in wrong_blob if name.startswith("blobs/"))
    wrong_blob[victim] = b"something else"
    bad_layer = docker_members()
    bad_layer[next(name for name in bad_layer if name.endswith("layer.tar"))] = layer([Entry("other")])
    traversal = ImageSpec((layer([Entry("../escaped", b"x")]),), {})
    return {
        "nothing in it": (members({}), InvalidArgument),
        "no archive": (b"x" * 5000, InvalidArgument),
        "cut off": (docker_archive(SPEC, ["a:1"])[:20_000], DataLoss),
        "cut off and compressed": (gzip.compress(docker_archive(SPEC, ["a:1"]))[:-50], DataLoss),
        "no manifest": (members({"x": b""}), InvalidArgument),
        "a manifest that is no list": (members({"manifest.json": b"{}"}), InvalidArgument),
        "a manifest that is no JSON": (members({"manifest.json": b"[" * 100_000}), InvalidArgument),
        "a manifest with the wrong types": (members(docker_members(Layers={})), InvalidArgument),
        "a layer outside of the archive": (members(docker_members(Layers=["/etc/passwd"] * 3)), InvalidArgument),
        "a layer above the archive": (members(docker_members(Layers=["../../../etc/passwd"] * 3)), InvalidArgument),
        "a config outside of the archive": (members(docker_members(Config="/etc/passwd")), InvalidArgument),
        "a config that is a number": (members(docker_members(Config=7)), InvalidArgument),
        "a config that is no config": (members(docker_members() | {config: b"[]"}), InvalidArgument),
        "a link out of the archive": (
            members(docker_members(Config="link") | {"link": "/etc/passwd"}),
            InvalidArgument,
        ),
        "links in a circle": (members(docker_members(Config="a") | {"a": "b", "b": "a"}), InvalidArgument),
        "a layer too few": (members(docker_members(Layers=[])), InvalidArgument),
        "another layer than the config says": (members(bad_layer), DataLoss),
        "a name that is none": (members(docker_members(RepoTags=["Not A Name"])), InvalidArgument),
        "a name without a tag": (members(docker_members(RepoTags=["name"])), InvalidArgument),
        "a blob with another digest": (members(wrong_blob), DataLoss),
        "an index that is a manifest": (
            members({"index.json": b'{"schemaVersion":2,"config":{},"layers":[]}'}),
            InvalidArgument,
        ),
        "an image for other machines": (members(_only_for("s390x", tmp_path)), NotFound),
        "a layer that climbs": (members(docker_members(traversal)), InvalidArgument),
        "names that climb": (members(escape | {"manifest.json": b"[{}]"}), InvalidArgument),
    }


def _only_for(architecture: str, tmp_path: Path) -> dict[str, bytes | str]:
    files = oci_archive(tmp_path)
    index = json.loads((tmp_path / "layout/index.json").read_text())
    inner_entries = [index["manifests"][0] | {"platform": {"os": "linux", "architecture": architecture}}]
    inner = json.dumps({"schemaVersion": 2, "manifests": inner_entries}).encode()
    files[f"blobs/sha256/{sha256(inner)}"] = inner
    top = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": f"sha256:{sha256(inner)}",
        "size": len(inner),
    }
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    return files


def test_hostile_archives_are_errors_and_leave_nothing(tmp_path: Path) -> None:
    async def use(images: Images, archives: Archives) -> None:
        for what, (data, kind) in hostile(tmp_path).items():
            with pytest.raises(kind):
                await archives.load(stream(data), lambda _: None)
                pytest.fail(what)
            assert images.list() == images.snapshots.layers() == list(images.content) == [], what
            assert list((tmp_path / "content/ingest").iterdir()) == [], what

    with_archives(tmp_path, use)
    assert not [path for path in tmp_path.rglob("*") if path.name == "escaped"]


def test_a_stream_that_breaks_off_is_that_error(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        yield docker_archive(SPEC, ["a:1"])[:3000]
        raise Broken

    async def use(images: Images, archives: Archives) -> None:
        with pytest.raises(Broken):
            await archives.load(broken(), lambda _: None)
        assert list((tmp_path / "content/ingest").iterdir()) == []

    with_archives(tmp_path, use)


def test_a_load_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def use(images: Images, archives: Archives) -> None:
        waiting = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield docker_archive(SPEC, ["a:1"])[:3000]
            waiting.set()
            await asyncio.Event().wait()

        async with asyncio.TaskGroup() as group:
            load = group.create_task(archives.load(endless(), lambda _: None))
            await waiting.wait()
            load.cancel()
        assert list((tmp_path / "content/ingest").iterdir()) == []

    with_archives(tmp_path, use)


@pytest.mark.parametrize("compress", [lambda d: d, gzip.compress, lzma.compress, zstandard.compress])
def test_a_root_file_system_becomes_an_image_of_one_layer(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = layer([Entry("etc", directory=True, mode=0o755), Entry("etc/hostname", b"x")])

    async def use(images: Images, archives: Archives) -> None:
        image = await archives.import_(
            stream(compress(data)),
            name=parse("imported:1"),
            run={"Cmd": ["/x"]},
            comment="Imported from -",
            platform=None,
        )
        assert image.repo_tags == ("imported:1",)
        assert image.run == {"Cmd": ["/x"]}
        assert image.config["rootfs"]["diff_ids"] == [f"sha256:{sha256(data)}"]
        assert image.config["history"][0]["comment"] == "Imported from -"
        [lower] = images.snapshots.lower(image.top)
        assert (Path(lower) / "etc/hostname").read_bytes() == b"x"

    with_archives(tmp_path, use)


def test_what_is_no_tar_is_not_imported(tmp_path: Path) -> None:
    async def use(images: Images, archives: Archives) -> None:
        with pytest.raises(WherryError):
            await archives.import_(stream(b"no tar" * 1000), name=None, run={}, comment="", platform=None)
        assert images.list() == images.snapshots.layers() == list(images.content) == []

    with_archives(tmp_path, use)
