"""Signing and verifying with the wherry CLI, against Debian's registry (cosign's tag) and wherry's own (referrers as well)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.images import ImageSpec, busybox_layer
from tests.registry import OCI_MANIFEST, docker_registry, skopeo_copy

pytestmark = pytest.mark.requires("registry", "skopeo")

SPEC = ImageSpec(layers=(busybox_layer(),), config={"Cmd": ["sh"]})


def wherry(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wherry.cli", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **environment,
        },
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def image(debian: str, tmp_path: Path) -> str:
    images.write_oci_layout(str(tmp_path / "layout"), SPEC)
    name = f"{debian}/{tmp_path.name.lower()}:1"
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{name}")
    return name


def test_an_image_is_verified_by_the_key_that_signed_it_and_by_no_other(image: str, tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        assert wherry("image", "keygen", name, cwd=tmp_path, WHERRY_KEY_PASSWORD="secret").returncode == 0
    assert (tmp_path / "ann.key").stat().st_mode & 0o777 == 0o600
    unsigned = wherry("image", "verify", "--key", "ann.pub", image, cwd=tmp_path)
    assert unsigned.returncode == 1 and "no signature exists" in unsigned.stderr
    locked = wherry("image", "sign", "--key", "ann.key", image, cwd=tmp_path)
    assert locked.returncode == 1 and "a password is needed" in locked.stderr
    signed = wherry("image", "sign", "--key", "ann.key", image, cwd=tmp_path, WHERRY_KEY_PASSWORD="secret")
    assert signed.returncode == 0, signed.stderr
    assert signed.stdout.startswith(f"{image.rpartition(':')[0]}@sha256:")
    good = wherry("image", "verify", "--key", "bob.pub", "--key", "ann.pub", image, cwd=tmp_path)
    assert good.returncode == 0 and good.stdout.endswith("signed by ann.pub\n"), good.stderr
    bad = wherry("image", "verify", "--key", "bob.pub", image, cwd=tmp_path)
    assert bad.returncode == 1 and "none of its" in bad.stderr
    both = wherry("image", "sign", "--key", "bob.key", image, cwd=tmp_path, WHERRY_KEY_PASSWORD="secret")
    assert both.returncode == 0, both.stderr
    all_ = wherry("image", "verify", "--key", "bob.pub", "--key", "ann.pub", image, cwd=tmp_path)
    assert all_.stdout.count("signed by") == 2


def test_the_signature_lies_where_cosign_looks_for_it(image: str, tmp_path: Path) -> None:
    wherry("image", "keygen", "--no-password", "ann", cwd=tmp_path)
    digest = wherry("image", "sign", "--key", "ann.key", image, cwd=tmp_path).stdout.strip().partition("@")[2]
    tag = f"{image.rpartition(':')[0]}:{digest.replace(':', '-')}.sig"
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{tag}"], check=True, capture_output=True
    ).stdout
    [layer] = json.loads(raw)["layers"]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"


def test_keys_are_not_overwritten_and_missing_ones_are_named(tmp_path: Path) -> None:
    assert wherry("image", "keygen", "--no-password", "ann", cwd=tmp_path).returncode == 0
    again = wherry("image", "keygen", "--no-password", "ann", cwd=tmp_path)
    assert again.returncode == 1 and "ann.key exists already" in again.stderr
    missing = wherry("image", "sign", "--key", "bob.key", "127.0.0.1:9/x", cwd=tmp_path)
    assert missing.returncode == 1 and "bob.key: no such file" in missing.stderr
    keyless = wherry("image", "verify", "127.0.0.1:9/x", cwd=tmp_path)
    assert keyless.returncode == 1 and "--key is needed" in keyless.stderr


# --- others' programs


def openssl(*words: str, cwd: Path) -> str:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True, cwd=cwd).stdout


KEYS = {
    "ec": ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa": ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}


@pytest.mark.requires("openssl")
@pytest.mark.parametrize("kind", ["ours", *KEYS])
def test_openssl_verifies_our_signatures(image: str, tmp_path: Path, kind: str) -> None:
    """With keys of ours and of openssl's: document and signature fetched by a client that knows nothing of us."""
    if kind == "ours":
        wherry("image", "keygen", "--no-password", "ann", cwd=tmp_path)
    else:
        openssl(*KEYS[kind], "-out", "ann.key", cwd=tmp_path)
        openssl("pkey", "-in", "ann.key", "-pubout", "-out", "ann.pub", cwd=tmp_path)
    signed = wherry("image", "sign", "--key", "ann.key", image, cwd=tmp_path)
    assert signed.returncode == 0, signed.stderr
    host, _, name = image.rpartition(":")[0].partition("/")
    digest = signed.stdout.strip().partition("@")[2]

    def get(path: str) -> bytes:
        request = urllib.request.Request(f"http://{host}/v2/{name}/{path}", headers={"Accept": OCI_MANIFEST})
        with urllib.request.urlopen(request) as answer:
            return answer.read()  # type: ignore[no-any-return]

    [layer] = json.loads(get(f"manifests/{digest.replace(':', '-')}.sig"))["layers"]
    (tmp_path / "payload").write_bytes(get(f"blobs/{layer['digest']}"))
    encoded = layer["annotations"]["dev.cosignproject.cosign/signature"]
    (tmp_path / "signature").write_bytes(base64.b64decode(encoded, validate=True))
    verify = ("dgst", "-sha256", "-verify", "ann.pub", "-signature", "signature", "payload")
    assert openssl(*verify, cwd=tmp_path) == "Verified OK\n"
    claim = json.loads((tmp_path / "payload").read_bytes())["critical"]
    assert claim["image"]["docker-manifest-digest"] == digest
    (tmp_path / "payload").write_bytes((tmp_path / "payload").read_bytes() + b" ")
    with pytest.raises(subprocess.CalledProcessError):
        openssl(*verify, cwd=tmp_path)


@pytest.mark.requires("openssl")
@pytest.mark.parametrize("kind", KEYS)
def test_a_signature_made_by_openssl_and_pushed_by_oras_is_verified(image: str, tmp_path: Path, kind: str) -> None:
    """By hand, as cosign's documentation describes the layout."""
    for name in ("ann", "bob"):
        openssl(*KEYS[kind], "-out", f"{name}.key", cwd=tmp_path)
        openssl("pkey", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pub", cwd=tmp_path)
    repository = image.rpartition(":")[0]
    words = ["skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{image}"]
    digest = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    claim = {
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": {"creator": "by hand"},
    }

    def push(claim: object, tag: str) -> None:
        (tmp_path / "payload").write_text(json.dumps(claim, indent=2))
        openssl("dgst", "-sha256", "-sign", "ann.key", "-out", "signature", "payload", cwd=tmp_path)
        encoded = base64.b64encode((tmp_path / "signature").read_bytes()).decode()
        (tmp_path / "annotations").write_text(json.dumps({"payload": {"dev.cosignproject.cosign/signature": encoded}}))
        oras(repository, tag, tmp_path)

    tag = f"{digest.replace(':', '-')}.sig"
    elsewhere = json.loads(json.dumps(claim).replace(repository, f"{repository}/other"))
    push(elsewhere, tag)
    refused = wherry("image", "verify", "--key", "ann.pub", image, cwd=tmp_path)
    assert refused.returncode == 1 and "none of its 1 signatures" in refused.stderr, refused.stderr
    push(claim, tag)
    good = wherry("image", "verify", "--key", "ann.pub", image, cwd=tmp_path)
    assert good.returncode == 0 and good.stdout == f"{repository}@{digest}: signed by ann.pub\n", good.stderr
    assert wherry("image", "verify", "--key", "bob.pub", image, cwd=tmp_path).returncode == 1


def oras(repository: str, tag: str, folder: Path) -> None:
    """Pushes `payload` with its `annotations`."""
    script = (
        "import sys, oras.client; oras.client.OrasClient(insecure=True).push(target=sys.argv[1], "
        "files=['payload:application/vnd.dev.cosign.simplesigning.v1+json'], annotation_file='annotations')"
    )
    words = [sys.executable, "-c", script, f"{repository}:{tag}"]
    subprocess.run(words, check=True, capture_output=True, cwd=folder)
