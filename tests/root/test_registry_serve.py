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
from pathlib import Path
from urllib.error import HTTPError

import pytest
from tests.registry import WHERRY, Served, certificates, free_port, htpasswd, wherry_registry

DATA = os.urandom(3_000_000)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def ask(served: Served, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(served.host, timeout=30)
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
        [WHERRY, "registry", "serve", *flags], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    return done.stderr.strip()


def test_it_says_where_it_serves_what_and_ends_cleanly_with_what_is_under_way(tmp_path: Path) -> None:
    with wherry_registry(tmp_path) as served:
        assert served.said == f"wherry: registry serves {tmp_path}/registry on {served.url}\n"
        connection = http.client.HTTPConnection(served.host, timeout=30)
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
        served.process.wait(20)
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
            connection = http.client.HTTPConnection(served.host, timeout=60)
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
    address = f"127.0.0.1:{free_port()}"
    with wherry_registry(tmp_path, "--metrics-addr", address) as served:
        push(served, "a", DATA)
        ask(served, "GET", f"/v2/a/blobs/{digest_of(DATA)}")
        text, deadline = "", time.monotonic() + 10
        while 'method="GET",resource="blob"' not in text and time.monotonic() < deadline:  # counted after the answer
            with urllib.request.urlopen(f"http://{address}/metrics") as answer:
                text = answer.read().decode()
        assert 'wherry_registry_requests_total{method="POST",resource="uploads",status="201"} 1.0' in text
        assert "wherry_registry_sent_bytes_total 3e+06" in text
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
            ["skopeo", *words], env=environment, capture_output=True, text=True, check=False, timeout=60
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
