"""What registries carry besides images: pulled, listed, kept, moved on unchanged; and never run."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, wait_until
from tests.e2e.parity import DOCKER, WHERRY, ask
from tests.registry import OCI_INDEX, OCI_MANIFEST, Served, digest_of, skopeo_copy, wherry_registry

pytestmark = [pytest.mark.requires("skopeo"), differs_on_dockerd("20.10 has the classic store")]

EMPTY = b"{}"


def put(served: Served, path: str, data: bytes, media_type: str = "application/octet-stream") -> None:
    request = urllib.request.Request(f"{served.url}/v2/{path}", data, method="POST" if "uploads" in path else "PUT")
    request.add_header("Content-Type", media_type)
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


def get(served: Served, path: str) -> bytes:
    with urllib.request.urlopen(f"{served.url}/v2/{path}") as answer:
        return answer.read()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Artifact:
    """In the registry as `name`:1."""

    served: Served
    path: str
    digest: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.served.host}/{self.path}"


def push(served: Served, path: str, config: bytes, config_type: str, layers: dict[str, bytes], **more: Any) -> Artifact:
    """`layers`: contents by media type."""
    for data in (config, *layers.values()):
        put(served, f"{path}/blobs/uploads/?digest={digest_of(data)}", data)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        **more,
        "config": {"mediaType": config_type, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": kind, "digest": digest_of(data), "size": len(data)} for kind, data in layers.items()],
    }
    data = json.dumps(document, indent=1).encode()
    put(served, f"{path}/manifests/1", data, OCI_MANIFEST)
    sizes = sum(len(part) for part in (data, config, *layers.values()))
    return Artifact(served, path, digest_of(data), sizes)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with wherry_registry(tmp_path_factory.mktemp("registry")) as served:
        yield served


def chart(served: Served) -> Artifact:
    """As helm pushes it."""
    config = json.dumps({"name": "app", "version": "1.0.0", "apiVersion": "v2"}).encode()
    kinds = {"application/vnd.cncf.helm.chart.content.v1.tar+gzip": b"a chart" * 1000, "application/vnd.x+json": b"[]"}
    return push(served, "charts/app", config, "application/vnd.cncf.helm.config.v1+json", kinds)


def typed(served: Served) -> Artifact:
    """As the OCI's guidelines have it: an artifactType, an empty config."""
    return push(
        served, "typed", EMPTY, "application/vnd.oci.empty.v1+json", {"text/plain": b"text"}, artifactType="a/b"
    )


def signature(served: Served) -> Artifact:
    """As cosign pushes it: the config is an image's."""
    config = json.dumps({"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    kinds = {"application/vnd.dev.cosign.simplesigning.v1+json": b"{...}"}
    return push(served, "signed", config, "application/vnd.oci.image.config.v1+json", kinds)


def by_oras(served: Served) -> Artifact:
    """As oras itself pushes a file and a folder."""
    script = (
        "import os, sys, tempfile, oras.client; os.chdir(tempfile.mkdtemp()); os.mkdir('folder'); open('file', 'w').write('x' * 999); "
        "oras.client.OrasClient(insecure=True).push(target=sys.argv[1], files=['file', 'folder'], manifest_annotations={'a': 'b'})"
    )
    subprocess.run([sys.executable, "-c", script, f"{served.host}/by/oras:1"], check=True, capture_output=True)
    data = get(served, "by/oras/manifests/1")
    document = json.loads(data)
    parts = (document["config"], *document["layers"])
    return Artifact(served, "by/oras", digest_of(data), len(data) + sum(part["size"] for part in parts))


KINDS = {"chart": chart, "typed": typed, "signature": signature, "oras": by_oras}


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_is_pulled_shown_saved_loaded_and_pushed_as_it_is(
    engine: Engine, served: Served, kind: str, tmp_path: Path
) -> None:
    one = KINDS[kind](served)
    said = engine.output("pull", f"{one.name}:1")
    assert f"Digest: {one.digest}" in said and "Downloaded newer image" in said
    assert "Image is up to date" in engine.output("pull", f"{one.name}:1")
    # shown
    [found] = [item for item in engine.api("GET", "/images/json?manifests=1")[1] if item["Id"] == one.digest]
    assert (found["RepoTags"], found["RepoDigests"]) == ([f"{one.name}:1"], [f"{one.name}@{one.digest}"])
    assert (found["Created"], found["Size"], found["Descriptor"]["digest"]) == (0, one.size, one.digest)
    [manifest] = found["Manifests"]
    assert (manifest["Kind"], manifest["Available"], manifest["ID"]) == ("unknown", True, one.digest)
    shown = engine.inspect(one.name + ":1")
    assert (shown["Id"], shown["Architecture"], shown["Os"], shown["RootFS"]["Layers"]) == (one.digest, "", "", [])
    docker, wherry = (ask(engine, cli, ["images", one.name]) for cli in (DOCKER, WHERRY))
    assert docker == wherry and one.name in docker.out
    assert engine.output("history", "-q", f"{one.name}:1") == ""
    # never run
    for words in (("run", "--rm"), ("create",)):
        refused = engine.docker(*words, f"{one.name}:1", "true", check=False)
        assert refused.returncode != 0 and "not a container image" in refused.stderr
    # moved on
    archive = tmp_path / "saved.tar"
    engine.docker("save", "-o", str(archive), f"{one.name}:1", BUSYBOX)
    with tarfile.open(archive) as tar:
        assert [item["RepoTags"] for item in json.load(tar.extractfile("manifest.json"))] == [[BUSYBOX]]  # type: ignore[arg-type]
    assert engine.output("rmi", f"{one.name}:1").splitlines()[-1] == f"Deleted: {one.digest}"
    assert f"Loaded image: {one.name}:1" in engine.output("load", "-i", str(archive))
    assert engine.inspect(f"{one.name}:1")["Id"] == one.digest
    engine.docker("tag", one.digest, f"{served.host}/moved/{kind}:2")
    engine.docker("push", "-q", f"{served.host}/moved/{kind}:2")
    assert get(served, f"moved/{kind}/manifests/2") == get(served, f"{one.path}/manifests/1")
    assert engine.docker("push", "--platform=linux/amd64", f"{served.host}/moved/{kind}:2", check=False).returncode == 1


def test_artifacts_of_the_same_parts_are_several(engine: Engine, served: Served) -> None:
    """The empty config is all that many artifacts have; it does not make them one."""
    kind = "application/vnd.oci.empty.v1+json"
    one, two = (push(served, path, EMPTY, kind, {"x/y": b"the same"}, artifactType=path) for path in ("one", "two"))
    for artifact in (one, two):
        engine.docker("pull", "-q", f"{artifact.name}:1")
    engine.docker("rmi", f"{one.name}:1")
    assert engine.inspect(f"{two.name}:1")["Id"] == two.digest
    assert engine.docker("inspect", one.digest, check=False).returncode == 1


def test_the_artifact_for_this_machine_is_taken_from_an_index(engine: Engine, served: Served) -> None:
    one = push(served, "indexed", EMPTY, "application/vnd.oci.empty.v1+json", {"x/y": b"z"}, artifactType="a/b")
    data = get(served, "indexed/manifests/1")
    entry = {"mediaType": OCI_MANIFEST, "digest": one.digest, "size": len(data)}
    entry["platform"] = {"os": "linux", "architecture": images.busybox_spec().architecture}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    put(served, "indexed/manifests/all", index, OCI_INDEX)
    engine.docker("pull", "-q", f"{one.name}:all")
    assert engine.inspect(f"{one.name}:all")["Id"] == one.digest
    engine.docker("tag", f"{one.name}:all", f"{served.host}/indexed/again:1")
    engine.docker("push", "-q", f"{served.host}/indexed/again:1")
    assert get(served, "indexed/again/manifests/1") == index


def test_artifacts_outlive_a_restart_and_the_check_of_the_store(own_engine: Any, served: Served) -> None:
    engine: Engine = own_engine()
    one = chart(served)
    engine.docker("pull", "-q", f"{one.name}:1")
    engine.stop()
    engine.start()
    assert engine.inspect(f"{one.name}:1")["Id"] == one.digest
    checked = subprocess.run(
        [*WHERRY, "system", "fsck"], env=engine.client_environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    before = engine.api("GET", "/system/df")[1]
    [takes] = [image["Size"] for image in before["Images"] if image["Id"] == one.digest]
    engine.docker("rmi", f"{one.name}:1")
    left = before["LayersSize"] - takes  # files go soon after
    wait_until("the files have gone", lambda: engine.api("GET", "/system/df")[1]["LayersSize"] == left)
    assert takes >= one.size


def test_skopeos_archive_of_an_artifact_is_loaded(engine: Engine, served: Served, tmp_path: Path) -> None:
    one = typed(served)
    skopeo_copy(f"docker://{one.name}:1", f"oci:{tmp_path}/layout:{one.name}:1")
    with tarfile.open(tmp_path / "layout.tar", "w") as tar:
        tar.add(tmp_path / "layout", ".")
    assert f"Loaded image: {one.name}:1" in engine.output("load", "-i", str(tmp_path / "layout.tar"))
    assert engine.inspect(f"{one.name}:1")["Id"] == one.digest
