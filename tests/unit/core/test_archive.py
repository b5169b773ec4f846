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
from wherry.core.save import Saved, save
from wherry.core.snapshots import Snapshots
from wherry.core.unpackers import Unpackers
from wherry.errors import DataLoss, InvalidArgument, NotFound, WherryError
from wherry.spec.ids import ImageId
from wherry.spec.image import Platform
from wherry.spec.reference import parse

SPEC = ImageSpec(
    layers=(layer([Entry("a", b"1")]), layer([Entry("b", b"2")]), layer([Entry(".wh.a")])), config={"Cmd": ["/a"]}
)
Use = Callable[[Images, Archives], Awaitable[None]]


def with_archives(root: Path, use: Use) -> None:
    async def run() -> None:
        root.mkdir(exist_ok=True)
        db = Database(str(root / "db"))
        snapshots = Snapshots(str(root / "snapshots"), db)
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


def index_of_two(tmp_path: Path) -> tuple[dict[str, bytes | str], str, ImageSpec]:
    """An OCI archive of app:1 for s390x and for this machine; the digest of its index; what the foreign image is."""
    files: dict[str, bytes | str] = {}
    entries = []
    foreign = ImageSpec((*SPEC.layers[:2], layer([Entry("foreign", b"x")])), SPEC.config, "s390x")
    for spec in (foreign, SPEC):
        files |= oci_archive(tmp_path, spec)
        entry = json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]
        entries.append(entry | {"platform": {"os": "linux", "architecture": spec.architecture}, "annotations": {}})
    statement = b'{"_type": "https://in-toto.io/Statement/v0.1"}'
    attestation = add_document(
        files,
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": add_blob(files, b"{}", "application/vnd.oci.image.config.v1+json"),
            "layers": [
                add_blob(files, statement, "application/vnd.in-toto+json")
                | {"annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}}
            ],
        },
    )
    marks = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": entries[1]["digest"],
    }
    entries.append(attestation | {"platform": {"os": "unknown", "architecture": "unknown"}, "annotations": marks})
    media_type = "application/vnd.oci.image.index.v1+json"
    top = add_document(files, {"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    signature = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x.signature",
        "config": add_blob(files, b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [add_blob(files, b"signed", "application/x.signature")],
        "subject": top,
    }
    listed = [
        top | {"annotations": {"io.containerd.image.name": "docker.io/library/app:1"}},
        add_document(files, signature),
    ]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": listed}).encode()
    return files, top["digest"], foreign


def add_blob(files: dict[str, bytes | str], data: bytes, media_type: str) -> dict[str, Any]:
    files[f"blobs/sha256/{sha256(data)}"] = data
    return {"mediaType": media_type, "digest": f"sha256:{sha256(data)}", "size": len(data)}


def add_document(files: dict[str, bytes | str], document: dict[str, Any]) -> dict[str, Any]:
    return add_blob(files, json.dumps(document).encode(), document["mediaType"])


S390X = Platform("linux", "s390x")


def test_all_platforms_of_a_layout_are_loaded_as_one_image(tmp_path: Path) -> None:
    files, digest, foreign = index_of_two(tmp_path)

    async def use(images: Images, archives: Archives) -> None:
        messages: list[dict[str, Any]] = []
        [image] = await archives.load(stream(members(files)), messages.append)
        assert (image.id, image.repo_tags, image.target.digest) == (image_id(SPEC), ("app:1",), digest)
        assert messages[-1] == {"stream": "Loaded image: app:1\n"}
        assert [found.id for found in images.list()] == [image.id]
        assert images.get("app:1", S390X).id == image_id(foreign)
        assert images.get(image_id(foreign)).references == ()
        with pytest.raises(NotFound, match="does not provide the specified platform"):
            images.get("app:1", Platform("linux", "riscv64"))
        # everything of it: index, 2 manifests, 2 configs, 4 layers; attestation and statement; signature, its layer; "{}" twice the same
        assert len(list(images.content)) == 9 + 2 + 2 + 1
        await images.delete(image.id)
        assert images.all() == images.snapshots.layers() == list(images.content) == []

    with_archives(tmp_path, use)


def test_one_platform_of_a_layout(tmp_path: Path) -> None:
    files, digest, foreign = index_of_two(tmp_path)

    async def use(images: Images, archives: Archives) -> None:
        with pytest.raises(
            NotFound, match=r"^no images providing the requested platform\(s\) found: \[linux/riscv64\]$"
        ):
            await archives.load(stream(members(files)), lambda _: None, platforms=[Platform("linux", "riscv64")])
        riscv = Platform("linux", "riscv64")
        with pytest.raises(
            NotFound, match=r"^image app:1 in the archive doesn't provide the requested platform \(linux/riscv64\)$"
        ):
            await archives.load(stream(members(files)), lambda _: None, platforms=[S390X, riscv])
        assert images.list() == []
        [image] = await archives.load(stream(members(files)), lambda _: None, platforms=[S390X])
        assert (image.id, image.repo_tags, image.target.digest) == (image_id(foreign), ("app:1",), digest)
        await archives.load(stream(members(files)), lambda _: None)
        assert images.get("app:1").id == image_id(SPEC)  # the one for this machine is shown as soon as it is there
        assert images.get(image_id(foreign)).references == ()
        await images.delete(ImageId(image_id(SPEC)), variants=False)
        assert images.get("app:1").id == image_id(foreign)

    with_archives(tmp_path, use)


@pytest.mark.parametrize("only", [None, S390X])
def test_what_is_saved_is_what_was_loaded(tmp_path: Path, only: Platform | None) -> None:
    files, digest, foreign = index_of_two(tmp_path)
    saved = bytearray()

    async def first(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(members(files)), lambda _: None)
        wanted = images.members(image.target.digest) if only is None else [images.get("app:1", only)]
        item = Saved(image.target, sorted(wanted, key=lambda one: one.id != image.id), [parse("app:1")], only is None)
        save(images.content, [item], saved.extend)

    async def second(images: Images, archives: Archives) -> None:
        [image] = await archives.load(stream(bytes(saved)), lambda _: None)
        assert (image.id, image.repo_tags) == (image_id(foreign if only else SPEC), ("app:1",))
        assert (image.target.digest == digest) == (only is None)

    with_archives(tmp_path / "first", first)
    with_archives(tmp_path / "second", second)
    with tarfile.open(fileobj=io.BytesIO(bytes(saved))) as archive:
        names = {member.name for member in archive if member.isfile()}
        if only is None:
            assert {name for name in names if name.startswith("blobs")} == {name for name in files if "blobs" in name}
        assert {"index.json", "manifest.json", "oci-layout", "repositories"} <= names


def hostile(tmp_path: Path) -> dict[str, tuple[bytes, type[WherryError]]]:
    config = f"{sha256(image_config(SPEC))}.json"
    escape = docker_members() | {"../../escaped": b"x", "/escaped": b"x"}
    wrong_blob = oci_archive(tmp_path)
    victim = next(name for name in wrong_blob if name.startswith("blobs/"))
    wrong_blob[victim] = b"something else"
    other_digest = oci_archive(tmp_path)
    manifest = json.loads(other_digest["index.json"])["manifests"][0]["digest"].partition(":")[2]
    document = json.loads(other_digest[f"blobs/sha256/{manifest}"])
    named = hashlib.sha512(other_digest[f"blobs/sha256/{document['config']['digest'].partition(':')[2]}"]).hexdigest()
    document["config"]["digest"] = f"sha512:{named}"
    changed = json.dumps(document).encode()
    other_digest["index.json"] = other_digest["index.json"].replace(manifest.encode(), sha256(changed).encode())
    other_digest |= {f"blobs/sha256/{sha256(changed)}": changed, f"blobs/sha512/{named}": image_config(SPEC) + b" "}
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
        "a config with another digest, by another algorithm": (members(other_digest), DataLoss),
        "an index that is a manifest": (
            members({"index.json": b'{"schemaVersion":2,"config":{},"layers":[]}'}),
            InvalidArgument,
        ),
        "an index of nothing": (members(_empty_index(tmp_path)), NotFound),
        "a layer that climbs": (members(docker_members(traversal)), InvalidArgument),
        "names that climb": (members(escape | {"manifest.json": b"[{}]"}), InvalidArgument),
    }


def _empty_index(tmp_path: Path) -> dict[str, bytes | str]:
    files = oci_archive(tmp_path)
    index = json.loads((tmp_path / "layout/index.json").read_text())
    return {name: data for name, data in files.items() if index["manifests"][0]["digest"][7:] not in name}


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
