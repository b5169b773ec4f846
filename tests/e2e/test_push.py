"""Pushing and logging in, by both command lines, to Debian's registry: what arrives is what was sent, byte by byte."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, PEER, Engine, differs_on_dockerd
from tests.images import Entry, ImageSpec, busybox_layer
from tests.registry import docker_registry, skopeo_copy

pytestmark = pytest.mark.requires("registry", "skopeo")

WHERRY = str(Path(sys.executable).parent / "wherry")
CLIS = ["docker"] if PEER == "dockerd" else ["docker", WHERRY]
APP = ImageSpec(layers=(busybox_layer(), images.layer([Entry("app", bytes(3_000_000))])), config={"Cmd": ["/app"]})
HTPASSWD = "ann:$2y$04$ZWQc3/1U04dSxqOY9snIKOHjCmh08HNS8GMhvdlRweEvC59F10h4C\n"  # "secret"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants "ann" and "secret"."""
    root = tmp_path_factory.mktemp("guarded")
    (root / "htpasswd").write_text(HTPASSWD)
    with docker_registry(root, extra=f"auth: {{htpasswd: {{realm: tests, path: {root}/htpasswd}}}}\n") as host:
        yield host


def load(engine: Engine, tmp_path: Path, *names: str) -> None:
    for name in names:
        engine.docker("load", "-q", "-i", images.write_docker_archive(str(tmp_path / "app.tar"), APP, name))


def raw_manifest(reference: str) -> bytes:
    words = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]
    return subprocess.run(words, check=True, capture_output=True).stdout


@pytest.mark.parametrize("cli", CLIS)
def test_what_is_pushed_comes_back_as_it_was(cli: str, engine: Engine, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/{Path(cli).name}/app:1"
    load(engine, tmp_path, name)
    before = engine.inspect(name)["Id"]
    done = engine.run_client(cli, "push", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"The push refers to repository [{registry}/{Path(cli).name}/app]\n")
    assert "Pushed" in done.stdout and "1: digest: sha256:" in done.stdout
    digest = done.stdout.split("digest: ")[1].split()[0]
    repository = f"{registry}/{Path(cli).name}/app"
    assert engine.inspect(name)["RepoDigests"] == [f"{repository}@{digest}"]
    again = engine.run_client(cli, "push", name)
    assert again.returncode == 0 and "Pushed" not in again.stdout and f"digest: {digest}" in again.stdout
    engine.docker("rmi", name)
    engine.docker("pull", "-q", name)
    assert engine.inspect(name)["Id"] == before


@differs_on_dockerd("its classic store compresses layers anew")
def test_an_image_that_was_pulled_is_pushed_with_its_digest_and_blobs_are_mounted(
    engine: Engine, registry: str, tmp_path: Path
) -> None:
    images.write_oci_layout(str(tmp_path / "layout"), APP)
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{registry}/source/app:1")
    engine.docker("pull", "-q", f"{registry}/source/app:1")
    engine.docker("tag", f"{registry}/source/app:1", f"{registry}/target/app:2")
    said = engine.output("push", f"{registry}/target/app:2")
    assert "Mounted from source/app" in said and "Pushed" not in said
    assert raw_manifest(f"{registry}/target/app:2") == raw_manifest(f"{registry}/source/app:1")
    assert f"{registry}/target/app:2" in engine.inspect(f"{registry}/source/app:1")["RepoTags"]


@differs_on_dockerd("20.10 knows no identities")
def test_where_an_image_came_from_is_told_and_no_tag_changes_it(engine: Engine, registry: str, tmp_path: Path) -> None:
    load(engine, tmp_path, f"{registry}/origin:1")
    image = engine.inspect(f"{registry}/origin:1")["Id"]
    version = engine.api("GET", "/version")[1]["ApiVersion"]

    def told() -> tuple[object, list[object]]:
        inspected = engine.api("GET", f"/v{version}/images/{image}/json")[1].get("Identity")
        listed = engine.api("GET", f"/v{version}/images/json?manifests=1&identity=1")[1]
        [manifests] = [item["Manifests"] for item in listed if item["Id"] == image]
        return inspected, [one["ImageData"].get("Identity") for one in manifests]

    assert told() == (None, [None])
    engine.docker("push", "-q", f"{registry}/origin:1")
    pulled = {"Pull": [{"Repository": f"{registry}/origin"}]}
    assert told() == (pulled, [pulled])
    engine.docker("tag", image, "docker.io/library/famous:1")
    assert told() == (pulled, [pulled])
    assert "Identity" not in engine.api("GET", f"/v1.52/images/{image}/json")[1]
    status, refused = engine.api("GET", f"/v{version}/images/json?identity=1")
    assert (status, refused["message"]) == (400, "conflicting options: identity requires manifests=1")


@pytest.mark.parametrize("cli", CLIS)
def test_all_tags_are_pushed(cli: str, engine: Engine, registry: str, tmp_path: Path) -> None:
    repository = f"{registry}/{Path(cli).name}/all"
    load(engine, tmp_path, f"{repository}:1", f"{repository}:2")
    assert engine.run_client(cli, "push", "--all-tags", repository).returncode == 0
    assert raw_manifest(f"{repository}:1") == raw_manifest(f"{repository}:2")


@pytest.mark.parametrize("cli", CLIS)
def test_a_push_that_cannot_be_is_said_in_dockers_words(cli: str, engine: Engine, registry: str) -> None:
    unknown = engine.run_client(cli, "push", f"{registry}/nothing:1")
    assert unknown.returncode == 1
    assert f"An image does not exist locally with the tag: {registry}/nothing" in unknown.stderr
    engine.docker("tag", BUSYBOX, "127.0.0.1:9/app:1")
    gone = engine.run_client(cli, "push", "127.0.0.1:9/app:1")
    assert gone.returncode == 1 and "connection refused" in gone.stderr


# --- logins


@pytest.mark.parametrize("cli", CLIS)
def test_a_login_opens_a_registry_and_a_logout_closes_it(
    cli: str, engine: Engine, guarded: str, tmp_path: Path
) -> None:
    name = f"{guarded}/{Path(cli).name}/app:1"
    load(engine, tmp_path, name)
    refused = engine.run_client(cli, "push", name)
    assert refused.returncode == 1 and "no basic auth credentials" in refused.stderr
    wrong = engine.run_client(cli, "login", "-u", "ann", "--password-stdin", guarded, stdin="wrong")
    assert wrong.returncode == 1 and "unauthorized" in wrong.stderr, wrong.stderr
    right = engine.run_client(cli, "login", "-u", "ann", "--password-stdin", guarded, stdin="secret\n")
    assert (right.returncode, right.stdout.strip()) == (0, "Login Succeeded"), right.stderr
    config = json.loads((engine.root / "client/config.json").read_text())
    assert config["auths"][guarded] == {"auth": base64.b64encode(b"ann:secret").decode()}
    assert engine.run_client(cli, "login", guarded).returncode == 0  # with what it knows
    assert engine.run_client(cli, "push", name).returncode == 0
    engine.docker("rmi", name)
    pulled = engine.run_client(cli, "pull", "-q", name)
    assert (pulled.returncode, pulled.stdout.strip()) == (0, name)
    out = engine.run_client(cli, "logout", guarded)
    assert out.stdout == f"Removing login credentials for {guarded}\n"
    assert engine.run_client(cli, "pull", name).returncode == 1


@pytest.mark.parametrize("cli", CLIS)
def test_a_login_to_a_registry_without_users_or_without_a_registry(cli: str, engine: Engine, registry: str) -> None:
    assert engine.run_client(cli, "login", "-u", "x", "-p", "y", registry).returncode == 0
    engine.run_client(cli, "logout", registry)
    nowhere = engine.run_client(cli, "login", "-u", "x", "-p", "y", "127.0.0.1:9")
    assert nowhere.returncode == 1 and "connection refused" in nowhere.stderr
    bare = engine.run_client(cli, "login", registry)
    assert bare.returncode == 1 and "non-TTY" in bare.stderr.replace("non TTY", "non-TTY")


# --- mirrors


@differs_on_dockerd("it is not restarted for this")
def test_a_mirror_of_docker_hub_is_asked_first(registry: str, own_engine: object, tmp_path: Path) -> None:
    images.write_oci_layout(str(tmp_path / "layout"), APP)
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{registry}/library/mirrored:1")
    engine = own_engine(f"--registry-mirror=http://{registry}")  # type: ignore[operator]
    assert engine.output("pull", "-q", "mirrored:1") == "docker.io/library/mirrored:1"
    assert json.loads(engine.output("info", "--format", "{{json .RegistryConfig.Mirrors}}")) == [f"http://{registry}/"]
