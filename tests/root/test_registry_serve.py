"""`wherry registry serve` as a process: how it starts, refuses to, ends, is killed; TLS and who it lets in."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import pytest
from tests.registry import METRICS, WHERRY, Served, certificates, htpasswd, wherry_registry

DATA = os.urandom(3_000_000)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def ask(served: Served, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(served.host, timeout=300)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


def push(served: Served, repository: str, data: bytes) -> int:
    return ask(served, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}", data)[0]


def refusal(*flags: str) -> str:
    """What it says when it does not start."""
    done = subprocess.run(
        [WHERRY, "registry", "serve", *flags], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr.strip()


def test_it_says_where_it_serves_what_and_ends_cleanly_with_what_is_under_way(tmp_path: Path) -> None:
    with wherry_registry(tmp_path) as served:
        assert served.said == f"wherry: registry serves {tmp_path}/registry on {served.url}\n"
        connection = http.client.HTTPConnection(served.host, timeout=300)
        connection.putrequest("POST", f"/v2/a/blobs/uploads/?digest={digest_of(DATA)}")
        connection.putheader("Content-Length", str(len(DATA)))
        connection.endheaders(DATA[:1_000_000])
        assert ask(served, "GET", "/v2/")[0] == 200
        served.process.send_signal(signal.SIGTERM)
        assert served.process.stderr is not None
        assert served.process.stderr.readline() == "wherry: registry stops\n"
        connection.send(DATA[1_000_000:])
        assert connection.getresponse().status == 201
        connection.close()
        served.process.wait(300)
    with wherry_registry(tmp_path) as served:
        assert ask(served, "GET", f"/v2/a/blobs/{digest_of(DATA)}") == (200, DATA)
    assert '"GET /v2/a/blobs/' in (tmp_path / "access.log").read_text()


def test_what_was_answered_survives_kill_9_and_nothing_half_is_seen(tmp_path: Path) -> None:
    blobs = [os.urandom(200_000) + bytes([number]) for number in range(40)]
    stored: list[bytes] = []
    for turn in range(4):
        served = Served(tmp_path)
        mine = blobs[turn * 10 : turn * 10 + 10]

        def upload(part: list[bytes], served: Served = served) -> None:
            for data in part:
                try:
                    assert push(served, "a", data) == 201
                except (OSError, http.client.HTTPException):
                    return
                stored.append(data)
                if len(stored) % 7 == 6:
                    served.process.kill()

        threads = [threading.Thread(target=upload, args=(mine[n::3],)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        served.kill9()
    with wherry_registry(tmp_path) as served:
        assert len(stored) > 10
        for data in blobs:
            status, body = ask(served, "GET", f"/v2/a/blobs/{digest_of(data)}")
            assert (status, body) == (200, data) if data in stored else status in (200, 404)
            assert status == 404 or body == data


def test_what_a_user_can_mend_is_said_plainly(tmp_path: Path) -> None:
    with wherry_registry(tmp_path) as served:
        own = str(tmp_path / "registry")
        assert refusal("--addr", "127.0.0.1:0", "--root", own) == f"--root {own}: another registry uses it"
        assert (
            refusal("--addr", served.host, "--root", f"{tmp_path}/r") == f"--addr {served.host}: address already in use"
        )


def test_behind_a_proxy_tokens_are_had_where_clients_can_reach(tmp_path: Path) -> None:
    users = htpasswd(tmp_path / "users", ann="secret")
    with wherry_registry(tmp_path, "--htpasswd", users, "--token", "--url", "https://registry.example/") as served:
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(f"{served.url}/v2/")
        assert 'realm="https://registry.example/token"' in refused.value.headers["WWW-Authenticate"]
    root = f"{tmp_path}/other"
    assert "needs --token" in refusal("--root", root, "--htpasswd", users, "--url", "https://registry.example")
    for url in ("registry.example", "ftp://registry.example", 'https://a"b'):
        assert "URL" in refusal("--root", root, "--htpasswd", users, "--token", "--url", url)


def peak_megabytes(served: Served) -> int:
    with open(f"/proc/{served.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024


def test_memory_is_bounded_whatever_is_sent(tmp_path: Path) -> None:
    pieces = [os.urandom(1 << 20) for _ in range(4)] * 25
    digest = "sha256:" + hashlib.sha256(b"".join(pieces)).hexdigest()
    with wherry_registry(tmp_path) as served:
        push(served, "a", DATA)
        before = peak_megabytes(served)

        def upload(number: int) -> None:
            connection = http.client.HTTPConnection(served.host, timeout=300)
            path = f"/v2/r{number}/blobs/uploads/?digest={digest}"
            connection.request("POST", path, iter(pieces), {"Content-Length": str(len(pieces) << 20)})
            assert connection.getresponse().status == 201
            connection.close()

        threads = [threading.Thread(target=upload, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with urllib.request.urlopen(f"{served.url}/v2/r0/blobs/{digest}") as answer:
            assert hashlib.file_digest(answer, "sha256").hexdigest() == digest.removeprefix("sha256:")
        assert peak_megabytes(served) - before < 60


def test_metrics_have_an_address_of_their_own(tmp_path: Path) -> None:
    with wherry_registry(tmp_path, *METRICS) as served:
        push(served, "a", DATA)
        for _ in range(40):  # each goes as soon as it has the last byte
            assert ask(served, "GET", f"/v2/a/blobs/{digest_of(DATA)}") == (200, DATA)
        text = ""
        while 'request_seconds_count{method="GET",resource="blob"} 40.0' not in text:  # counted after the answer
            with urllib.request.urlopen(served.metrics) as answer:
                text = answer.read().decode()
        assert 'wherry_registry_requests_total{method="GET",resource="blob",status="200"} 40.0' in text
        assert 'wherry_registry_requests_total{method="POST",resource="uploads",status="201"} 1.0' in text
        assert "wherry_registry_sent_bytes_total 1.2e+08" in text
        assert "wherry_registry_uploads 0.0" in text
        assert ask(served, "GET", "/metrics")[0] == 404


@pytest.mark.requires("openssl")
def test_tls_and_clients_with_certificates(tmp_path: Path) -> None:
    certificates(tmp_path)
    flags = ("--tls-cert", f"{tmp_path}/server.pem", "--tls-key", f"{tmp_path}/server.key")
    trusting = ssl.create_default_context(cafile=f"{tmp_path}/ca.pem")
    with wherry_registry(tmp_path, *flags) as served:
        assert served.url.startswith("https://")
        url = f"{served.url}/v2/a/blobs/uploads/?digest={digest_of(DATA)}"
        with urllib.request.urlopen(urllib.request.Request(url, DATA, method="POST"), context=trusting) as answer:
            assert answer.status == 201
        with urllib.request.urlopen(f"{served.url}/v2/a/blobs/{digest_of(DATA)}", context=trusting) as answer:
            assert answer.read() == DATA
    with wherry_registry(tmp_path, *flags, "--tls-client-ca", f"{tmp_path}/ca.pem") as served:
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{served.url}/v2/", context=trusting)
        trusting.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        with urllib.request.urlopen(f"{served.url}/v2/", context=trusting) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("flags", [(), ("--token",)])
@pytest.mark.requires("skopeo", "docker")
def test_real_clients_log_in(tmp_path: Path, flags: tuple[str, ...]) -> None:
    users = htpasswd(tmp_path / "users", ann="secret")
    environment = {
        **os.environ,
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"),
    }

    def skopeo(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["skopeo", *words], env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    with wherry_registry(tmp_path, "--htpasswd", users, *flags) as served:
        for password, code in (("wrong", 1), ("secret", 0)):
            done = skopeo("login", "--tls-verify=false", "-u", "ann", "-p", password, served.host)
            assert done.returncode == code, done.stderr
        basic = base64.b64encode(b"ann:secret").decode()
        assert json.loads((tmp_path / "auth.json").read_text())["auths"][served.host]["auth"] == basic
        assert "name unknown" in skopeo("inspect", "--tls-verify=false", f"docker://{served.host}/a").stderr
        skopeo("logout", served.host)
        assert "unauthorized" in skopeo("inspect", "--tls-verify=false", f"docker://{served.host}/a").stderr
        with pytest.raises(HTTPError, match="401"):
            urllib.request.urlopen(f"{served.url}/v2/")


# --- an object store, garbage collection, a cache: what they do as processes, and what is counted


@dataclass
class Counted:
    """A registry's metrics."""

    served: Served

    def get(self, name: str) -> float:
        with urllib.request.urlopen(self.served.metrics) as answer:
            text = answer.read().decode()
        found = [line for line in text.splitlines() if line.startswith(name + " ")]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def wait_for(self, name: str, at_least: float) -> None:
        """Counted is after the answer, and collected in the background."""
        while self.get(name) < at_least:
            time.sleep(0.05)


def push_image(served: Served, repository: str, tag: str, layer: bytes) -> str:
    """→ the manifest's digest."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "of": tag}).encode()
    assert (push(served, repository, config), push(served, repository, layer)) == (201, 201)
    kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar")
    described = [
        {"mediaType": kind, "digest": digest_of(part), "size": len(part)}
        for kind, part in zip(kinds, (config, layer), strict=True)
    ]
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
    manifest = json.dumps(document).encode()
    status, _ = ask(served, "PUT", f"/v2/{repository}/manifests/{tag}", manifest, **{"Content-Type": MANIFEST})
    assert status == 201
    return digest_of(manifest)


def kept(bucket: Path) -> dict[str, bytes]:
    """What an object store holds, by digest."""
    return {f"sha256:{path.name}": path.read_bytes() for path in bucket.rglob("*") if path.is_file()}


def test_blobs_are_kept_in_an_object_store(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    storage = ("--storage", f"file://{bucket}/prefix")
    served = Served(tmp_path, *storage)
    try:
        push_image(served, "a", "1", DATA)
        path = f"/v2/a/blobs/{digest_of(DATA)}"
        assert kept(bucket)[digest_of(DATA)] == DATA
        assert ask(served, "GET", path) == (200, DATA)
        assert ask(served, "GET", path, Range="bytes=1000000-1000009") == (206, DATA[1_000_000:1_000_010])
        assert ask(served, "POST", f"/v2/b/blobs/uploads/?mount={digest_of(DATA)}&from=a")[0] == 201
    finally:
        served.kill9()
    inside = [found for found in (tmp_path / "registry").rglob("*") if found.is_file()]
    assert not any(found.stat().st_size == len(DATA) for found in inside)
    with wherry_registry(tmp_path, *storage, "--read-only") as served:
        for repository in ("a", "b"):
            assert ask(served, "GET", f"/v2/{repository}/blobs/{digest_of(DATA)}") == (200, DATA)
        assert ask(served, "GET", "/v2/a/tags/list") == (200, b'{"name":"a","tags":["1"]}')
        assert push(served, "a", b"more") == 405


@pytest.mark.parametrize(("url", "words"), [("nonsense://x/y", "Protocol not known"), ("s3://bucket/x", "s3fs")])
def test_a_store_that_there_is_not_is_refused(tmp_path: Path, url: str, words: str) -> None:
    said = refusal("--root", str(tmp_path), "--addr", "127.0.0.1:0", "--storage", url)
    assert f"--storage {url}: " in said and words in said


@pytest.mark.parametrize("where", ["root", "object store"])
def test_garbage_goes_while_it_serves_and_is_counted(tmp_path: Path, where: str) -> None:
    bucket = tmp_path / "bucket" if where == "object store" else tmp_path / "registry/blobs"
    storage = ("--storage", f"file://{bucket}") if where == "object store" else ()
    other = DATA[::-1]
    with wherry_registry(tmp_path, *storage) as served:
        push_image(served, "a", "1", DATA)
        manifest = push_image(served, "a", "2", other)
        assert ask(served, "DELETE", f"/v2/a/manifests/{manifest}")[0] == 202
    stray = digest_of(b"stray").removeprefix("sha256:")
    (bucket / "sha256" / stray[:2]).mkdir(exist_ok=True)
    (bucket / "sha256" / stray[:2] / stray).write_bytes(b"stray")  # a process ended before it was recorded
    with wherry_registry(tmp_path, *storage, *METRICS, "--gc-grace=1ms", "--gc-interval=1s") as served:
        metrics = Counted(served)
        metrics.wait_for('wherry_registry_collected_total{what="bytes"}', len(other) + len(b"stray"))
        assert metrics.get('wherry_registry_collected_total{what="contents"}') == 3  # a config, too
        assert metrics.get('wherry_registry_collected_total{what="links"}') == 2
        found = kept(bucket)
        assert digest_of(DATA) in found and digest_of(other) not in found and f"sha256:{stray}" not in found
        assert ask(served, "GET", f"/v2/a/blobs/{digest_of(other)}")[0] == 404
        assert ask(served, "GET", f"/v2/a/blobs/{digest_of(DATA)}") == (200, DATA)
        push(served, "b", b"nobody's")
        metrics.wait_for('wherry_registry_collected_total{what="contents"}', 4)
        assert digest_of(b"nobody's") not in kept(bucket)


def test_a_cache_counts_what_it_had_and_what_it_fetched(tmp_path: Path) -> None:
    upstream = Served(tmp_path / "upstream")
    try:
        digest = push_image(upstream, "a", "1", DATA)
        with wherry_registry(tmp_path / "cache", "--proxy", upstream.url, *METRICS) as cache:

            def counted(what: str, result: str) -> float:
                return Counted(cache).get(f'wherry_registry_cache_total{{result="{result}",what="{what}"}}')

            paths = ("/v2/a/manifests/1", f"/v2/a/manifests/{digest}", f"/v2/a/blobs/{digest_of(DATA)}")
            for path in (*paths, *paths):
                assert ask(cache, "GET", path)[0] == 200
            assert (counted("manifest", "miss"), counted("manifest", "hit")) == (1, 3)
            assert (counted("blob", "miss"), counted("blob", "hit")) == (1, 1)
            push_image(upstream, "a", "1", b"changed")
            assert ask(cache, "GET", paths[0])[0] == 200
            assert (counted("manifest", "miss"), counted("manifest", "stale")) == (2, 0)
            upstream.kill9()
            assert ask(cache, "GET", paths[0])[0] == 200
            assert ask(cache, "GET", paths[2]) == (200, DATA)
            assert counted("manifest", "stale") == 1
    finally:
        if upstream.process.poll() is None:
            upstream.kill9()
