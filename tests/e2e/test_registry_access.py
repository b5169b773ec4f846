"""How wherryd gets at registries: identity tokens, credentials with every question, and all that hosts.toml can say; real registries with TLS."""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import images
from tests.e2e.harness import PEER, Engine, differs_on_dockerd, wait_until
from tests.images import image_id
from tests.registry import (
    Served,
    certificates,
    certs_directory,
    docker_registry,
    htpasswd,
    loopback_address,
    skopeo_copy,
    tls_flags,
    wherry_registry,
)

pytestmark = [pytest.mark.requires("openssl", "skopeo"), differs_on_dockerd("the files are wherry's")]

WHERRY = str(Path(sys.executable).parent / "wherry")
CLIS = ["docker"] if PEER == "dockerd" else ["docker", WHERRY]
APP = images.busybox_spec(Cmd=["echo", "from the registry"])
CERTS = "/etc/wherry/certs.d"
NAME = "registry.wherry-test.example"
"""Nobody can look it up: only what its directory says leads anywhere."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with loopback_address() as address:
        yield address


@pytest.fixture(scope="module")
def folder(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for the address, and an image."""
    folder = tmp_path_factory.mktemp("access")
    certificates(folder, address)
    images.write_oci_layout(str(folder / "layout"), APP)
    return folder


# --- who is asking


@pytest.fixture
def guarded(address: str, folder: Path, tmp_path: Path) -> Iterator[Served]:
    """Wants tokens, which it gives to ann; its authority is trusted; has team/app:1."""
    users = htpasswd(tmp_path / "users", ann="secret")
    flags = ("--addr", f"{address}:0", *tls_flags(folder), "--htpasswd", users, "--token")
    with wherry_registry(tmp_path, *flags) as served, certs_directory(CERTS, served.host) as certs:
        (certs / "ca.crt").write_bytes((folder / "ca.pem").read_bytes())
        skopeo_copy(f"oci:{folder}/layout:latest", f"docker://{served.host}/team/app:1", "--dest-creds=ann:secret")
        yield served


@pytest.mark.parametrize("cli", CLIS)
def test_a_login_leaves_an_identity_token_that_pulls_and_pushes(
    cli: str, engine: Engine, guarded: Served, tmp_path: Path
) -> None:
    host, name = guarded.host, f"{guarded.host}/team/app:1"
    assert engine.run_client(cli, "pull", name).returncode == 1
    done = engine.run_client(cli, "login", "-u", "ann", "--password-stdin", host, stdin="secret")
    assert (done.returncode, done.stdout.strip()) == (0, "Login Succeeded"), done.stderr
    kept = json.loads((engine.root / "client/config.json").read_text())["auths"][host]
    assert base64.b64decode(kept["auth"]) == b"ann:" and kept["identitytoken"].count(".") == 2
    if cli == WHERRY:  # Docker's asks for a password again
        assert engine.run_client(cli, "login", host).returncode == 0
        assert json.loads((engine.root / "client/config.json").read_text())["auths"][host] == kept
    assert engine.run_client(cli, "pull", "-q", name).returncode == 0
    engine.docker("tag", name, f"{host}/team/pushed:1")
    pushed = engine.run_client(cli, "push", f"{host}/team/pushed:1")
    assert pushed.returncode == 0, pushed.stderr
    htpasswd(tmp_path / "users", ann="changed")
    for words in (("pull", name), ("push", f"{host}/team/pushed:1")):
        refused = engine.run_client(cli, *words)
        assert refused.returncode == 1 and "authentication required" in refused.stderr, refused
    engine.run_client(cli, "logout", host)


def header(**login: str) -> dict[str, str]:
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def test_a_distribution_is_asked_for_with_credentials(engine: Engine, guarded: Served) -> None:
    path = f"/distribution/{quote(f'{guarded.host}/team/app:1')}/json"
    status, refused = engine.api("GET", path)
    assert status in (401, 403, 404) and "authentication required" in refused["message"], refused
    assert engine.api("GET", path, headers=header(username="ann", password="wrong"))[0] in (401, 403)
    status, found = engine.api("GET", path, headers=header(username="ann", password="secret"))
    assert (status, found["Platforms"][0]["os"]) == (200, "linux")
    answer = engine.api(
        "POST", "/auth", {"username": "ann", "password": "secret", "serveraddress": f"https://{guarded.host}/v1/"}
    )
    token = answer[1]["IdentityToken"]
    assert engine.api("GET", path, headers=header(identitytoken=token)) == (200, found)
    assert engine.api("GET", path, headers={"X-Registry-Auth": "not base64!"})[0] == 400


class Searchable(BaseHTTPRequestHandler):
    """A search for who shows a name and password."""

    def do_GET(self) -> None:
        shown = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ann:secret").decode()
        body = json.dumps({"num_results": 1, "results": [{"name": "team/app", "star_count": 3}]}).encode()
        self.send_response(200 if shown else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="search"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_search_is_made_with_credentials(engine: Engine) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Searchable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        path = f"/images/search?term=127.0.0.1:{server.server_address[1]}/app"
        refused = engine.api("GET", path)
        wrong = engine.api("GET", path, headers=header(username="ann", password="wrong"))
        status, found = engine.api("GET", path, headers=header(username="ann", password="secret"))
        server.shutdown()
        thread.join()
    assert refused[0] >= 400 and wrong[0] >= 400
    assert (status, [item["name"] for item in found]) == (200, ["team/app"])


# --- hosts.toml


@dataclass(frozen=True)
class Place:
    """Where a registry is, as the test's hosts.toml has it."""

    address: str
    folder: Path
    tmp_path: Path

    @contextmanager
    def served(self, name: str, *flags: str, tls: bool = True, clients: bool = False) -> Iterator[Served]:
        options = tls_flags(self.folder, clients=clients) if tls else []
        with wherry_registry(self.tmp_path / name, "--addr", f"{self.address}:0", *options, *flags) as served:
            yield served

    def fill(self, host: str, *options: str) -> None:
        skopeo_copy(f"oci:{self.folder}/layout:latest", f"docker://{host}/team/app:1", *options)


@pytest.fixture
def place(address: str, folder: Path, tmp_path: Path) -> Place:
    return Place(address, folder, tmp_path)


def pull(engine: Engine, hosts: str) -> str:
    """ "" when NAME/team/app:1 comes by these hosts, else what was said."""
    with certs_directory(CERTS, NAME) as certs:
        (certs / "hosts.toml").write_text(hosts)
        done = engine.docker("pull", "-q", f"{NAME}/team/app:1", check=False)
    if done.returncode:
        return done.stderr
    assert engine.output("images", "-q", "--no-trunc", f"{NAME}/team/app") == image_id(APP)
    engine.docker("rmi", f"{NAME}/team/app:1")
    return ""


def test_an_authority_and_a_clients_certificate(engine: Engine, place: Place) -> None:
    certs = place.tmp_path / "certs"
    certs.mkdir()
    for source, target in (("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")):
        (certs / target).write_bytes((place.folder / source).read_bytes())
    with place.served("r", clients=True) as served:
        place.fill(served.host, f"--dest-cert-dir={certs}")
        server, ca = f'server = "{served.url}"\n', f'ca = "{place.folder}/ca.pem"\n'
        pair = f'client = [["{place.folder}/client.pem", "{place.folder}/client.key"]]\n'
        assert pull(engine, server + ca + pair) == ""
        assert "failed to verify certificate" in pull(engine, server + pair)
        assert pull(engine, server + ca) != ""
        assert "client" in pull(engine, server + ca + 'client = [["/none.pem", "/none.key"]]\n')


def test_a_certificate_that_is_not_verified(engine: Engine, place: Place) -> None:
    with place.served("r") as served:
        place.fill(served.host)
        assert "failed to verify certificate" in pull(engine, f'server = "{served.url}"\n')
        assert pull(engine, f'server = "{served.url}"\nskip_verify = true\n') == ""


def test_headers_of_the_administrators(engine: Engine, place: Place) -> None:
    """The real use: credentials that no user has to know. They go to that host, not to the registry behind."""
    users = htpasswd(place.tmp_path / "users", ann="secret")
    with place.served("r", "--htpasswd", users) as served:
        place.fill(served.host, "--dest-creds=ann:secret")
        host = f'server = "http://127.0.0.1:9"\n[host."{served.url}"]\nskip_verify = true\n'
        assert pull(engine, host) != ""
        basic = base64.b64encode(b"ann:secret").decode()
        assert pull(engine, host + f'[host."{served.url}".header]\nAuthorization = "Basic {basic}"\n') == ""


@pytest.mark.requires("registry")
def test_paths_of_the_api_that_are_not_at_the_top(engine: Engine, place: Place) -> None:
    with ExitStack() as stack:
        config = stack.enter_context(_prefixed(place.tmp_path))
        where = f"http://{config}/my/registry"
        assert pull(engine, f'server = "{where}"\n') == ""
        assert pull(engine, f'server = "{where}/v2"\noverride_path = true\n') == ""
        assert pull(engine, f'server = "{where}"\noverride_path = true\n') != ""


@contextmanager
def _prefixed(root: Path) -> Iterator[str]:
    """docker-registry below /my/registry, with the image in it."""
    layout = root / "layout"
    images.write_oci_layout(str(layout), APP)
    with docker_registry(root / "plain") as plain:
        skopeo_copy(f"oci:{layout}:latest", f"docker://{plain}/team/app:1")
    data = (root / "plain/data").rename(root / "data")
    with docker_registry(root / "prefixed", prefix="/my/registry/", data=data) as host:
        yield host


def test_hosts_are_asked_for_what_they_are_capable_of(engine: Engine, place: Place) -> None:
    """In their order; a push goes to the first that takes it, a pull never to one that may only be pushed to."""
    with place.served("in", tls=False) as taking, place.served("out", tls=False) as giving:
        place.fill(giving.host)
        hosts = (
            f'server = "http://127.0.0.1:9"\n'
            f'[host."{taking.url}"]\ncapabilities = ["push"]\n'
            f'[host."{giving.url}"]\ncapabilities = ["pull", "resolve"]\n'
        )
        with certs_directory(CERTS, NAME) as certs:
            (certs / "hosts.toml").write_text(hosts)
            engine.docker("pull", "-q", f"{NAME}/team/app:1")
            engine.docker("tag", f"{NAME}/team/app:1", f"{NAME}/team/new:1")
            engine.docker("push", "-q", f"{NAME}/team/new:1")
        wait_until("its answer is in the log", lambda: "PUT /v2/team/new/manifests/1" in taking.log.read_text())
        assert "GET /v2/team" not in taking.log.read_text()
        assert "team/new" not in giving.log.read_text()
        assert "no host that is there may resolve names" in pull(
            engine, f'[host."{giving.url}"]\ncapabilities = ["pull"]\n'
        )
