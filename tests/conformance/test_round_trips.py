"""An image goes out of wherry, through each of the other tools' stores, and back: it is the same image, and its containers see no difference.

The id (the config's digest) is the same on every way. The manifest's digest is, too, wherever blobs are kept as they came: through layouts,
containerd and registries. Stores that keep layers unpacked (podman, buildah, dockerd's classic one) cannot: they make layers and manifest anew.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import images, leaks
from tests.conformance.engines import Containerd, Dockerd
from tests.e2e.harness import BUSYBOX, Engine, running
from tests.images import Entry, ImageSpec
from tests.registry import skopeo_copy, wherry_registry

pytestmark = pytest.mark.requires("overlay", "docker")

NAME = "docker.io/library/trip:1"
DIRECTORIES = (Entry("d", mode=0o755, directory=True), Entry("home", mode=0o755, directory=True))
"""In the layers, so that their times are the tar's."""
SPEC = ImageSpec(
    (
        *images.busybox_spec().layers,
        images.layer(
            [*DIRECTORIES, Entry("d/one", b"1", 0o4755, 1000, 1000), Entry("d/two", target="d/one", hard=True), Entry("d/gone", b"x")]
        ),
        images.layer([*DIRECTORIES, Entry("d/.wh.gone"), Entry("home/.wh..wh..opq"), Entry("home/new", b"n"), Entry("l", target="/d/one")]),
    ),
    {"Cmd": ["sh"], "Env": ["PATH=/bin", "A=ü"], "Labels": {"a": "b"}, "User": "0:0"},
)  # fmt: skip
Trip = Callable[[Path, Path, Path], None]
"""(what was saved, where it is to come back, a directory for stores)."""
SEES = "find /d /home /l | sort | xargs ls -ldn --full-time; cat /d/two /home/new; env | grep A="


@pytest.fixture(scope="module")
def wherry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    root = Path(leaks.engine_roots() + secrets.token_hex(3))
    archive = str(tmp_path_factory.mktemp("images") / "busybox.tar")
    with running(Engine(root), images.write_docker_archive(archive, images.busybox_spec(), BUSYBOX)) as engine:
        yield engine
    shutil.rmtree(root)


@pytest.fixture
def stores() -> Iterator[Path]:
    """A short path: podman takes no more than 50 characters."""
    place = Path(f"/tmp/wherry-trip-{secrets.token_hex(3)}")
    place.mkdir()
    yield place
    shutil.rmtree(place)


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def containers_storage(program: str) -> Trip:
    def trip(saved: Path, back: Path, stores: Path) -> None:
        store = [program, "--root", stores / "root", "--runroot", stores / "run", "--storage-driver", "vfs"]
        run(*store, "pull", "--quiet", f"docker-archive:{saved}")
        run(*store, "push", "--quiet", images.image_id(SPEC), f"docker-archive:{back}:{NAME}")

    return trip


def skopeo(saved: Path, back: Path, stores: Path) -> None:
    skopeo_copy(f"oci-archive:{saved}", f"oci:{stores}/layout:1", "--preserve-digests")
    skopeo_copy(f"oci:{stores}/layout:1", f"oci-archive:{back}:{NAME}", "--preserve-digests")


def named(layout: Path, archive: Path) -> None:
    """The layout as an archive, its image called NAME."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"io.containerd.image.name": NAME}
    (layout / "index.json").write_text(json.dumps(index))
    with tarfile.open(archive, "w") as tar:
        tar.add(layout, ".")


def umoci(saved: Path, back: Path, stores: Path) -> None:
    """Its layout goes back as it is."""
    skopeo_copy(f"oci-archive:{saved}", f"oci:{stores}/layout:1", "--preserve-digests")
    run("umoci", "tag", "--image", f"{stores}/layout:1", "2")
    run("umoci", "rm", "--image", f"{stores}/layout:1")
    run("umoci", "gc", "--layout", stores / "layout")
    named(stores / "layout", back)


KEEPS_DIGESTS = ("skopeo", "umoci")
TRIPS = {
    "skopeo": skopeo,
    "podman": containers_storage("podman"),
    "buildah": containers_storage("buildah"),
    "umoci": umoci,
}


@dataclass(frozen=True)
class Seen:
    """Of the image as it is here: what a container sees, among others; a container of it changes nothing."""

    id: str
    diff_ids: tuple[str, ...]
    digest: str
    output: str


def seen(engine: Engine) -> Seen:
    [found] = json.loads(engine.output("image", "inspect", NAME))
    output = engine.output("run", "--name=trip", "--network=none", NAME, "sh", "-c", SEES)
    assert engine.output("diff", "trip") == ""
    engine.docker("rm", "trip")
    return Seen(found["Id"], tuple(found["RootFS"]["Layers"]), found["Descriptor"]["digest"], output)


@pytest.fixture
def loaded(wherry: Engine, tmp_path: Path) -> Iterator[Engine]:
    """Its layers are compressed, its manifest is another's."""
    images.write_oci_layout(str(tmp_path / "first"), SPEC)
    named(tmp_path / "first", tmp_path / "first.tar")
    wherry.docker("load", "-q", "-i", str(tmp_path / "first.tar"))
    yield wherry
    wherry.docker("rmi", "-f", NAME)


def there_and_back(engine: Engine, trip: Trip, tmp_path: Path, stores: Path, *, keeps_digest: bool) -> None:
    before = seen(engine)
    assert before.id == images.image_id(SPEC)
    index = json.loads((tmp_path / "first/index.json").read_text())
    assert before.digest == index["manifests"][0]["digest"]
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), NAME)
    trip(tmp_path / "saved.tar", tmp_path / "back.tar", stores)
    engine.docker("rmi", NAME)
    engine.docker("load", "-q", "-i", str(tmp_path / "back.tar"))
    after = seen(engine)
    assert (after.digest == before.digest) == keeps_digest
    assert replace(after, digest="") == replace(before, digest="")


@pytest.mark.requires("skopeo", "podman", "buildah", "umoci")
@pytest.mark.parametrize("tool", TRIPS)
def test_through_a_tool_and_back(loaded: Engine, tool: str, tmp_path: Path, stores: Path) -> None:
    there_and_back(loaded, TRIPS[tool], tmp_path, stores, keeps_digest=tool in KEEPS_DIGESTS)


@pytest.mark.requires("dockerd")
def test_through_dockerd_and_back(loaded: Engine, shared_dockerd: Dockerd, tmp_path: Path, stores: Path) -> None:
    def trip(saved: Path, back: Path, _: Path) -> None:
        shared_dockerd.must("load", "-q", "-i", str(saved))
        assert shared_dockerd.must("images", "-q", "--no-trunc", "trip:1").strip() == images.image_id(SPEC)
        shared_dockerd.must("save", "-o", str(back), NAME)
        shared_dockerd.must("rmi", NAME)

    there_and_back(loaded, trip, tmp_path, stores, keeps_digest=False)


@pytest.mark.requires("containerd")
def test_through_containerd_and_back(
    loaded: Engine, shared_containerd: Containerd, tmp_path: Path, stores: Path
) -> None:
    def trip(saved: Path, back: Path, _: Path) -> None:
        shared_containerd.must("image", "import", "--snapshotter=native", str(saved))
        shared_containerd.must("image", "export", str(back), NAME)
        shared_containerd.must("image", "rm", NAME)

    there_and_back(loaded, trip, tmp_path, stores, keeps_digest=True)


@pytest.mark.requires("skopeo")
def test_through_registries_and_back_with_the_same_digest(loaded: Engine, tmp_path: Path) -> None:
    before = seen(loaded)
    with wherry_registry(tmp_path / "registry") as served:
        first, second = f"{served.host}/first:1", f"{served.host}/second:1"
        loaded.docker("tag", NAME, first)
        loaded.docker("push", "-q", first)
        skopeo_copy(f"docker://{first}", f"oci:{tmp_path}/layout:1", "--preserve-digests")
        skopeo_copy(f"oci:{tmp_path}/layout:1", f"docker://{second}", "--preserve-digests")
        digest = run("skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{first}").strip()
        assert digest == before.digest
        loaded.docker("rmi", first, NAME)
        loaded.docker("pull", "-q", second)
        assert (
            f"{served.host}/second@{digest}" in json.loads(loaded.output("image", "inspect", second))[0]["RepoDigests"]
        )
        loaded.docker("tag", second, NAME)
        loaded.docker("rmi", second)
    assert seen(loaded) == before
