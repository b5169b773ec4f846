"""Real clients push to `wherry registry serve` and pull from it; what comes back has the ids and digests of what went in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import images
from tests.images import Entry, ImageSpec, busybox_layer, image_id
from tests.registry import Served, docker_registry, wherry_registry

APP = ImageSpec(
    layers=(busybox_layer(), images.layer([Entry("app", b"#!/bin/sh\necho app\n", 0o755)])),
    config={"Cmd": ["/app"], "Env": ["PATH=/bin"]},
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with wherry_registry(tmp_path_factory.mktemp("registry")) as served:
        yield served


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def skopeo(*words: str | Path) -> str:
    return run("skopeo", words[0], *([] if words[0] == "inspect" else ["--quiet"]), *words[1:])


def manifest_digest(served: Served, name: str, reference: str) -> str:
    request = urllib.request.Request(f"{served.url}/v2/{name}/manifests/{reference}")
    with urllib.request.urlopen(request) as answer:
        data = answer.read()
        assert answer.headers["Docker-Content-Digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
        return str(answer.headers["Docker-Content-Digest"])


def config_of(served: Served, name: str, reference: str) -> str:
    with urllib.request.urlopen(f"{served.url}/v2/{name}/manifests/{reference}") as answer:
        return str(json.load(answer)["config"]["digest"])


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An OCI layout of APP, and its manifest's digest."""
    path = tmp_path_factory.mktemp("layout")
    return path, images.write_oci_layout(str(path), APP)


@pytest.mark.requires("skopeo")
def test_skopeo_copies_in_and_out(served: Served, layout: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = layout
    skopeo("copy", "--dest-tls-verify=false", f"oci:{path}:latest", f"docker://{served.host}/skopeo/app:1")
    assert manifest_digest(served, "skopeo/app", "1") == digest
    skopeo("copy", "--src-tls-verify=false", f"docker://{served.host}/skopeo/app:1", f"oci:{tmp_path}/out:1")
    assert json.loads((tmp_path / "out/index.json").read_text())["manifests"][0]["digest"] == digest
    v2s2 = ("--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", *v2s2, f"docker://{served.host}/skopeo/app:1", f"docker://{served.host}/skopeo/docker:1")
    assert config_of(served, "skopeo/docker", "1") == image_id(APP)
    run("skopeo", "delete", "--tls-verify=false", f"docker://{served.host}/skopeo/docker:1")
    listed = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"docker://{served.host}/skopeo/app"))
    assert listed["Tags"] == ["1"]


def multi_platform_layout(path: Path) -> str:
    """A layout with an index of two images; → the index's digest."""
    entries = []
    for architecture in ("amd64", "arm64"):
        spec = ImageSpec(layers=(images.layer([Entry("a", architecture.encode())]),), architecture=architecture)
        digest = images.write_oci_layout(str(path), spec)
        size = (path / "blobs/sha256" / digest.removeprefix("sha256:")).stat().st_size
        media_type = "application/vnd.oci.image.manifest.v1+json"
        platform = {"os": "linux", "architecture": architecture}
        entries.append({"mediaType": media_type, "digest": digest, "size": size, "platform": platform})
    media_type = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
    digest = hashlib.sha256(data).hexdigest()
    (path / "blobs/sha256" / digest).write_bytes(data)
    named = {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
    named["annotations"] = {"org.opencontainers.image.ref.name": "all"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return f"sha256:{digest}"


@pytest.mark.requires("skopeo", "registry")
def test_skopeo_copies_all_platforms_through_dockers_registry_and_back(served: Served, tmp_path: Path) -> None:
    digest = multi_platform_layout(tmp_path / "in")
    tls = ("--all", "--src-tls-verify=false", "--dest-tls-verify=false")
    with docker_registry(tmp_path / "other") as other:
        skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/in:all", f"docker://{served.host}/multi:1")
        skopeo("copy", *tls, f"docker://{served.host}/multi:1", f"docker://{other}/multi:1")
        skopeo("copy", *tls, f"docker://{other}/multi:1", f"docker://{served.host}/again/multi:2")
        with wherry_registry(tmp_path / "cache", "--proxy", f"http://{other}") as cache:
            for _ in range(2):
                skopeo("copy", *tls, f"docker://{cache.host}/multi:1", f"oci:{tmp_path}/out:all")
    assert manifest_digest(served, "again/multi", "2") == manifest_digest(served, "multi", "1") == digest
    assert json.loads((tmp_path / "out/index.json").read_text())["manifests"][0]["digest"] == digest


@pytest.fixture
def short_folder() -> Iterator[str]:
    """podman takes no more than 50 characters."""
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.mark.parametrize("program", ["podman", "buildah"])
@pytest.mark.requires("podman", "buildah", "skopeo")
def test_podman_and_buildah_push_and_pull(
    served: Served, layout: tuple[Path, str], tmp_path: Path, program: str, short_folder: str
) -> None:
    store = ["--root", tmp_path / "root", "--runroot", short_folder, "--storage-driver", "vfs"]
    source = f"{served.host}/{program}/source:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout[0]}:latest", f"docker://{source}")
    run(program, *store, "pull", "--quiet", "--tls-verify=false", source)
    listed = run(program, *store, "images", "--no-trunc", "--quiet").split()
    assert listed == [image_id(APP)]
    run(program, *store, "push", "--tls-verify=false", image_id(APP), f"docker://{served.host}/{program}/pushed:1")
    assert config_of(served, f"{program}/pushed", "1") == image_id(APP)


@contextlib.contextmanager
def daemon(log: Path, *command: str | Path, ready: Callable[[], bool]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    pidfd = os.pidfd_open(process.pid)
    try:
        while not ready():
            assert not select.select([pidfd], [], [], 0.1)[0], log.read_text()[-2000:]
        yield
    finally:
        os.close(pidfd)
        process.send_signal(signal.SIGTERM)
        process.wait(300)


def succeeds(*words: str | Path) -> bool:
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False, timeout=300)
    return done.returncode == 0


@pytest.mark.requires("containerd", "skopeo")
def test_containerds_ctr_pushes_and_pulls(served: Served, layout: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = layout
    socket = tmp_path / "sock"
    (tmp_path / "config.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n[grpc]\naddress = "{socket}"\n'
        '[ttrpc]\naddress = ""\n'
    )
    ctr = ("ctr", "-a", socket)
    source, target = f"{served.host}/ctr/source:1", f"{served.host}/ctr/pushed:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{path}:latest", f"docker://{source}")
    command = ("containerd", "-c", tmp_path / "config.toml")
    with daemon(tmp_path / "log", *command, ready=lambda: succeeds(*ctr, "version")):
        run(*ctr, "images", "pull", "--plain-http", "--snapshotter", "native", source)
        run(*ctr, "images", "push", "--plain-http", target, source)
    assert manifest_digest(served, "ctr/pushed", "1") == digest


@pytest.mark.requires("dockerd", "docker", "skopeo")
def test_dockerd_pushes_and_pulls(served: Served, tmp_path: Path) -> None:
    docker = ("docker", "-H", f"unix://{tmp_path}/sock")
    command = (
        "dockerd",
        "--data-root",
        tmp_path / "data",
        "--exec-root",
        tmp_path / "exec",
        "-H",
        f"unix://{tmp_path}/sock",
    )
    command += ("-p", tmp_path / "pid", "--iptables=false", "--bridge=none", "--storage-driver=vfs")
    images.write_docker_archive(str(tmp_path / "app.tar"), APP, f"{served.host}/dockerd/app:1")
    with daemon(tmp_path / "log", *command, ready=lambda: succeeds(*docker, "version")):
        run(*docker, "load", "-q", "-i", tmp_path / "app.tar")
        run(*docker, "push", "-q", f"{served.host}/dockerd/app:1")
        digest = manifest_digest(served, "dockerd/app", "1")
        run(*docker, "tag", f"{served.host}/dockerd/app:1", f"{served.host}/dockerd/again:2")
        assert "Mounted from dockerd/app" in run(*docker, "push", f"{served.host}/dockerd/again:2")
        run(*docker, "rmi", f"{served.host}/dockerd/app:1", f"{served.host}/dockerd/again:2")
        run(*docker, "pull", "-q", f"{served.host}/dockerd/again@{digest}")
        assert run(*docker, "images", "-q", "--no-trunc").strip() == image_id(APP)
    assert config_of(served, "dockerd/app", "1") == image_id(APP)


@pytest.mark.requires("umoci", "skopeo")
def test_umoci_takes_what_was_pulled(served: Served, layout: tuple[Path, str], tmp_path: Path) -> None:
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout[0]}:latest", f"docker://{served.host}/umoci:1")
    skopeo("copy", "--src-tls-verify=false", f"docker://{served.host}/umoci:1", f"oci:{tmp_path}/layout:1")
    run("umoci", "config", "--image", f"{tmp_path}/layout:1", "--tag", "2", "--config.env", "A=1")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:2", f"docker://{served.host}/umoci:2")
    with urllib.request.urlopen(f"{served.url}/v2/umoci/blobs/{config_of(served, 'umoci', '2')}") as answer:
        assert "A=1" in json.load(answer)["config"]["Env"]


def test_oras_pushes_artifacts_and_pulls_them(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import oras.client

    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifact.txt").write_text("an artifact")
    client = oras.client.OrasClient(insecure=True)
    target = f"{served.host}/oras/artifact:v1"
    client.push(target=target, files=["artifact.txt"], manifest_annotations={"made": "here"})
    assert client.get_tags(target) == ["v1"]
    pulled = client.pull(target=target, outdir=str(tmp_path / "out"))
    assert Path(pulled[0]).read_text() == "an artifact"
    digest = manifest_digest(served, "oras/artifact", "v1")
    manifest = client.get_manifest(target)
    with urllib.request.urlopen(f"{served.url}/v2/oras/artifact/manifests/v1") as answer:
        size = int(answer.headers["Content-Length"])
    subject = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size}
    signature = json.dumps(manifest | {"subject": subject, "artifactType": "x/signature"}).encode()
    request = urllib.request.Request(f"{served.url}/v2/oras/artifact/manifests/sig", signature, method="PUT")
    request.add_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["OCI-Subject"] == digest
    with urllib.request.urlopen(f"{served.url}/v2/oras/artifact/referrers/{digest}") as answer:
        [referrer] = json.load(answer)["manifests"]
    assert (referrer["artifactType"], referrer["annotations"]["made"]) == ("x/signature", "here")
