"""`wherry manifest` beside `docker manifest`: the same words, the same JSON, the same files, the same index in the registry. No engine runs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import images
from tests.images import Entry, ImageSpec, layer
from tests.registry import OCI_MANIFEST, docker_registry, skopeo_copy, wherry_registry

pytestmark = pytest.mark.requires("registry", "skopeo", "docker")

DOCKER = ("docker",)
WHERRY = (sys.executable, "-m", "wherry.cli")


@dataclass
class Desk:
    """A registry with images for three platforms, one of them in docker's format and in a repository of its own; and both command lines."""

    host: str
    root: Path

    def run(self, who: tuple[str, ...], *words: str, home: str = "") -> subprocess.CompletedProcess[str]:
        config = self.root / (home or who[0].rpartition("/")[2])
        return subprocess.run(
            [*who, "manifest", *(word.replace("HOST", self.host) for word in words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "HOME": str(self.root),
                "DOCKER_CONFIG": str(config),
                "DOCKER_HOST": "unix:///nonexistent",
            },
            check=False,
            timeout=300,
        )

    def both(self, *words: str) -> str:
        """Both succeed, and print the same."""
        docker, wherry = self.run(DOCKER, *words), self.run(WHERRY, *words)
        assert docker.returncode == 0, docker.stderr
        assert wherry.returncode == 0, wherry.stderr
        assert wherry.stdout == docker.stdout
        return wherry.stdout

    def neither(self, *words: str) -> str:
        docker, wherry = self.run(DOCKER, *words), self.run(WHERRY, *words)
        assert docker.returncode == wherry.returncode == 1, (docker, wherry)
        assert wherry.stderr == docker.stderr
        return wherry.stderr

    def raw(self, name: str) -> bytes:
        return subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{self.host}/{name}"],
            check=True,
            capture_output=True,
        ).stdout


@pytest.fixture(scope="module", params=["docker-registry", "wherry"])
def desk(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("manifests")
    if request.param == "wherry":
        with wherry_registry(root / "registry") as served:
            yield _filled(Desk(served.host, root))
    else:
        with docker_registry(root / "registry") as host:
            yield _filled(Desk(host, root))


def _filled(desk: Desk) -> Desk:
    for architecture, name, form in (
        ("amd64", "app:amd64", "oci"),
        ("arm64", "app:arm64", "oci"),
        ("arm", "elsewhere/arm:1", "oci"),
        ("s390x", "app:s390x", "v2s2"),
    ):
        spec = ImageSpec((layer([Entry(architecture, b"<&>")]),), {"Cmd": ["<&>", "é"]}, architecture)
        layout = desk.root / f"layout-{architecture}"
        images.write_oci_layout(str(layout), spec)
        skopeo_copy(f"oci:{layout}:latest", f"docker://{desk.host}/{name}", "--format", form)
    return desk


def test_a_manifest_is_shown_as_docker_shows_it(desk: Desk) -> None:
    for name in ("HOST/app:amd64", "HOST/app:s390x"):
        assert json.loads(desk.both("inspect", "--insecure", name))["schemaVersion"] == 2
        assert "Raw" in desk.both("inspect", "--insecure", "-v", name)
    assert "no such manifest" in desk.neither("inspect", "--insecure", "HOST/app:absent")
    assert "no such manifest" in desk.neither("inspect", "--insecure", "HOST/absent:1")
    desk.neither("inspect", "--insecure", "HOST/App")


def test_a_list_is_made_annotated_pushed_and_removed(desk: Desk) -> None:
    made = ("HOST/app:1", "HOST/app:amd64", "HOST/app:arm64", "HOST/elsewhere/arm:1")
    assert desk.both("create", "--insecure", *made) == f"Created manifest list {desk.host}/app:1\n"
    assert "--amend" in desk.neither("create", "--insecure", *made)
    desk.both("create", "--amend", "--insecure", *made[:2])
    desk.both("annotate", "--variant=v7", "--os-features=a,b", "--os-version=5<6", "HOST/app:1", "HOST/elsewhere/arm:1")
    assert "unsupported os/arch" in desk.neither("annotate", "--arch=pdp11", "HOST/app:1", "HOST/app:arm64")
    assert "does not exist in" in desk.neither("annotate", "--arch=arm", "HOST/app:1", "HOST/app:s390x")
    desk.both("inspect", "HOST/app:1")
    desk.both("inspect", "-v", "HOST/app:1")
    desk.both("inspect", "HOST/app:1", "HOST/elsewhere/arm:1")
    assert "No such manifest" in desk.neither("inspect", "HOST/app:1", "HOST/app:s390x")
    kept = [sorted((desk.root / home / "manifests").rglob("*-*")) for home in ("docker", "python")]
    assert [path.name for path in kept[0]] == [path.name for path in kept[1]] and len(kept[0]) == 4
    assert [one.read_bytes() for one in kept[0] if one.is_file()] == [
        one.read_bytes() for one in kept[1] if one.is_file()
    ]
    pushed = desk.run(WHERRY, "push", "--insecure", "HOST/app:1")
    assert pushed.returncode == 0, pushed.stderr
    ours = desk.raw("app:1")
    again = desk.run(DOCKER, "push", "--insecure", "--purge", "HOST/app:1")
    assert again.stdout == pushed.stdout and pushed.stdout.startswith(f"Pushed ref {desk.host}/app@sha256:")
    assert desk.raw("app:1") == ours
    assert len(json.loads(ours)["manifests"]) == 3
    assert desk.run(WHERRY, "rm", "HOST/app:1").returncode == 0
    assert "No such manifest" in desk.neither("rm", "HOST/app:1")
    assert "No such manifest" in desk.neither("push", "HOST/app:1")
    # now it is the registry's
    desk.both("inspect", "--insecure", "HOST/app:1")
    desk.both("inspect", "--insecure", "-v", "HOST/app:1")
    assert "is a manifest list" in desk.neither("create", "--insecure", "HOST/app:2", "HOST/app:1")


def test_each_goes_on_with_the_others_list(desk: Desk) -> None:
    for first, then in ((DOCKER, WHERRY), (WHERRY, DOCKER)):
        one = desk.run(first, "create", "--insecure", "HOST/app:both", "HOST/app:s390x", home="shared")
        assert one.returncode == 0, one.stderr
        two = desk.run(then, "create", "--amend", "--insecure", "HOST/app:both", "HOST/app:amd64", home="shared")
        assert two.returncode == 0, two.stderr
        push = desk.run(then, "push", "-p", "--insecure", "HOST/app:both", home="shared")
        assert push.returncode == 0, push.stderr
        assert not list((desk.root / "shared/manifests").iterdir())
        platforms = {entry["platform"]["architecture"] for entry in json.loads(desk.raw("app:both"))["manifests"]}
        assert platforms == {"amd64", "s390x"}


def test_images_of_another_registry_and_damaged_files_are_refused(desk: Desk) -> None:
    desk.both("create", "--insecure", "other.example/app:1", "HOST/app:amd64")
    assert "different registry" in desk.neither("push", "other.example/app:1")
    [file] = (desk.root / "python/manifests/other.example_app-1").iterdir()
    file.write_text(file.read_text().replace('"Raw":"eyJ', '"Raw":"eyK'))
    damaged = desk.run(WHERRY, "inspect", "other.example/app:1")
    assert damaged.returncode == 1 and str(file) in damaged.stderr
    desk.both("rm", "other.example/app:1")


@pytest.mark.parametrize("said", ['"os":{"a":1}', '"os":"linux","os.features":5', '"architecture":7'])
def test_a_platform_that_is_none_is_refused(desk: Desk, said: str) -> None:
    config = f"{{{said}}}".encode()
    digest = _push(desk.host, "blobs/uploads/", config)
    part = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": part, "layers": []}
    _push(desk.host, "manifests/odd", json.dumps(document).encode())
    for words in (("inspect", "-v", "HOST/odd:odd"), ("create", "HOST/odd:list", "HOST/odd:odd")):
        refused = desk.run(WHERRY, words[0], "--insecure", *words[1:])
        assert refused.returncode == 1 and digest in refused.stderr
        assert "internal error" not in refused.stderr


def _push(host: str, rest: str, data: bytes) -> str:
    """A blob or a manifest of the repository `odd`. → its digest."""
    digest, base = f"sha256:{hashlib.sha256(data).hexdigest()}", f"http://{host}/v2/odd/"
    url, headers = base + rest, {"Content-Type": OCI_MANIFEST}
    if rest.startswith("blobs"):
        with urllib.request.urlopen(urllib.request.Request(url, method="POST", data=b"")) as begun:
            url = urllib.parse.urljoin(url, begun.headers["Location"])
        url, headers = f"{url}{'&' if '?' in url else '?'}digest={digest}", {"Content-Type": "application/octet-stream"}
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", data=data, headers=headers)):
        return digest
