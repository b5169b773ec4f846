"""Images through the real docker CLI: pull, load, import, images, inspect, history, tag, rmi, prune, and what it says when they fail."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd
from tests.images import Entry, ImageSpec, busybox_layer, image_id
from tests.registry import docker_registry, skopeo_copy

pytestmark = pytest.mark.requires("registry", "skopeo")

APP = ImageSpec(
    layers=(
        busybox_layer(),
        images.layer([Entry("app", b"#!/bin/sh\necho app\n", 0o755)]),
        images.layer([Entry(".wh.home"), Entry("etc/.wh.group")]),
    ),
    config={"Cmd": ["/app"], "Env": ["PATH=/bin", "A=1"], "Labels": {"tier": "web"}, "WorkingDir": "/tmp"},
)
ID = image_id(APP)
SHORT = ID.removeprefix("sha256:")[:12]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("registry")
    with docker_registry(root) as host:
        digest = images.write_oci_layout(str(root / "layout"), APP)
        skopeo_copy(f"oci:{root}/layout:latest", f"docker://{host}/team/app:1")
        assert digest
        yield host


@pytest.fixture
def app(engine: Engine, tmp_path: Path) -> str:
    """The image, loaded as app:1."""
    engine.docker("load", "-q", "-i", images.write_docker_archive(str(tmp_path / "app.tar"), APP, "app:1"))
    return "app:1"


def refused(engine: Engine, *words: str) -> str:
    """What the CLI says when that fails with exit status 1."""
    done = engine.docker(*words, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip()


# --- pull


def test_pull_reports_each_layer_and_the_result(engine: Engine, registry: str) -> None:
    lines = engine.output("pull", f"{registry}/team/app:1").splitlines()
    assert lines[0] == "1: Pulling from team/app"
    statuses = [re.sub(r"^[0-9a-f]{12}: ", "", line) for line in lines[1:]]
    assert statuses.count("Pull complete") == statuses.count("Download complete") == 2
    assert (
        statuses.count("Pull complete") + statuses.count("Already exists") == 3
    )  # the lowest is that of the test image
    assert re.fullmatch(r"Digest: sha256:[0-9a-f]{64}", lines[-3])
    assert lines[-2:] == [f"Status: Downloaded newer image for {registry}/team/app:1", f"{registry}/team/app:1"]
    again = engine.output("pull", f"{registry}/team/app:1").splitlines()
    assert again[-2] == f"Status: Image is up to date for {registry}/team/app:1"
    assert engine.inspect(f"{registry}/team/app:1")["Id"] == ID


def test_pull_by_digest_gives_an_image_without_a_tag(engine: Engine, registry: str) -> None:
    engine.docker("pull", "-q", f"{registry}/team/app:1")
    [name] = engine.inspect(f"{registry}/team/app:1")["RepoDigests"]
    engine.docker("rmi", f"{registry}/team/app:1")
    assert engine.output("pull", "-q", name) == name
    shown = engine.inspect(name)
    assert (shown["Id"], shown["RepoTags"], shown["RepoDigests"]) == (ID, [], [name])


def test_run_pulls_what_is_not_there(engine: Engine, registry: str) -> None:
    done = engine.docker("run", "--rm", "--network=none", f"{registry}/team/app:1")
    assert done.stdout == "app\n"
    assert f"Unable to find image '{registry}/team/app:1' locally" in done.stderr


def test_a_pull_that_fails_says_why(engine: Engine, registry: str) -> None:
    host = "127.0.0.1:1"
    assert refused(engine, "pull", f"{registry}/team/app:none") == (
        f"Error response from daemon: manifest for {registry}/team/app:none not found: manifest unknown: manifest unknown"
    )
    assert f"dial tcp {host}: connect: connection refused" in refused(engine, "pull", f"{host}/app")
    assert "invalid reference format" in refused(engine, "pull", "No/Such:Name:x")


# --- load and import


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "gzip"])
def test_load_reads_what_others_wrote(engine: Engine, tmp_path: Path, form: str) -> None:
    path = tmp_path / "archive"
    if form == "gzip":
        path.write_bytes(gzip.compress(images.docker_archive(APP, ["loaded:2"])))
    else:
        images.write_oci_layout(str(tmp_path / "layout"), APP)
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"{form}:{path}:docker.io/library/loaded:2")
    if form == "oci-archive" and engine.kind == "dockerd":
        pytest.skip("peer: dockerd 20.10: reads no OCI layouts")
    assert engine.output("load", "-i", str(path)) == "Loaded image: loaded:2"
    assert engine.inspect("loaded:2")["Id"] == ID
    assert engine.output("run", "--rm", "--network=none", "loaded:2") == "app"


def test_load_of_what_is_no_archive_fails(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"x" * 10_000)
    refused(engine, "load", "-i", str(tmp_path / "bad"))
    assert BUSYBOX in engine.output("images", "--format={{.Repository}}:{{.Tag}}")


def test_import_makes_an_image_of_a_root_file_system(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "rootfs.tar").write_bytes(busybox_layer())
    id = engine.output(
        "import",
        "-m",
        "by hand",
        "-c",
        'CMD ["echo", "hi"]',
        "-c",
        "ENV PATH=/bin",
        str(tmp_path / "rootfs.tar"),
        "imported:1",
    )
    shown = engine.inspect("imported:1")
    assert (shown["Id"], shown["Comment"], shown["Config"]["Cmd"]) == (id, "by hand", ["echo", "hi"])
    assert engine.output("run", "--rm", "--network=none", "imported:1") == "hi"
    said = refused(engine, "import", "-c", "RUN x", str(tmp_path / "rootfs.tar"))
    assert "run is not a valid change command" in said.lower()


# --- what is in an image


def test_whiteouts_hide_what_lower_layers_have(engine: Engine, app: str) -> None:
    assert engine.shell("ls -d /home /etc/group /etc/passwd 2>/dev/null; true", image=app) == "/etc/passwd"


def test_inspect_and_history_describe_the_image(engine: Engine, app: str) -> None:
    shown = engine.inspect(app)
    assert (shown["Id"], shown["RepoTags"], shown["Os"], shown["Created"]) == (
        ID,
        [app],
        "linux",
        "2026-01-02T03:04:05Z",
    )
    config = {key: value for key, value in shown["Config"].items() if value}
    assert {key: config[key] for key in ("Cmd", "Env", "Labels", "WorkingDir")} == dict(APP.config)
    assert len(shown["RootFS"]["Layers"]) == 3
    history = engine.output(
        "history", "--no-trunc", "--human=false", "--format={{.ID}} {{.Size}} {{.CreatedBy}}", app
    ).splitlines()
    assert history[0] == f"{ID} 0 tests/images.py"
    assert history[1] == "<missing> 19 tests/images.py"
    assert int(history[2].split()[1]) == shown["Size"] - 19


def test_images_lists_filters_and_formats(engine: Engine, app: str) -> None:
    engine.docker("tag", app, "other/name:2")
    names = engine.output("images", "--format={{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
    assert {f"app:1 {SHORT}", f"other/name:2 {SHORT}"} <= set(names)
    assert engine.output("images", "-q", "app").splitlines() == [SHORT]
    assert engine.output("images", "-q", "--no-trunc", "-f", "label=tier=web").splitlines() == [ID, ID]
    assert engine.output("images", "-q", "-f", "reference=other/*:2") == SHORT
    assert engine.output("images", "-q", "-f", "reference=*/nothing") == ""
    assert "invalid filter" in refused(engine, "images", "-f", "colour=red").lower()


# --- tag, rmi, prune


def test_rmi_untags_and_then_deletes(engine: Engine, app: str) -> None:
    engine.docker("tag", app, "second:1")
    assert engine.output("rmi", "second:1") == "Untagged: second:1"
    removed = engine.output("rmi", app).splitlines()
    assert removed[:2] == [f"Untagged: {app}", f"Deleted: {ID}"]
    assert len(removed) == 4  # two layers; the lowest is the test image's
    assert refused(engine, "rmi", app) == f"Error response from daemon: No such image: {app}"


def test_rmi_refuses_what_is_in_use_and_can_be_forced(engine: Engine, app: str) -> None:
    container = engine.output("create", app)[:12]
    assert refused(engine, "rmi", app) == (
        f'Error response from daemon: conflict: unable to remove repository reference "{app}" (must force) - '
        f"container {container} is using its referenced image {SHORT}"
    )
    assert refused(engine, "rmi", ID) == (
        f"Error response from daemon: conflict: unable to delete {SHORT} (must be forced) - "
        f"image is being used by stopped container {container}"
    )
    engine.docker("tag", app, "second:1")
    assert engine.output("rmi", "-f", app) == f"Untagged: {app}"
    engine.docker("rmi", "-f", "second:1")
    assert engine.output("start", "-a", container) == "app"
    engine.docker("rm", container)


def test_rmi_refuses_what_runs(engine: Engine, app: str) -> None:
    container = engine.output("run", "-d", "--network=none", app, "sleep", "1000")[:12]
    said = refused(engine, "rmi", "-f", ID)
    assert said == (
        f"Error response from daemon: conflict: unable to delete {SHORT} (cannot be forced) - "
        f"image is being used by running container {container}"
    )


def test_a_tag_that_cannot_be_given_is_refused(engine: Engine, app: str) -> None:
    assert "invalid reference format" in refused(engine, "tag", app, "a:b:c")
    assert "No such image: nothing:latest" in refused(engine, "tag", "nothing", "x:1")


def test_prune_removes_what_has_no_name(engine: Engine, app: str) -> None:
    engine.docker("image", "prune", "-f")  # what interrupted pulls have left
    engine.docker("tag", BUSYBOX, app)  # takes the name away
    assert engine.output("images", "-q", "-f", "dangling=true") == SHORT
    said = engine.output("image", "prune", "-f").splitlines()
    assert said[0] == "Deleted Images:" and f"deleted: {ID}" in said
    freed = said[-1].removeprefix(
        "Total reclaimed space: "
    )  # on wherry the blocks of the disk, on dockerd the sizes of the files
    assert freed == "19B" if engine.kind == "dockerd" else freed.endswith("kB")
    assert engine.output("images", "-q", "-f", "dangling=true") == ""


@differs_on_dockerd("hello-world comes from a registry only")
def test_hello_world_needs_no_registry(engine: Engine) -> None:
    assert "No such image: hello-world:latest" in refused(engine, "image", "inspect", "hello-world")
    assert "Hello from wherry" in engine.output("run", "--rm", "hello-world")
    [shown] = json.loads(engine.output("image", "inspect", "hello-world"))
    assert shown["RepoTags"] == ["hello-world:latest"]


@differs_on_dockerd("its data directories have other names")
def test_nothing_is_left_of_a_removed_image(engine: Engine, app: str) -> None:
    listed = [
        "find",
        str(engine.data_root / "content/blobs"),
        str(engine.data_root / "snapshots/layers"),
        "-maxdepth",
        "2",
    ]
    with_app = set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())
    engine.docker("rmi", app)
    without = set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())
    gone = with_app - without
    assert len([name for name in gone if "/sha256/" in name]) == 4  # manifest, config, two layers
    assert len([name for name in gone if re.search(r"/layers/\d+$", name)]) == 2
