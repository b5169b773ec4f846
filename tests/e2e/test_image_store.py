"""Images as a store through the real docker CLI: save and load, several platforms under one name, what is attached to them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd
from tests.e2e.parity import DOCKER, WHERRY, ask
from tests.images import Entry, ImageSpec, busybox_layer, image_id
from tests.registry import docker_registry, skopeo_copy

pytestmark = pytest.mark.requires("registry", "skopeo")

HERE = ImageSpec((busybox_layer(), images.layer([Entry("where", b"here\n")])), {"Cmd": ["cat", "/where"]})
OTHER = ImageSpec(
    (busybox_layer(), images.layer([Entry("where", b"elsewhere\n")])),
    {"Cmd": ["cat", "/where"]},
    "arm64" if HERE.architecture == "amd64" else "amd64",
)
HERE_PLATFORM, OTHER_PLATFORM = f"linux/{HERE.architecture}", f"linux/{OTHER.architecture}"
MULTI = "one platform each"


def write_index(directory: Path) -> str:
    """An OCI layout of an index of both, with provenance for the first; → the index's digest."""
    listed: list[dict[str, Any]] = []
    for spec in (HERE, OTHER):
        images.write_oci_layout(str(directory), spec)
        entry = json.loads((directory / "index.json").read_text())["manifests"][0]
        listed.append(entry | {"platform": {"os": "linux", "architecture": spec.architecture}, "annotations": {}})

    def put(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (directory / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    statement = {"_type": "https://in-toto.io/Statement/v0.1", "predicate": {"made": "by a test"}}
    predicate = {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": put(b'{"architecture":"unknown","os":"unknown"}', "application/vnd.oci.image.config.v1+json"),
        "layers": [put(json.dumps(statement).encode(), "application/vnd.in-toto+json", annotations=predicate)],
    }
    marks = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": listed[0]["digest"],
    }
    unknown = {"os": "unknown", "architecture": "unknown"}
    listed.append(put(json.dumps(manifest).encode(), manifest_type, platform=unknown, annotations=marks))
    index_type = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": index_type, "manifests": listed}
    top = put(json.dumps(index).encode(), index_type, annotations={"org.opencontainers.image.ref.name": "latest"})
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return str(top["digest"])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A registry's name for the index, and its digest."""
    root = tmp_path_factory.mktemp("registry")
    with docker_registry(root) as host:
        digest = write_index(root / "layout")
        skopeo_copy(f"oci:{root}/layout:latest", f"docker://{host}/team/multi:1", "--all")
        yield f"{host}/team/multi:1", digest


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]


def refused(engine: Engine, *words: str) -> str:
    done = engine.docker(*words, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip()


# --- save and load


def test_a_saved_image_loads_as_the_same_image(engine: Engine, tmp_path: Path) -> None:
    path = str(tmp_path / "saved.tar")
    engine.docker("tag", BUSYBOX, "first:1")
    engine.docker("tag", BUSYBOX, "first:2")
    id = engine.inspect(BUSYBOX)["Id"]
    engine.docker("save", "-o", path, "first", BUSYBOX)
    listed = json.loads(members(tmp_path / "saved.tar")["manifest.json"])
    assert [sorted(item["RepoTags"]) for item in listed] == [["busybox:latest", "first:1", "first:2"]]
    engine.docker("rmi", "first:1", "first:2")
    assert sorted(engine.output("load", "-i", path).splitlines()) == [
        "Loaded image: busybox:latest",
        "Loaded image: first:1",
        "Loaded image: first:2",
    ]
    assert engine.inspect("first:2")["Id"] == id


def test_an_image_saved_by_its_id_has_no_name(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    engine.docker("save", "-o", str(path), engine.inspect(BUSYBOX)["Id"])
    found = members(path)
    assert json.loads(found["manifest.json"])[0]["RepoTags"] is None
    assert "repositories" not in found
    assert engine.output("load", "-i", str(path)) == f"Loaded image ID: {engine.inspect(BUSYBOX)['Id']}"


def test_saving_what_is_not_there_fails_before_anything_is_written(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    said = refused(engine, "save", "-o", str(path), BUSYBOX, "nothing:1")
    assert ("No such image: nothing:1" in said) or engine.kind == "dockerd"  # "reference does not exist"
    assert not path.exists()


@differs_on_dockerd("writes no OCI layout")
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_other_tools_read_what_was_saved(engine: Engine, tmp_path: Path, transport: str) -> None:
    path = tmp_path / "saved.tar"
    engine.docker("save", "-o", str(path), BUSYBOX)
    skopeo_copy(f"{transport}:{path}", f"dir:{tmp_path}/out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["config"]["digest"] == engine.inspect(BUSYBOX)["Id"]


@pytest.mark.requires("dockerd")
@differs_on_dockerd("it is the other engine")
def test_dockerd_loads_what_was_saved(engine: Engine, tmp_path: Path) -> None:
    """Between engines ids stay the same, and nothing has changed on the way."""
    engine.docker("run", "--name=changed", "--network=none", BUSYBOX, "sh", "-c", "rm -r /home; echo 1 > /etc/new")
    engine.docker("commit", "changed", "travelled:1")
    engine.docker("save", "-o", str(tmp_path / "out.tar"), "travelled:1")
    peer = Engine(Path(f"{engine.root}-peer"), kind="dockerd")
    try:
        peer.start()
        peer.docker("load", "-i", str(tmp_path / "out.tar"))
        assert peer.inspect("travelled:1")["Id"] == engine.inspect("travelled:1")["Id"]
        assert peer.shell("ls /home /etc/new 2>/dev/null; true", image="travelled:1") == "/etc/new"
        peer.docker("save", "-o", str(tmp_path / "back.tar"), "travelled:1")
    finally:
        peer.stop()
        subprocess.run(["rm", "-rf", str(peer.root)], check=True)
    id = engine.inspect("travelled:1")["Id"]
    engine.docker("rmi", "travelled:1")
    engine.docker("load", "-i", str(tmp_path / "back.tar"))
    assert engine.inspect("travelled:1")["Id"] == id


# --- several platforms


@differs_on_dockerd(MULTI)
def test_a_push_sends_the_index_when_all_of_it_is_here_and_the_one_manifest_else(
    engine: Engine, published: tuple[str, str]
) -> None:
    name, digest = published
    target = f"{name.rpartition('/')[0]}/pushed"
    engine.docker("pull", "-q", "--platform", OTHER_PLATFORM, name)
    engine.docker("tag", name, f"{target}:part")
    part = engine.output("push", f"{target}:part")
    assert f"digest: {digest}" not in part and "Not all multiplatform-content is present" in part
    words = ["skopeo", "inspect", "--raw", "--tls-verify=false"]
    raw = json.loads(subprocess.run([*words, f"docker://{target}:part"], check=True, capture_output=True).stdout)
    assert raw["config"]["digest"] == image_id(OTHER)
    engine.docker("pull", "-q", "--platform", HERE_PLATFORM, name)
    engine.docker("tag", name, f"{target}:all")
    assert f"all: digest: {digest}" in engine.output("push", f"{target}:all")
    engine.docker("push", "--platform", HERE_PLATFORM, f"{target}:all")
    raw = json.loads(subprocess.run([*words, f"docker://{target}:all"], check=True, capture_output=True).stdout)
    assert raw["config"]["digest"] == image_id(HERE)


@differs_on_dockerd(MULTI)
def test_platforms_of_one_name_are_kept_side_by_side(engine: Engine, published: tuple[str, str]) -> None:
    name, digest = published
    engine.docker("pull", "-q", "--platform", OTHER_PLATFORM, name)
    assert engine.inspect(name)["Id"] == image_id(OTHER)
    engine.docker("pull", "-q", name)
    assert engine.inspect(name)["Id"] == image_id(HERE)
    assert engine.inspect(name)["RepoDigests"] == [f"{name.removesuffix(':1')}@{digest}"]
    for platform, spec in ((OTHER_PLATFORM, OTHER), (HERE_PLATFORM, HERE)):
        shown = engine.output("image", "inspect", "--platform", platform, "-f", "{{.Id}} {{.Architecture}}", name)
        assert shown == f"{image_id(spec)} {spec.architecture}"
        newest = engine.output("history", "--platform", platform, "-q", "--no-trunc", name).splitlines()[0]
        assert newest == image_id(spec)
    assert engine.output("images", "-q", "--no-trunc", name.removesuffix(":1")) == image_id(HERE)
    assert "does not provide the specified platform (linux/riscv64)" in refused(
        engine, "image", "inspect", "--platform", "linux/riscv64", name
    )
    assert engine.output("run", "--rm", "--network=none", name) == "here"


@differs_on_dockerd(MULTI)
def test_a_tree_shows_what_is_there_of_each_image(engine: Engine, published: tuple[str, str]) -> None:
    name, digest = published
    engine.docker("pull", "-q", name)
    status, listed = engine.api("GET", "/v1.50/images/json?manifests=1&shared-size=1")
    assert status == 200
    [image] = [item for item in listed if name in item["RepoTags"]]
    assert image["Descriptor"]["digest"] == digest
    kinds = [(item["Kind"], item["Available"]) for item in image["Manifests"]]
    assert kinds == [("image", True), ("image", False), ("attestation", True)]
    here, _, attestation = image["Manifests"]
    assert attestation["AttestationData"]["For"] == here["ID"]
    assert here["Size"]["Total"] == here["Size"]["Content"] + here["ImageData"]["Size"]["Unpacked"]
    assert image["SharedSize"] == image["Size"] - len("here\n")
    lines = engine.output("images", "--tree").splitlines()
    assert any(line.split()[:2] == ["├─", HERE_PLATFORM] for line in lines)
    assert any(line.split()[:2] == ["└─", OTHER_PLATFORM] for line in lines)


@differs_on_dockerd(MULTI)
def test_attestations_come_with_the_image(engine: Engine, published: tuple[str, str]) -> None:
    name, _ = published
    engine.docker("pull", "-q", name)
    quoted = name.replace(":", "%3A")
    status, found = engine.api("GET", f"/images/{quoted}/attestations?statement=1")
    assert status == 200, found
    assert [(item["PredicateType"], item["Statement"]["predicate"]) for item in found] == [
        ("https://slsa.dev/provenance/v0.2", {"made": "by a test"})
    ]
    assert engine.api("GET", f"/images/{quoted}/attestations?type=other") == (200, [])
    assert engine.api("GET", f"/images/{BUSYBOX}/attestations") == (200, [])
    assert engine.api("GET", f"/images/{quoted}/attestations?platform=x")[0] == 400


@differs_on_dockerd(MULTI)
def test_all_platforms_travel_in_an_archive_or_only_one(
    engine: Engine, published: tuple[str, str], tmp_path: Path
) -> None:
    name, digest = published
    engine.docker("pull", "-q", name)
    engine.docker("pull", "-q", "--platform", OTHER_PLATFORM, name)
    whole, single = tmp_path / "whole.tar", tmp_path / "single.tar"
    engine.docker("save", "-o", str(whole), name)
    engine.docker("save", "-o", str(single), "--platform", OTHER_PLATFORM, name)
    assert "does not provide the specified platform" in refused(engine, "save", "--platform", "linux/riscv64", name)
    engine.docker("rmi", name)
    assert engine.output("load", "-i", str(whole)) == f"Loaded image: {name}"
    assert (engine.inspect(name)["Id"], engine.inspect(name)["Descriptor"]["digest"]) == (image_id(HERE), digest)
    engine.docker("image", "inspect", "--platform", OTHER_PLATFORM, name)
    engine.docker("rmi", name)
    engine.docker("load", "-i", str(single))
    assert engine.inspect(name)["Id"] == image_id(OTHER)
    engine.docker("rmi", name)
    engine.docker("load", "--platform", OTHER_PLATFORM, "-i", str(whole))
    assert engine.inspect(name)["Id"] == image_id(OTHER)
    assert "no images providing the requested platform(s) found: [linux/riscv64]" in refused(
        engine, "load", "--platform", "linux/riscv64", "-i", str(whole)
    )


@differs_on_dockerd(MULTI)
def test_one_platform_can_be_removed(engine: Engine, published: tuple[str, str]) -> None:
    name, _ = published
    for platform in (HERE_PLATFORM, OTHER_PLATFORM):
        engine.docker("pull", "-q", "--platform", platform, name)
    container = engine.output("create", "--platform", OTHER_PLATFORM, name)[:12]
    assert refused(engine, "rmi", "--platform", OTHER_PLATFORM, name).endswith(
        f"(must be forced) - image is being used by stopped container {container}"
    )
    assert f"container {container} is using its referenced image" in refused(engine, "rmi", name)
    engine.docker("rm", container)
    removed = engine.output("rmi", "--platform", OTHER_PLATFORM, name).splitlines()
    assert removed[0] == f"Deleted: {image_id(OTHER)}"
    assert engine.inspect(name)["Id"] == image_id(HERE)
    removed = engine.output("rmi", name).splitlines()
    assert f"Deleted: {image_id(HERE)}" in removed
    assert refused(engine, "rmi", name) == f"Error response from daemon: No such image: {name}"


@differs_on_dockerd("the wherry CLI speaks with wherryd")
def test_the_wherry_cli_does_the_same(engine: Engine, published: tuple[str, str], tmp_path: Path) -> None:
    name, _ = published
    engine.docker("pull", "-q", name)
    engine.docker("pull", "-q", "--platform", OTHER_PLATFORM, name)
    for words in (
        ["history", "--platform", OTHER_PLATFORM, name],
        ["image", "inspect", "--platform", OTHER_PLATFORM, name],
    ):
        docker, wherry = (ask(engine, program, words) for program in (DOCKER, WHERRY))
        assert docker == wherry
    lines = ask(engine, WHERRY, ["images", "--tree"]).out.splitlines()
    assert any(line.startswith(f"└─ {OTHER_PLATFORM}") for line in lines)
    path = str(tmp_path / "saved.tar")
    assert ask(engine, WHERRY, ["save", "-o", path, "--platform", OTHER_PLATFORM, name]).code == 0
    assert ask(engine, WHERRY, ["rmi", "--platform", OTHER_PLATFORM, name]).code == 0
    assert ask(engine, WHERRY, ["load", "-i", path]).out.endswith(f"Loaded image: {name}\n")
