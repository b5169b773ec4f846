"""Real clients push and pull where they have to trust an authority and to show who they are: `wherry registry serve` with TLS, and with passwords or
with bearer tokens. The registry's address is none of 127.0.0.0/8: there Docker's clients do not verify."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests import images
from tests.images import image_id
from tests.registry import Served, certificates, certs_directory, htpasswd, loopback_address, tls_flags, wherry_registry
from tests.root.test_registry_clients import APP, daemon, succeeds

pytestmark = pytest.mark.requires("openssl", "skopeo")

USER, PASSWORD = "ann", "secret"


@dataclass(frozen=True)
class Lab:
    """`source`: an image in the registry, of the manifest `digest`; `folder` has ca.pem, `certs` the same as ca.crt."""

    served: Served
    folder: Path
    certs: Path
    layout: Path
    digest: str
    tokens: bool

    @property
    def source(self) -> str:
        return f"{self.served.host}/source/app:1"

    def name(self, client: str) -> str:
        return f"{self.served.host}/{client}/app:1"

    def inspect(self, name: str, *form: str) -> str:
        words = (
            "skopeo",
            "inspect",
            "--cert-dir",
            self.certs,
            "--creds",
            f"{USER}:{PASSWORD}",
            *form,
            f"docker://{name}",
        )
        return must(*words).strip()  # fmt: skip

    def digest_of(self, name: str) -> str:
        return self.inspect(name, "--format={{.Digest}}")

    def config_of(self, name: str) -> str:
        return str(json.loads(self.inspect(name, "--raw"))["config"]["digest"])


def done(*words: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


def must(*words: str | Path, stdin: str = "", **environment: str) -> str:
    run = done(*words, stdin=stdin, **environment)
    assert run.returncode == 0, f"{words}: {run.stdout}{run.stderr}"
    return run.stdout


def refused(*words: str | Path, **environment: str) -> str:
    run = done(*words, **environment)
    assert run.returncode != 0, f"{words}: {run.stdout}"
    return (run.stdout + run.stderr).lower()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with loopback_address() as address:
        yield address


@pytest.fixture(scope="module", params=["passwords", "tokens"])
def lab(request: pytest.FixtureRequest, address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    certificates(folder, address)
    (folder / "certs").mkdir()
    shutil.copy(folder / "ca.pem", folder / "certs/ca.crt")
    digest = images.write_oci_layout(str(folder / "layout"), APP)
    users = htpasswd(folder / "users", **{USER: PASSWORD})
    flags = ["--addr", f"{address}:0", *tls_flags(folder)]
    flags += ["--htpasswd", users, *(["--token"] if request.param == "tokens" else [])]
    with wherry_registry(folder, *flags) as served:
        lab = Lab(served, folder, folder / "certs", folder / "layout", digest, request.param == "tokens")
        creds = ("--dest-cert-dir", lab.certs, "--dest-creds", f"{USER}:{PASSWORD}")
        must("skopeo", "copy", "-q", *creds, f"oci:{lab.layout}:latest", f"docker://{lab.source}")
        yield lab


def test_skopeo(lab: Lab, tmp_path: Path) -> None:
    environment = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    source, back = f"docker://{lab.source}", f"oci:{tmp_path}/out:1"
    assert "certificate" in refused("skopeo", "copy", source, back, **environment)
    assert "auth" in refused("skopeo", "copy", "--src-cert-dir", lab.certs, source, back, **environment)
    login = ("skopeo", "login", "--cert-dir", lab.certs, "-u", USER)
    assert "invalid username" in refused(*login, "-p", "wrong", lab.served.host, **environment)
    must(*login, "--password-stdin", lab.served.host, stdin=PASSWORD, **environment)
    must("skopeo", "copy", "-q", "--src-cert-dir", lab.certs, source, back, **environment)
    assert json.loads((tmp_path / "out/index.json").read_text())["manifests"][0]["digest"] == lab.digest
    must("skopeo", "copy", "-q", "--dest-cert-dir", lab.certs, back, f"docker://{lab.name('skopeo')}", **environment)
    assert lab.digest_of(lab.name("skopeo")) == lab.digest


@pytest.mark.parametrize("program", ["podman", "buildah"])
@pytest.mark.requires("podman", "buildah")
def test_podman_and_buildah(lab: Lab, tmp_path: Path, program: str) -> None:
    with tempfile.TemporaryDirectory() as short:  # podman takes no more than 50 characters
        store = (program, "--root", tmp_path / "root", "--runroot", short, "--storage-driver", "vfs")
        options = ("--cert-dir", lab.certs, "--authfile", tmp_path / "auth.json")
        assert "certificate" in refused(*store, "pull", lab.source)
        assert "auth" in refused(*store, "pull", *options[:2], lab.source)
        must(program, "login", *options, "-u", USER, "--password-stdin", lab.served.host, stdin=PASSWORD)
        must(*store, "pull", "-q", *options, lab.source)
        assert must(*store, "images", "--no-trunc", "--quiet").split() == [image_id(APP)]
        must(*store, "push", *options, image_id(APP), f"docker://{lab.name(program)}")
    assert lab.config_of(lab.name(program)) == image_id(APP)


@pytest.mark.requires("containerd")
def test_containerds_ctr(lab: Lab, tmp_path: Path) -> None:
    socket = tmp_path / "sock"
    (tmp_path / "config.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = ""\n'
    )
    ctr = ("ctr", "-a", socket)
    trust, user = ("--tlscacert", lab.folder / "ca.pem"), ("--user", f"{USER}:{PASSWORD}")
    command = ("containerd", "-c", tmp_path / "config.toml")
    with daemon(tmp_path / "log", *command, ready=lambda: succeeds(*ctr, "version")):
        pull = (*ctr, "images", "pull", "--snapshotter", "native")
        assert "certificate" in refused(*pull, *user, lab.source)
        assert "auth" in refused(*pull, *trust, lab.source)
        must(*pull, *trust, *user, lab.source)
        must(*ctr, "images", "push", *trust, *user, lab.name("ctr"), lab.source)
    assert lab.digest_of(lab.name("ctr")) == lab.digest


@pytest.mark.requires("docker", "dockerd")
def test_docker_and_dockerd(lab: Lab, tmp_path: Path) -> None:
    """With tokens, what a login leaves in the client's configuration is an identity token; pulls and pushes exchange it."""
    host = f"unix://{tmp_path}/sock"
    docker = ("docker", "--config", tmp_path / "client", "-H", host)
    command = (
        "dockerd", "--data-root", tmp_path / "data", "--exec-root", tmp_path / "exec", "-H", host, "-p", tmp_path / "pid",
        "--iptables=false", "--bridge=none", "--storage-driver=vfs",
    )  # fmt: skip
    with daemon(tmp_path / "log", *command, ready=lambda: succeeds(*docker, "version")):
        assert "certificate" in refused(*docker, "pull", lab.source)
        with certs_directory("/etc/docker/certs.d", lab.served.host) as certs:  # the only place where it looks
            shutil.copy(lab.folder / "ca.pem", certs / "ca.crt")
            assert "auth" in refused(*docker, "pull", lab.source)
            login = (*docker, "login", "-u", USER, "--password-stdin", lab.served.host)
            must(*login, stdin=PASSWORD)
            kept = json.loads((tmp_path / "client/config.json").read_text())["auths"][lab.served.host]
            assert ("identitytoken" in kept) == lab.tokens
            must(*docker, "pull", "-q", lab.source)
            assert must(*docker, "images", "-q", "--no-trunc").split() == [image_id(APP)]
            must(*docker, "tag", lab.source, lab.name("docker"))
            must(*docker, "push", "-q", lab.name("docker"))
    assert lab.config_of(lab.name("docker")) == image_id(APP)


def test_oras(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import oras.client

    monkeypatch.chdir(tmp_path)
    Path("artifact.txt").write_text("an artifact")
    trust = str(lab.folder / "ca.pem")
    client = oras.client.OrasClient(tls_verify=trust, auth_backend="token" if lab.tokens else "basic")
    if lab.tokens:  # it asks for one token alone, and its first question needs only the right to pull
        query = "service=wherry-registry&scope=repository:oras/artifact:pull,push"
        url = f"{lab.served.url}/token?{query}"
        answer = client.session.get(url, auth=(USER, PASSWORD), verify=trust)
        client.auth.set_token_auth(answer.json()["token"])
    else:
        client.auth.set_basic_auth(USER, PASSWORD)
    target = f"{lab.served.host}/oras/artifact:v1"
    client.push(target=target, files=["artifact.txt"])
    pulled = client.pull(target=target, outdir=str(tmp_path / "out"))
    assert Path(pulled[0]).read_text() == "an artifact"
    assert json.loads(lab.inspect(target, "--raw"))["config"]["mediaType"] == "application/vnd.unknown.config.v1+json"
