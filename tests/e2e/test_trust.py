"""The trust policy at pull and at run: the real docker CLI, Debian's registry, and whoever would get past it."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import images
from tests.e2e.conftest import _new_root
from tests.e2e.harness import BUSYBOX, Engine, nothing_left, running, wait_until
from tests.images import Entry, ImageSpec, busybox_layer, image_id, layer
from tests.registry import OCI_INDEX, OCI_MANIFEST, digest_of, docker_registry, skopeo_copy, wherry_registry
from wherry.distribution.client import Repository
from wherry.distribution.connection import new_session
from wherry.distribution.hosts import RegistryHosts
from wherry.distribution.upload import Target
from wherry.spec.calls import RegistryAuth
from wherry.spec.reference import parse
from wherry.trust import cosign, signatures
from wherry.trust.keys import generate, load_private

pytestmark = pytest.mark.requires("registry", "skopeo")

REJECTED = "is rejected by policy"
Policy = dict[str, Any]


@dataclass
class Lab:
    """An engine with a policy, a registry, and the keys of two teams."""

    engine: Engine
    host: str
    root: Path

    @property
    def policy_path(self) -> Path:
        return self.root / "policy.json"

    def write_policy(self, policy: Policy | str) -> None:
        self.policy_path.write_text(policy if isinstance(policy, str) else json.dumps(policy))

    def policy(self, **changed: Any) -> Policy:
        """Nothing is let in, but for: what ann signed in team, what bob signed in other, anything in open, and the images of the test itself."""
        accept = [{"type": "insecureAcceptAnything"}]
        scopes = {
            f"{self.host}/team": self.signed("ann"),
            f"{self.host}/other": self.signed("bob"),
            f"{self.host}/open": accept,
            "docker.io/library/busybox": accept,
            "docker.io/library/mirrored": self.signed("ann"),
        }
        return {"default": [{"type": "reject"}], "transports": {"docker": {**scopes, **changed}}}

    def signed(self, who: str) -> list[Any]:
        return [{"type": "sigstoreSigned", "keyPath": str(self.root / f"{who}.pub")}]

    def reload(self, policy: Policy | str | None, says: str) -> None:
        """Has the engine read another policy (None: find none); returns once it has said so."""
        if policy is None:
            self.policy_path.unlink()
        else:
            self.write_policy(policy)
        before = self.engine.log().count(says)
        assert self.engine.process is not None
        self.engine.process.send_signal(signal.SIGHUP)
        wait_until(says, lambda: self.engine.log().count(says) > before)

    def push(self, name: str, text: str, layout: Path) -> ImageSpec:
        """An image that prints `text`, in the registry."""
        own = layer([Entry("text", text.encode() * 100)])
        spec = ImageSpec((busybox_layer(), own), {"Cmd": ["echo", text], "Env": ["PATH=/bin"]})
        images.write_oci_layout(str(layout), spec)
        skopeo_copy(f"oci:{layout}:latest", f"docker://{self.host}/{name}")
        shutil.rmtree(layout)
        return spec

    def sign(self, name: str, who: str, *, claimed: str = "") -> str:
        """→ the digest. `claimed`: the repository that the signature names, if another than the image's."""
        reference = parse(f"{self.host}/{name}")
        key = load_private((self.root / f"{who}.key").read_bytes(), name=who)

        async def run() -> str:
            hosts = RegistryHosts()
            async with new_session() as session:
                repository = await Repository.open(session, hosts, reference, RegistryAuth())
                target = await Target.open(session, hosts, reference, RegistryAuth())
                image = await signatures.resolve(repository, reference)
                named = parse(claimed) if claimed else reference
                await signatures.publish(target, image, named, key)
                return image.digest

        return asyncio.run(run())

    def put(self, path: str, data: bytes, media_type: str) -> None:
        connection = http.client.HTTPConnection(self.host)
        connection.request("PUT", f"/v2/{path}", data, {"Content-Type": media_type})
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        connection.close()

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.host)
        connection.request("GET", f"/v2/{path}", headers={"Accept": f"{OCI_MANIFEST}, {OCI_INDEX}"})
        data = connection.getresponse().read()
        connection.close()
        return data

    def blob_file(self, digest: str) -> Path:
        name = digest.partition(":")[2]
        return self.root / "registry/data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def refused(self, *words: str) -> str:
        """docker's words of why not; nothing of it may have stayed."""
        before, blobs = self.engine.objects(), self.blobs()
        done = self.engine.docker(*words, check=False)
        assert done.returncode != 0, done.stdout
        assert self.engine.objects() == before
        assert self.blobs() == blobs
        return done.stderr

    def blobs(self) -> frozenset[str]:
        return frozenset(os.listdir(self.engine.data_root / "content/blobs/sha256"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, archive: str) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("trust")
    for who in ("ann", "bob"):
        private, public = generate()
        (root / f"{who}.key").write_bytes(private)
        (root / f"{who}.pub").write_bytes(public)
    engine_root = _new_root()
    with docker_registry(root / "registry") as host, nothing_left():
        arguments = (f"--trust-policy={root / 'policy.json'}", f"--registry-mirror=http://{host}")
        lab = Lab(Engine(engine_root, "wherryd", arguments), host, root)
        lab.write_policy(lab.policy())
        with running(lab.engine, archive):
            yield lab
    shutil.rmtree(engine_root)


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    before = shared.engine.objects()
    yield shared
    shared.engine.remove_everything_new(before)


def test_what_is_not_signed_does_not_come_in(lab: Lab, tmp_path: Path) -> None:
    lab.push("team/unsigned:1", "x", tmp_path / "layout")
    name = f"{lab.host}/team/unsigned:1"
    words = lab.refused("pull", name)
    assert f"Error response from daemon: image {name} {REJECTED}: a signature was required" in words
    status, answer = lab.engine.api("POST", f"/images/create?fromImage={lab.host}/team/unsigned&tag=1")
    assert status == 403 and REJECTED in answer["message"]
    assert REJECTED in lab.refused("run", "--rm", name)  # it pulls what is not there
    lab.push("elsewhere/app:1", "x", tmp_path / "layout")
    assert f"image {lab.host}/elsewhere/app:1 {REJECTED}" in lab.refused("pull", f"{lab.host}/elsewhere/app:1")
    assert "No such image" in lab.refused(
        "create", "--pull=never", "hello-world"
    )  # wherryd's own, which nobody has signed


def test_what_is_signed_comes_in_and_runs_without_its_registry(lab: Lab, tmp_path: Path) -> None:
    lab.push("team/app:1", "signed", tmp_path / "layout")
    digest = lab.sign("team/app:1", "ann")
    name = f"{lab.host}/team/app:1"
    lab.engine.docker("pull", "-q", name)
    os.rename(lab.root / "registry/data", lab.root / "registry/away")
    try:
        for ref in (name, f"{lab.host}/team/app@{digest}", lab.engine.output("images", "-q", name)):
            assert lab.engine.output("run", "--rm", "--network=none", ref) == "signed"
    finally:
        os.rename(lab.root / "registry/away", lab.root / "registry/data")
    lab.engine.docker("rmi", name)
    lab.engine.docker("pull", "-q", f"{lab.host}/team/app@{digest}")
    assert lab.engine.output("run", "--rm", "--network=none", f"{lab.host}/team/app@{digest}") == "signed"


def test_all_tags_of_a_repository_are_those_of_images(lab: Lab, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        lab.push(f"team/all:{tag}", tag, tmp_path / "layout")
        lab.sign(f"team/all:{tag}", "ann")
    lab.engine.docker("pull", "-q", "-a", f"{lab.host}/team/all")
    assert sorted(lab.engine.output("images", "--format={{.Tag}}", f"{lab.host}/team/all").split()) == ["1", "2"]


def test_another_key_and_another_repository_prove_nothing(lab: Lab, tmp_path: Path) -> None:
    lab.push("team/bobs:1", "x", tmp_path / "layout")
    digest = lab.sign("team/bobs:1", "bob")
    assert f"none of its 1 signatures is of {digest}" in lab.refused("pull", f"{lab.host}/team/bobs:1")
    lab.push("team/moved:1", "moved", tmp_path / "layout")
    lab.sign("team/moved:1", "ann", claimed=f"{lab.host}/team/first")
    assert "none of its 1 signatures" in lab.refused("pull", f"{lab.host}/team/moved:1")


def test_names_given_here_are_no_way_around(lab: Lab, tmp_path: Path) -> None:
    engine = lab.engine
    spec = lab.push("open/app:1", "open", tmp_path / "layout")
    opened, team = f"{lab.host}/open/app:1", f"{lab.host}/team/tagged:1"
    engine.docker("pull", "-q", opened)
    assert engine.output("run", "--rm", "--network=none", opened) == "open"
    engine.docker("tag", opened, team)
    assert "no signature exists" in lab.refused("create", team)
    status, answer = engine.api("POST", "/containers/create", {"Image": team})
    assert status == 403 and REJECTED in answer["message"]
    # one team's signature does not hold for the other's repositories
    lab.push("team/good:1", "good", tmp_path / "layout")
    lab.sign("team/good:1", "ann")
    engine.docker("pull", "-q", f"{lab.host}/team/good:1")
    engine.docker("tag", f"{lab.host}/team/good:1", f"{lab.host}/other/good:1")
    assert "none of its 1 signatures" in lab.refused("create", f"{lab.host}/other/good:1")
    # loaded, imported, committed
    loaded = ImageSpec((busybox_layer(),), {"Cmd": ["echo", "loaded"]})
    path = images.write_docker_archive(str(tmp_path / "a.tar"), loaded, f"{lab.host}/team/loaded:1")
    engine.docker("load", "-q", "-i", path)
    for ref in (f"{lab.host}/team/loaded:1", image_id(loaded), f"{lab.host}/open/x@{image_id(loaded)}"):
        assert "no signature exists" in lab.refused("create", ref)
    (tmp_path / "fs.tar").write_bytes(busybox_layer())
    engine.docker("import", str(tmp_path / "fs.tar"), f"{lab.host}/team/imported:1")
    assert REJECTED in lab.refused("create", f"{lab.host}/team/imported:1", "true")
    unnamed = engine.output("import", str(tmp_path / "fs.tar"))
    assert "it has no name" in lab.refused("create", unnamed, "true")
    container = engine.output("create", opened)
    engine.docker("commit", container, f"{lab.host}/team/committed:1")
    assert REJECTED in lab.refused("create", f"{lab.host}/team/committed:1")
    assert engine.inspect(opened)["Id"] == image_id(spec)


def test_the_policy_of_the_moment_counts_at_each_start(lab: Lab, tmp_path: Path) -> None:
    engine = lab.engine
    lab.push("open/later:1", "later", tmp_path / "layout")
    name = f"{lab.host}/open/later:1"
    engine.docker("pull", "-q", name)
    container = engine.output("create", "--network=none", name)
    engine.docker("start", "-a", container)
    stricter = lab.policy(**{f"{lab.host}/open": [{"type": "reject"}]})
    try:
        lab.reload(stricter, "configuration reloaded")
        status, answer = engine.api("POST", f"/containers/{container}/start")
        assert (status, answer["message"]) == (403, f"image {name} {REJECTED}")
        assert engine.state(container)["Error"] == f"image {name} {REJECTED}"
        assert REJECTED in lab.refused("run", name)
        lab.reload("{", "the configuration stays as it was")
        assert REJECTED in lab.refused("start", container)
        lab.reload(None, "the configuration stays as it was")
        assert REJECTED in lab.refused("start", container)
    finally:
        lab.reload(lab.policy(), "configuration reloaded")
    engine.docker("start", "-a", container)


def test_a_container_whose_image_has_gone_is_judged_by_what_it_was_called(lab: Lab, tmp_path: Path) -> None:
    engine = lab.engine
    lab.push("open/gone:1", "gone", tmp_path / "layout")
    name = f"{lab.host}/open/gone:1"
    engine.docker("pull", "-q", name)
    by_name = engine.output("create", "--network=none", name)
    by_id = engine.output("create", "--network=none", engine.output("images", "-q", name))
    engine.docker("rmi", "-f", engine.output("images", "-q", name))
    assert engine.output("start", "-a", by_name) == "gone"
    assert "it has no name" in engine.docker("start", by_id, check=False).stderr


def test_signatures_travel_with_save_and_load(lab: Lab, tmp_path: Path) -> None:
    engine = lab.engine
    lab.push("team/saved:1", "saved", tmp_path / "layout")
    lab.sign("team/saved:1", "ann")
    name = f"{lab.host}/team/saved:1"
    engine.docker("pull", "-q", name)
    engine.docker("save", "-o", str(tmp_path / "saved.tar"), name)
    engine.docker("rmi", "-f", engine.output("images", "-q", name))
    engine.docker("load", "-q", "-i", str(tmp_path / "saved.tar"))
    assert engine.output("run", "--rm", "--network=none", name) == "saved"


def test_a_signed_index_vouches_for_what_came_by_it(lab: Lab, tmp_path: Path) -> None:
    engine = lab.engine
    spec = lab.push("team/multi:amd64", "multi", tmp_path / "layout")
    manifest = lab.get("team/multi/manifests/amd64")
    child = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(manifest),
        "size": len(manifest),
        "platform": {"os": "linux", "architecture": spec.architecture},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]}).encode()
    lab.put("team/multi/manifests/1", index, OCI_INDEX)
    lab.sign("team/multi:1", "ann")
    by_child = f"{lab.host}/team/multi@{child['digest']}"
    assert REJECTED in lab.refused("pull", by_child)
    engine.docker("pull", "-q", f"{lab.host}/team/multi:1")
    assert engine.output("run", "--rm", "--network=none", image_id(spec)) == "multi"
    platform = f"linux/{spec.architecture}"
    assert (
        engine.output("run", "--rm", "--network=none", f"--platform={platform}", f"{lab.host}/team/multi:1") == "multi"
    )


def test_a_mirror_is_judged_as_what_it_mirrors(lab: Lab, tmp_path: Path) -> None:
    lab.push("library/mirrored:1", "mirrored", tmp_path / "layout")
    assert "a signature was required" in lab.refused("pull", "mirrored:1")
    lab.sign("library/mirrored:1", "ann")  # for the mirror's own repository
    assert "none of its 1 signatures" in lab.refused("pull", "mirrored:1")
    lab.sign("library/mirrored:1", "ann", claimed="docker.io/library/mirrored")
    lab.engine.docker("pull", "-q", "mirrored:1")
    assert lab.engine.output("run", "--rm", "--network=none", "mirrored:1") == "mirrored"


@pytest.mark.parametrize("what", ["manifest", "config", "layer", "document", "signature"])
def test_what_was_tampered_with_is_refused(lab: Lab, tmp_path: Path, what: str) -> None:
    name = f"team/{what}:1"
    lab.push(name, what, tmp_path / "layout")
    digest = lab.sign(name, "ann")
    tag = cosign.tag_of(parse(f"x@{digest}").digest or "")  # type: ignore[arg-type]
    manifest = json.loads(lab.get(f"team/{what}/manifests/1"))
    signed = json.loads(lab.get(f"team/{what}/manifests/{tag}"))
    if what == "signature":
        encoded = signed["layers"][0]["annotations"][cosign.SIGNATURE]
        forged = bytearray(base64.b64decode(encoded))
        forged[-1] ^= 1
        signed["layers"][0]["annotations"][cosign.SIGNATURE] = base64.b64encode(forged).decode()
        lab.put(
            f"team/{what}/manifests/{tag}", json.dumps(signed).encode(), "application/vnd.oci.image.manifest.v1+json"
        )
    else:
        victim = {
            "manifest": digest,
            "config": manifest["config"]["digest"],
            "layer": manifest["layers"][1]["digest"],
            "document": signed["layers"][0]["digest"],
        }[what]
        path = lab.blob_file(victim)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    words = lab.refused("pull", f"{lab.host}/{name}")
    expected = {"signature": "none of its 1 signatures", "manifest": "manifest"}
    assert expected.get(what, "verif") in words, words


def stored(lab: Lab, name: str, tmp_path: Path) -> dict[str, Path]:
    """Pulls a signed image that prints `name`. → the files of its blobs."""
    lab.push(f"team/{name}:1", name, tmp_path / "layout")
    digest = lab.sign(f"team/{name}:1", "ann")
    manifest = json.loads(lab.get(f"team/{name}/manifests/1"))
    lab.engine.docker("pull", "-q", f"{lab.host}/team/{name}:1")
    blobs = lab.engine.data_root / "content/blobs/sha256"
    found = {"manifest": digest, "config": manifest["config"]["digest"], "layer": manifest["layers"][1]["digest"]}
    paths = {what: blobs / digest.partition(":")[2] for what, digest in found.items()}
    texts = {path: path.read_bytes() for path in blobs.iterdir() if path.stat().st_size < 10_000}
    [paths["document"]] = [path for path, text in texts.items() if b'{"critical"' in text and digest.encode() in text]
    [paths["signature"]] = [path for path, text in texts.items() if b'"subject"' in text and digest.encode() in text]
    return paths


def flip(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize("what", ["manifest", "document", "signature"])
def test_tampering_with_the_store_is_noticed_at_run(lab: Lab, tmp_path: Path, what: str) -> None:
    path = stored(lab, f"store-{what}", tmp_path)[what]
    name, data = f"{lab.host}/team/store-{what}:1", path.read_bytes()
    container = lab.engine.output("create", "--network=none", name)
    old = {"manifest": b"layers", "document": b"cosign", "signature": b"cosign"}[what]
    flip(path, old, old.title())
    refused = lab.engine.docker("create", name, check=False).stderr
    assert "damaged" in refused or "a signature was required" in refused, refused
    assert lab.engine.docker("start", container, check=False).returncode == 1
    path.write_bytes(data)
    assert lab.engine.output("run", "--rm", "--network=none", name) == f"store-{what}"


def test_what_is_run_is_what_was_verified_whatever_becomes_of_the_blobs(lab: Lab, tmp_path: Path) -> None:
    """Another command in the config, another file in the layer: no container sees it, no archive and no registry gets it, and the next start of the
    engine refuses the image."""
    paths, name = stored(lab, "blobs", tmp_path), f"{lab.host}/team/blobs:1"
    before = {what: path.read_bytes() for what, path in paths.items()}
    flip(paths["config"], b'"blobs"', b'"other"')
    data = bytearray(before["layer"])
    data[len(data) // 2] ^= 1
    paths["layer"].write_bytes(data)
    assert lab.engine.output("run", "--rm", "--network=none", name) == "blobs"
    assert lab.engine.output("run", "--rm", "--network=none", name, "cat", "/text") == "blobs" * 100
    with wherry_registry(tmp_path / "empty") as empty:  # into one that has the layers already, nothing of them is sent
        lab.engine.docker("tag", name, f"{empty.host}/blobs:1")
        pushed = lab.engine.docker("push", f"{empty.host}/blobs:1", check=False)
        assert pushed.returncode == 1 and "digest" in pushed.stderr, pushed.stderr
    saved = lab.engine.docker("save", "-o", str(tmp_path / "saved.tar"), name, check=False)
    if saved.returncode == 0:
        assert "digest" in lab.engine.docker("load", "-i", str(tmp_path / "saved.tar"), check=False).stderr
    lab.engine.stop()
    lab.engine.start()
    assert "is damaged" in lab.engine.docker("create", "--pull=never", name, check=False).stderr
    lab.engine.docker("pull", "-q", name)
    assert lab.engine.output("run", "--rm", "--network=none", name) == "blobs"


def test_a_referrer_alone_is_enough(lab: Lab, tmp_path: Path) -> None:
    with wherry_registry(tmp_path / "registry") as served:
        there = Lab(lab.engine, served.host, lab.root)
        spec = there.push("team/referred:1", "referred", tmp_path / "layout")
        digest = there.sign("team/referred:1", "ann")
        connection = http.client.HTTPConnection(served.host)
        connection.request("DELETE", f"/v2/team/referred/manifests/{digest.replace(':', '-')}.sig")
        assert connection.getresponse().status == 202
        connection.close()
        try:
            lab.reload(lab.policy(**{f"{served.host}/team": lab.signed("ann")}), "configuration reloaded")
            lab.engine.docker("pull", "-q", f"{served.host}/team/referred:1")
            assert lab.engine.output("run", "--rm", "--network=none", image_id(spec)) == "referred"
        finally:
            lab.reload(lab.policy(), "configuration reloaded")


def wherry(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wherry.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **lab.engine.client_environment},
        check=False,
        timeout=300,
    )


def test_the_policy_is_shown_and_set(lab: Lab, tmp_path: Path) -> None:
    shown = wherry(lab, "image", "trust", "show", f"{lab.host}/team/app:1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1].split()[:3] == [f"{lab.host}/team", "sigstoreSigned", f"{lab.root}/ann.pub"]
    every = wherry(lab, "image", "trust", "show").stdout
    assert every.splitlines()[1].split() == ["default", "reject"]
    assert every.count("sigstoreSigned") == 3
    document = json.loads(wherry(lab, "image", "trust", "show", "--format=json", "busybox").stdout)
    assert document["Rule"]["Image"] == "docker.io/library/busybox:latest"
    assert document["Rule"]["Scope"] == "docker.io/library/busybox"
    file = str(tmp_path / "policy.json")
    key = str(lab.root / "ann.pub")
    for words in (("--type=reject", "default"), ("--key", key, "registry.example/team")):
        done = wherry(lab, "image", "trust", "set", "--policy", file, *words)
        assert done.returncode == 0, done.stderr
    assert json.loads(Path(file).read_text()) == {
        "default": [{"type": "reject"}],
        "transports": {"docker": {"registry.example/team": [{"type": "sigstoreSigned", "keyPaths": [key]}]}},
    }
    wrong = wherry(lab, "image", "trust", "set", "--policy", file, "--type=accept", "busybox")
    assert wrong.returncode == 1 and "docker.io/library/busybox" in wrong.stderr


def test_a_broken_policy_keeps_the_engine_from_starting(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"default": []}')
    wherryd = Path(sys.executable).parent / "wherryd"
    for path, words in (("policy.json", "at least one requirement"), ("absent.json", "no such file")):
        done = subprocess.run(
            [wherryd, "--validate", f"--trust-policy={tmp_path}/{path}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and words in done.stderr and path in done.stderr
    assert BUSYBOX in lab.engine.objects()["images"]


@pytest.mark.parametrize("ours", [True, False])
def test_signatures_go_along_with_a_push_that_is_asked_to_take_them(lab: Lab, tmp_path: Path, ours: bool) -> None:
    """To a registry with a list of referrers and one without; an image that is pushed back is let in again, by the same policy, and by others that
    look under cosign's tag."""
    name = "team/along:1" if ours else "team/along:2"
    text = f"along {ours}"
    lab.push(name, text, tmp_path / "layout")
    digest = lab.sign(name, "ann")
    lab.engine.docker("pull", "-q", f"{lab.host}/{name}")
    with ExitStack() as stack:
        root = tmp_path / "r"
        host = stack.enter_context(wherry_registry(root)).host if ours else stack.enter_context(docker_registry(root))
        mirrored = f"{host}/copy/along:1"
        lab.engine.docker("tag", f"{lab.host}/{name}", mirrored)
        lab.engine.docker("push", "-q", mirrored)
        other = Lab(lab.engine, host, lab.root)
        assert b"UNKNOWN" in other.get(f"copy/along/manifests/{cosign.tag_of(digest)}")
        done = wherry(lab, "push", "--referrers", mirrored)
        assert done.returncode == 0 and "Refers to sha256:" in done.stdout, done.stderr
        assert wherry(lab, "push", "--referrers", mirrored).returncode == 0
        [layer] = json.loads(other.get(f"copy/along/manifests/{cosign.tag_of(digest)}"))["layers"]
        assert layer["mediaType"] == cosign.PAYLOAD_TYPE
        where = f"referrers/{digest}" if ours else f"manifests/{digest.replace(':', '-')}"
        [referrer] = json.loads(other.get(f"copy/along/{where}"))["manifests"]
        assert referrer["artifactType"] == cosign.ARTIFACT_TYPE
        repository = parse(f"{lab.host}/{name}").name
        moved = {"type": "remapIdentity", "prefix": f"{host}/copy/along", "signedPrefix": repository}
        rule = [lab.signed("ann")[0] | {"signedIdentity": moved}]
        lab.engine.docker("rmi", "-f", lab.engine.output("images", "-q", mirrored))
        try:
            lab.reload(lab.policy(**{f"{host}/copy": rule}), "configuration reloaded")
            lab.engine.docker("pull", "-q", mirrored)
            assert lab.engine.output("run", "--rm", "--network=none", mirrored) == text
        finally:
            lab.reload(lab.policy(), "configuration reloaded")
