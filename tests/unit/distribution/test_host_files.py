"""Certificates and mirrors that the administrator has put into files: applied when they are right, named when they are wrong."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from tests.registry import ScriptedRegistry, error

from wherry.distribution.client import Repository
from wherry.distribution.connection import new_session
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import InvalidArgument, Unavailable
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import Descriptor
from wherry.spec.reference import parse


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `certificate` and `key`, for 127.0.0.1, signed by itself."""
    place = tmp_path_factory.mktemp("tls")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(place / "key"), "-out", str(place / "certificate")]
    subprocess.run([*words, "-addext", "subjectAltName=IP:127.0.0.1", *files], check=True, capture_output=True)
    return place


def serving_context(pair: Path, *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair / "certificate", pair / "key")
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pair / "certificate")
    return context


def fetch(registry: ScriptedRegistry, certificates: Path, prepare: object = None) -> bytes:
    """The manifest "latest" of the registry's repository "x", spoken to as the directory `certificates` says."""

    async def run() -> bytes:
        async with registry.serving(), new_session() as session:
            if callable(prepare):
                prepare(registry)
            hosts = RegistryHosts(certificates=[str(certificates)])
            reference = parse(f"{registry.host}/x")
            repository = await Repository.open(
                session, hosts, reference, RegistryAuth(username="ann", password="secret")
            )
            return (await repository.manifest("latest")).data

    registry.put_manifest(b"{}", "latest")
    return asyncio.run(run())


def directory_for(registry: ScriptedRegistry, certificates: Path) -> Path:
    place = certificates / registry.host
    place.mkdir(parents=True)
    return place


def test_an_own_authority_makes_a_certificate_good(pair: Path, tmp_path: Path) -> None:
    def prepare(registry: ScriptedRegistry) -> None:
        (directory_for(registry, tmp_path) / "own.crt").write_bytes((pair / "certificate").read_bytes())

    assert fetch(ScriptedRegistry(tls=serving_context(pair)), tmp_path, prepare) == b"{}"


def test_with_files_for_it_a_loopback_registry_is_verified_too(pair: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", "/dev/null"]
    subprocess.run([*words, "-out", str(other)], check=True, capture_output=True)

    def prepare(registry: ScriptedRegistry) -> None:
        (directory_for(registry, tmp_path) / "own.crt").write_bytes(other.read_bytes())

    with pytest.raises(Unavailable, match="failed to verify certificate"):
        fetch(ScriptedRegistry(tls=serving_context(pair)), tmp_path, prepare)


def test_a_client_certificate_is_shown(pair: Path, tmp_path: Path) -> None:
    def prepare(registry: ScriptedRegistry) -> None:
        place = directory_for(registry, tmp_path)
        for name, source in (("ca.crt", "certificate"), ("client.cert", "certificate"), ("client.key", "key")):
            (place / name).write_bytes((pair / source).read_bytes())

    registry = ScriptedRegistry(tls=serving_context(pair, wants_client=True))
    assert fetch(registry, tmp_path, prepare) == b"{}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"client.cert": "x"}, r"missing key client\.key for client certificate"),
        ({"client.key": "x"}, r"missing client certificate client\.cert for key"),
        ({"ca.crt": "rubbish"}, r"ca\.crt: not a certificate"),
        ({"hosts.toml": "server ="}, r"hosts\.toml: "),
        ({"hosts.toml": 'sever = "https://a.example"'}, "unknown key sever"),
        ({"hosts.toml": '[host."ftp://a.example"]'}, "is not the URL of a registry"),
        ({"hosts.toml": '[host."https://a.example"]\ncapabilities = ["pull", "delete"]'}, "unknown capability delete"),
        ({"hosts.toml": '[host."https://a.example"]\nskip_verify = "yes"'}, "skip_verify is true or false"),
        ({"hosts.toml": '[host."https://a.example"]\ndial_timeout = "1s"'}, "does not support dial_timeout"),
        ({"hosts.toml": '[host."https://a.example"]\nca = "absent.pem"'}, r"absent\.pem: not a certificate"),
    ],
)
def test_what_is_wrong_in_a_file_is_an_error_that_names_it(files: dict[str, str], message: str, tmp_path: Path) -> None:
    place = tmp_path / "registry.example"
    place.mkdir()
    for name, text in files.items():
        (place / name).write_text(text)
    with pytest.raises(InvalidArgument, match=message):
        RegistryHosts(certificates=[str(tmp_path)]).endpoints("registry.example")


def test_hosts_toml_gives_mirrors_in_their_order_and_another_server(tmp_path: Path) -> None:
    place = tmp_path / "registry.example"
    place.mkdir()
    (place / "hosts.toml").write_text(
        """
        server = "https://real.example"
        [host."http://first.example:5000"]
          capabilities = ["pull", "resolve"]
          [host."http://first.example:5000".header]
            X-Team = ["a", "b"]
        [host."https://second.example/v2/cache"]
          override_path = true
          skip_verify = true
        """
    )
    hosts = RegistryHosts(certificates=[str(tmp_path)])
    first, second, server = hosts.endpoints("registry.example")
    assert (first.base, first.prefix, first.mirror, dict(first.headers)) == (
        "http://first.example:5000",
        "/v2",
        True,
        {"X-Team": "a, b"},
    )
    assert (second.base, second.prefix, second.tls) == ("https://second.example", "/v2/cache", False)
    assert (server.base, server.tls, server.mirror) == ("https://real.example", True, False)
    assert [endpoint.base for endpoint in hosts.endpoints("registry.example", push=True)] == [
        "https://second.example",
        "https://real.example",
    ]
    assert [endpoint.base for endpoint in hosts.endpoints("other.example")] == ["https://other.example"]


@pytest.mark.parametrize(
    ("directories", "mirror"),
    [
        (["one/example.org_5000_"], "one/example.org_5000_"),
        (["one/example.org:5000", "one/example.org_5000_"], "one/example.org_5000_"),
        (["one/example.org:5000", "two/example.org_5000_"], "one/example.org:5000"),
        (["one/_default", "two/example.org_5000_"], "two/example.org_5000_"),
        (["one/example.org", "one/example.org_443_", "one/_default"], "one/_default"),
    ],
)
def test_a_directory_may_have_the_port_between_underscores(directories: list[str], mirror: str, tmp_path: Path) -> None:
    for number, directory in enumerate(directories):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "hosts.toml").write_text(f'[host."http://mirror-{number}"]\n')
    hosts = RegistryHosts(certificates=[str(tmp_path / "one"), str(tmp_path / "two")])
    assert hosts.endpoints("example.org:5000")[0].base == f"http://mirror-{directories.index(mirror)}"


def test_hosts_toml_that_names_no_server_speaks_of_the_registry_itself(tmp_path: Path) -> None:
    for name, base in (
        ("registry.example:5000", "https://registry.example:5000"),
        ("docker.io", "https://registry-1.docker.io"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hosts.toml").write_text("skip_verify = true\n")
        [own] = RegistryHosts(certificates=[str(tmp_path)]).endpoints(name)
        assert (own.base, own.tls, own.mirror) == (base, False, False)


def mirrored(mirror: ScriptedRegistry, real: ScriptedRegistry, place: Path, use: object, more: str = "") -> None:
    """Both serve; `use` gets the repository "x" of `real`, of which `mirror` is a mirror; `more` is said of that."""

    async def run() -> None:
        async with mirror.serving(), real.serving(), new_session() as session:
            (place / real.host).mkdir()
            (place / real.host / "hosts.toml").write_text(
                f'server = "http://{real.host}"\n[host."http://{mirror.host}"]\n{more}\n'
            )
            hosts = RegistryHosts(certificates=[str(place)])
            auth = RegistryAuth(username="ann", password="secret")
            await use(await Repository.open(session, hosts, parse(f"{real.host}/x"), auth))  # type: ignore[operator]

    asyncio.run(run())


async def download(repository: Repository, data: bytes, digest: str) -> bytes:
    async with repository.blob_pieces(Descriptor("", Digest(digest), len(data))) as pieces:
        return b"".join([piece async for piece in pieces])


def test_a_mirror_is_asked_first_and_without_credentials(tmp_path: Path) -> None:
    mirror, real = ScriptedRegistry(), ScriptedRegistry()
    descriptor = mirror.put_blob(b"blob")
    mirror.put_manifest(b"{}", "latest")

    async def challenge(request: web.Request) -> web.Response | None:
        if request.path == "/v2/" or "Authorization" in request.headers:
            return None
        return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="x"'})

    async def use(repository: Repository) -> None:
        assert (await repository.manifest("latest")).data == b"{}"
        assert await download(repository, b"blob", descriptor["digest"]) == b"blob"
        mirror.behave = challenge
        real.put_blob(b"blob")
        assert await download(repository, b"blob", descriptor["digest"]) == b"blob"

    mirrored(mirror, real, tmp_path, use)
    assert all(not authorization for _, _, authorization in mirror.requests)
    assert sum("/blobs/" in path for _, path, _ in real.requests) == 1


def test_a_mirror_that_may_not_resolve_is_asked_for_digests_alone(tmp_path: Path) -> None:
    mirror, real = ScriptedRegistry(), ScriptedRegistry()
    descriptor = mirror.put_blob(b"blob")
    mirror.put_manifest(b'{"a": "lie"}', "latest")
    real.put_manifest(b"{}", "latest")
    by_digest = mirror.put_manifest(b'{"b": 1}')["digest"]

    async def use(repository: Repository) -> None:
        assert (await repository.manifest("latest")).data == b"{}"
        assert (await repository.manifest(by_digest)).data == b'{"b": 1}'
        assert await download(repository, b"blob", descriptor["digest"]) == b"blob"

    mirrored(mirror, real, tmp_path, use, 'capabilities = ["pull"]')
    assert not any("latest" in path for _, path, _ in mirror.requests)


def test_what_a_mirror_does_not_have_or_breaks_comes_from_the_registry(tmp_path: Path) -> None:
    mirror, real = ScriptedRegistry(), ScriptedRegistry()
    data = bytes(3_000_000)
    descriptor = real.put_blob(data)
    real.put_manifest(b"{}", "latest")
    mirror.put_blob(data)

    async def half(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path:
            return None
        if "Range" in request.headers:
            return error(404, "BLOB_UNKNOWN", "it has gone")
        answer = web.StreamResponse()
        answer.content_length = len(data)
        await answer.prepare(request)
        await answer.write(data[:2_000_000])
        assert request.transport is not None
        request.transport.close()
        return answer

    mirror.behave = half

    async def use(repository: Repository) -> None:
        assert (await repository.manifest("latest")).data == b"{}"
        assert await download(repository, data, descriptor["digest"]) == data

    mirrored(mirror, real, tmp_path, use)
    assert sum("/blobs/" in path for _, path, _ in real.requests) == 1


def test_a_mirror_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    mirror, real = ScriptedRegistry(), ScriptedRegistry()
    real.put_manifest(b"{}", "latest")

    async def away(request: web.Request) -> web.Response:
        return error(500, "UNKNOWN", "broken")

    async def use(repository: Repository) -> None:
        assert (await repository.manifest("latest")).data == b"{}"

    mirror.behave = away
    mirrored(mirror, real, tmp_path, use)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example", "a.example", "https://a.example/path", "https://a.example/?q", "https://u:p@a.example", ""],
)
def test_a_mirror_of_docker_hub_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid mirror"):
        RegistryHosts(mirrors=[url])


def test_mirrors_of_docker_hub_are_for_docker_hub_alone() -> None:
    hosts = RegistryHosts(mirrors=["https://mirror.example/"], certificates=[])
    assert [endpoint.base for endpoint in hosts.endpoints("docker.io")] == [
        "https://mirror.example",
        "https://registry-1.docker.io",
    ]
    assert [endpoint.base for endpoint in hosts.endpoints("quay.io")] == ["https://quay.io"]
    assert [endpoint.base for endpoint in hosts.endpoints("docker.io", push=True)] == ["https://registry-1.docker.io"]
