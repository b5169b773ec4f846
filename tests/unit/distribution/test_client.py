"""The registry client against registries that stumble, redirect, and lie."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.registry import OCI_INDEX, ScriptedRegistry, digest_of, error
from tests.unit.distribution.conftest import START, Clock

from wherry.distribution import connection
from wherry.distribution.client import Repository
from wherry.distribution.connection import new_session, seconds_until
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import DataLoss, InvalidArgument, PermissionDenied, Unavailable, WherryError
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import Descriptor
from wherry.spec.reference import parse

ANN = RegistryAuth(username="ann", password="secret")
BASIC = "Basic " + base64.b64encode(b"ann:secret").decode()
BLOB = bytes(range(256)) * 20_000


def talk(
    prepare: Callable[[ScriptedRegistry], None],
    use: Callable[[Repository, ScriptedRegistry], Awaitable[None]],
    *,
    auth: RegistryAuth | None = None,
) -> ScriptedRegistry:
    """Opens the repository "x" of a scripted registry and uses it. → the registry, with what it was asked."""
    registry = ScriptedRegistry()

    async def run() -> None:
        async with registry.serving(), new_session() as session:
            prepare(registry)
            reference = parse(f"{registry.host}/x")
            await use(await Repository.open(session, RegistryHosts(), reference, auth or RegistryAuth()), registry)

    asyncio.run(run())
    return registry


def blob_descriptor(data: bytes = BLOB, size: int | None = None) -> Descriptor:
    return Descriptor("", Digest(digest_of(data)), len(data) if size is None else size)


async def download(repository: Repository, descriptor: Descriptor) -> bytes:
    async with repository.blob_pieces(descriptor) as pieces:
        return b"".join([piece async for piece in pieces])


# --- content


def test_a_manifest_is_fetched_by_tag_and_by_digest() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        by_tag = await repository.manifest("latest")
        assert (by_tag.data, by_tag.media_type) == (b'{"a": 1}', OCI_INDEX)
        assert await repository.manifest(by_tag.digest) == by_tag

    talk(lambda registry: (registry.put_manifest(b'{"a": 1}', "latest", media_type=OCI_INDEX), None)[1], use)


def test_a_manifest_with_another_digest_than_it_was_asked_for_by_is_data_loss() -> None:
    wanted = digest_of(b"wanted")

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        for reference in (wanted, "lying"):
            with pytest.raises(DataLoss, match="manifest verification failed for digest"):
                await repository.manifest(reference)

    def prepare(registry: ScriptedRegistry) -> None:
        registry.manifests[wanted] = (b"other", OCI_INDEX)

        async def lie(request: web.Request) -> web.Response | None:
            if request.path.endswith("lying"):
                return web.Response(body=b"x", headers={"Docker-Content-Digest": wanted})
            return None

        registry.behave = lie

    talk(prepare, use)


def test_a_manifest_without_end_is_refused_early() -> None:
    sent = []

    async def endless(request: web.Request) -> web.StreamResponse | None:
        if "/manifests/" not in request.path:
            return None
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(1000):
            await answer.write(bytes(1 << 16))
            sent.append(1)
        return answer

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = endless
        with pytest.raises(InvalidArgument, match="larger than"):
            await repository.manifest("latest")

    talk(lambda _: None, use)
    assert len(sent) < 500


def test_a_blob_arrives_whole() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.put_blob(BLOB)
        assert await download(repository, blob_descriptor()) == BLOB

    talk(lambda _: None, use)


@pytest.mark.parametrize(("said", "kind"), [(len(BLOB) - 1, DataLoss), (len(BLOB) + 1, Unavailable)])
def test_a_blob_of_another_size_than_its_descriptor_says_is_an_error(said: int, kind: type[WherryError]) -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.put_blob(BLOB)
        with pytest.raises(kind):
            await download(repository, blob_descriptor(size=said))

    talk(lambda _: None, use)


def test_a_small_blob_is_verified() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.blobs[digest_of(b"right")] = b"wrong"
        with pytest.raises(DataLoss):
            await repository.blob(blob_descriptor(b"right"), 100)
        with pytest.raises(InvalidArgument, match="too many"):
            await repository.blob(blob_descriptor(b"right", size=101), 100)

    talk(lambda _: None, use)


def test_sha512_digests_are_verified_too() -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"data").hexdigest())

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.blobs[digest] = b"data"
        assert await repository.blob(Descriptor("", digest, 4), 10) == b"data"
        registry.blobs[digest] = b"date"
        with pytest.raises(DataLoss):
            await repository.blob(Descriptor("", digest, 4), 10)

    talk(lambda _: None, use)


# --- stumbling


def breaking(after: int, times: int) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Cuts the connection after that many bytes of a blob, that many times."""
    left = [times]

    async def behave(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path or not left[0]:
            return None
        left[0] -= 1
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        answer = web.StreamResponse(status=206 if start else 200)
        answer.content_length = len(BLOB) - start
        if start:
            answer.headers["Content-Range"] = f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"
        await answer.prepare(request)
        await answer.write(BLOB[start : start + after])
        assert request.transport is not None
        request.transport.close()
        return answer

    return behave


def test_a_download_that_breaks_goes_on_where_it_was() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.put_blob(BLOB)
        registry.behave = breaking(1_500_000, 3)
        assert await download(repository, blob_descriptor()) == BLOB

    registry = talk(lambda _: None, use)
    assert sum("/blobs/" in path for _, path, _ in registry.requests) == 4


def test_a_registry_that_knows_no_ranges_is_read_again_from_the_start() -> None:
    broken = [True]

    async def without_ranges(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path:
            return None
        if broken.pop() if broken else False:
            return await breaking(2_000_000, 1)(request)
        return web.Response(body=BLOB)

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = without_ranges
        assert await download(repository, blob_descriptor()) == BLOB

    talk(lambda _: None, use)


def test_a_download_that_never_gets_anywhere_is_given_up() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = breaking(0, 1000)
        with pytest.raises(Unavailable):
            await download(repository, blob_descriptor())

    registry = talk(lambda _: None, use)
    assert sum("/blobs/" in path for _, path, _ in registry.requests) == connection.ATTEMPTS


def test_a_registry_that_stops_answering_in_the_middle_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(connection, "ATTEMPTS", 2)

    async def stall(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path:
            return None
        answer = web.StreamResponse()
        answer.content_length = len(BLOB)
        await answer.prepare(request)
        await answer.write(BLOB[:1000])
        await asyncio.Event().wait()
        return answer

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = stall
        with pytest.raises(Unavailable, match="does not answer"):
            await download(repository, blob_descriptor())

    talk(lambda _: None, use)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    left = [3]

    async def stumble(request: web.Request) -> web.Response | None:
        if "/manifests/" in request.path and left[0]:
            left[0] -= 1
            return error(status, "TOOMANYREQUESTS", "slow down", {"Retry-After": "1"})
        return None

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.put_manifest(b"{}", "latest")
        registry.behave = stumble
        assert (await repository.manifest("latest")).data == b"{}"

    talk(lambda _: None, use)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("5", 5.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thursday, 01-Jan-70 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("9" * 400, 999999999.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("\u0665", None),
        ("Thu, 99 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_moment(said: str, seconds: float | None, clock: Clock) -> None:
    clock.time = 60.0
    assert seconds_until(said) == seconds


# --- a limited rate


def limiting(*answers: str, path: str = "/v2/") -> Callable[[ScriptedRegistry], None]:
    """429 with each of these as Retry-After ("": without one), then what there is."""

    def prepare(registry: ScriptedRegistry) -> None:
        left = list(answers)

        async def limit(request: web.Request) -> web.Response | None:
            if request.path == path and left:
                said = left.pop(0)
                return error(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": said} if said else {})
            return None

        registry.behave = limit
        registry.put_manifest(b"{}", "latest")

    return prepare


async def read_latest(repository: Repository, registry: ScriptedRegistry) -> None:
    assert (await repository.manifest("latest")).data == b"{}"


@pytest.mark.parametrize("path", ["/v2/", "/v2/x/manifests/latest"])
def test_a_registry_that_wants_to_be_asked_later_is_asked_later(path: str, clock: Clock) -> None:
    """In seconds, by a moment, and without a word: then later each time."""
    moment = formatdate(START + 7 + 20, usegmt=True)
    talk(limiting("7", moment, "", "", path=path), read_latest)
    assert clock.waits == [7.0, 20.0, 2.0, 4.0]


@pytest.mark.parametrize("path", ["/v2/", "/v2/x/manifests/latest"])
def test_a_wait_that_nobody_waits_for_is_an_error_that_names_it(path: str, clock: Clock) -> None:
    """Asking again before the time would count against the user, and a pull that stands still for hours is no help."""
    for said in ("61", "21600", formatdate(START + 21600, usegmt=True)):
        with pytest.raises(RegistryError, match=r"slow down: the registry asks to try again in (61|21600) seconds"):
            talk(limiting(said, path=path), read_latest)
    assert clock.waits == []


def test_a_registry_that_never_has_time_is_given_up(clock: Clock) -> None:
    with pytest.raises(RegistryError, match="toomanyrequests: slow down"):
        talk(limiting(*["1"] * 100), read_latest)
    assert clock.waits == [1.0] * (connection.ATTEMPTS - 1)


@pytest.mark.parametrize("log_in", [False, True])
def test_a_token_server_that_wants_to_be_asked_later_is_asked_later(log_in: bool, clock: Clock) -> None:
    registry, left = ScriptedRegistry(), ["3", formatdate(START + 3 + 9, usegmt=True)]

    async def run() -> None:
        async with registry.serving(), new_session() as session:
            tokens = TokenServer(registry, refresh_token="r")

            async def behave(request: web.Request) -> web.Response | None:
                if request.path == "/token" and left:
                    return error(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": left.pop(0)})
                return await tokens(request)

            registry.behave = behave
            registry.put_manifest(b"{}", "latest")
            reference = parse(f"{registry.host}/x")
            if log_in:
                [*_, endpoint] = RegistryHosts().endpoints(reference.domain)
                assert await connection.Connection(session, endpoint, ANN).log_in() == "r"
            else:
                await read_latest(await Repository.open(session, RegistryHosts(), reference, ANN), registry)

    asyncio.run(run())
    assert clock.waits == [3.0, 9.0]


def test_a_mirror_without_time_is_passed_over(clock: Clock, tmp_path: Path) -> None:
    mirror = ScriptedRegistry()

    async def busy(request: web.Request) -> web.Response:
        return error(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": "5"})

    async def run() -> None:
        registry = ScriptedRegistry()
        async with registry.serving(), mirror.serving(), new_session() as session:
            mirror.behave = busy
            registry.put_manifest(b"{}", "latest")
            (tmp_path / registry.host).mkdir()
            (tmp_path / registry.host / "hosts.toml").write_text(
                f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]\n'
            )
            hosts = RegistryHosts(certificates=[str(tmp_path)])
            await read_latest(
                await Repository.open(session, hosts, parse(f"{registry.host}/x"), RegistryAuth()), registry
            )

    asyncio.run(run())
    assert clock.waits == [] and len(mirror.requests) == 1


@pytest.mark.parametrize(("said", "waits"), [("", [0.5, 1.0]), ("30", [30.0, 30.0]), ("3600", None)])
def test_who_downloads_is_told_how_long_it_is_waited(said: str, waits: list[float] | None, clock: Clock) -> None:
    told: list[float] = []

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.put_blob(BLOB)
        limiting(said, said, path=f"/v2/x/blobs/{digest_of(BLOB)}")(registry)
        try:
            async with repository.blob_pieces(blob_descriptor(), 0, told.append) as pieces:
                assert b"".join([piece async for piece in pieces]) == BLOB
        except RegistryError as error:
            assert waits is None and "try again in 3600 seconds" in str(error)

    talk(lambda _: None, use)
    assert told == clock.waits == (waits or [])


def test_a_blob_that_a_mirror_has_no_time_for_comes_from_the_registry(clock: Clock, tmp_path: Path) -> None:
    mirror, registry = ScriptedRegistry(), ScriptedRegistry()

    async def run() -> None:
        async with registry.serving(), mirror.serving(), new_session() as session:
            for one in (mirror, registry):
                one.put_blob(BLOB)
            limiting(*["3600"] * 10, path=f"/v2/x/blobs/{digest_of(BLOB)}")(mirror)
            (tmp_path / registry.host).mkdir()
            text = f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]\n'
            (tmp_path / registry.host / "hosts.toml").write_text(text)
            hosts = RegistryHosts(certificates=[str(tmp_path)])
            repository = await Repository.open(session, hosts, parse(f"{registry.host}/x"), RegistryAuth())
            assert await download(repository, blob_descriptor()) == BLOB

    asyncio.run(run())
    assert clock.waits == [] and sum("/blobs/" in path for _, path, _ in mirror.requests) == 1


def test_what_does_not_pass_is_not_tried_again() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        with pytest.raises(RegistryError, match="manifest unknown"):
            await repository.manifest("missing")

    registry = talk(lambda _: None, use)
    assert sum("/manifests/" in path for _, path, _ in registry.requests) == 1


# --- who is asking


def wanting_basic(request: web.Request) -> web.Response | None:
    if request.headers.get("Authorization") == BASIC:
        return None
    return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="r"'})


async def basic(request: web.Request) -> web.Response | None:
    return wanting_basic(request)


def test_basic_credentials_are_shown_when_asked_for() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.put_manifest(b"{}", "latest")
        assert (await repository.manifest("latest")).data == b"{}"

    registry = talk(lambda registry: setattr(registry, "behave", basic), use, auth=ANN)
    assert [header for _, _, header in registry.requests] == ["", BASIC]


def test_without_credentials_the_error_says_so() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        with pytest.raises(PermissionDenied, match="no basic auth credentials"):
            await repository.manifest("latest")

    talk(lambda registry: setattr(registry, "behave", basic), use)


def test_wrong_credentials_are_not_tried_for_ever() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        with pytest.raises(RegistryError, match="unauthorized: authentication required"):
            await repository.manifest("latest")

    wrong = RegistryAuth(username="ann", password="wrong")
    registry = talk(lambda registry: setattr(registry, "behave", basic), use, auth=wrong)
    assert len(registry.requests) <= 3


class TokenServer:
    """Behaviour of a registry that is its own token server. `issued` counts tokens; `refused` forgets the first ones."""

    def __init__(self, registry: ScriptedRegistry, **answer: Any) -> None:
        self.registry = registry
        self.issued = 0
        self.queries: list[dict[str, str]] = []
        self.answer = answer
        self.revoked: set[str] = set()

    async def __call__(self, request: web.Request) -> web.Response | None:
        if request.path == "/token":
            self.issued += 1
            form = dict(await request.post()) if request.method == "POST" else {}
            self.queries.append({**request.query, **{key: str(value) for key, value in form.items()}})
            self.queries[-1]["Authorization"] = request.headers.get("Authorization", "")
            return web.json_response({"token": f"t{self.issued}", "expires_in": 300} | self.answer)
        header = request.headers.get("Authorization", "")
        if header.startswith("Bearer t") and header not in self.revoked:
            return None
        challenge = f'Bearer realm="http://{self.registry.host}/token",service="s",scope="repository:x:pull"'
        return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})


@pytest.mark.parametrize("auth", [RegistryAuth(), ANN])
def test_a_token_is_fetched_once_and_shown(auth: RegistryAuth) -> None:
    servers: list[TokenServer] = []

    def prepare(registry: ScriptedRegistry) -> None:
        servers.append(TokenServer(registry))
        registry.behave = servers[0]
        registry.put_manifest(b"{}", "latest")
        registry.put_blob(BLOB)

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        await repository.manifest("latest")
        assert await download(repository, blob_descriptor()) == BLOB

    talk(prepare, use, auth=auth)
    [query] = servers[0].queries
    assert (query["service"], query["scope"]) == ("s", "repository:x:pull")
    assert query["Authorization"] == (BASIC if auth.username else "")
    assert query.get("account") == (auth.username or None)


def test_an_identity_token_is_exchanged() -> None:
    servers: list[TokenServer] = []

    def prepare(registry: ScriptedRegistry) -> None:
        servers.append(TokenServer(registry, token=None, access_token="t9"))
        registry.behave = servers[0]
        registry.put_manifest(b"{}", "latest")

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        await repository.manifest("latest")

    talk(prepare, use, auth=RegistryAuth(identity_token="refresh"))
    assert servers[0].queries[0]["grant_type"] == "refresh_token"
    assert servers[0].queries[0]["refresh_token"] == "refresh"


def test_a_token_that_has_run_out_is_replaced() -> None:
    servers: list[TokenServer] = []

    def prepare(registry: ScriptedRegistry) -> None:
        servers.append(TokenServer(registry))
        registry.behave = servers[0]
        registry.put_manifest(b"{}", "latest")

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        await repository.manifest("latest")
        servers[0].revoked.add("Bearer t1")
        await repository.manifest("latest")

    registry = talk(prepare, use)
    assert registry.requests[-1][2] == "Bearer t2"


@pytest.mark.parametrize("answer", [{"token": None}, {"token": 5}, {"token": "a\r\nX: y"}, {"expires_in": "x"}])
def test_a_token_server_that_gives_no_token_is_an_error(answer: dict[str, Any]) -> None:
    def prepare(registry: ScriptedRegistry) -> None:
        registry.behave = TokenServer(registry, **answer)

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        with pytest.raises(RegistryError, match="did not include a token"):
            await repository.manifest("latest")

    talk(prepare, use)


def in_packets(document: Mapping[str, Any], status: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """An answer whose body comes in two packets."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = json.dumps(document).encode()
        response = web.StreamResponse(status=status)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[:10])
        await asyncio.sleep(0.05)
        await response.write(body[10:])
        return response

    return answer


def test_a_token_that_comes_in_several_packets_is_whole() -> None:
    def prepare(registry: ScriptedRegistry) -> None:
        tokens, slow = TokenServer(registry), in_packets({"token": "t" * 5000}, 200)

        async def behave(request: web.Request) -> web.StreamResponse | None:
            return await (slow if request.path == "/token" else tokens)(request)

        registry.behave = behave
        registry.put_manifest(b"{}", "latest")

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        assert (await repository.manifest("latest")).data == b"{}"

    talk(prepare, use)


def test_an_error_that_comes_in_several_packets_keeps_its_code() -> None:
    slow = in_packets({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such manifest"}]}, 404)

    async def behave(request: web.Request) -> web.StreamResponse | None:
        return await slow(request) if "/manifests/" in request.path else None

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        with pytest.raises(RegistryError, match="manifest unknown: no such manifest"):
            await repository.manifest("latest")

    talk(lambda registry: setattr(registry, "behave", behave), use)


# --- other places


def test_credentials_do_not_follow_a_redirect_to_another_host() -> None:
    """CVE-2020-15157: blobs often lie elsewhere; who serves them must not learn who asks."""
    elsewhere = ScriptedRegistry()

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        async with elsewhere.serving():
            elsewhere.put_blob(BLOB)

            async def redirect(request: web.Request) -> web.Response | None:
                if "/blobs/" in request.path:
                    return web.Response(status=307, headers={"Location": f"http://{elsewhere.host}{request.path}"})
                return wanting_basic(request)

            registry.behave = redirect
            registry.put_manifest(b"{}", "latest")
            await repository.manifest("latest")
            assert await download(repository, blob_descriptor()) == BLOB

    registry = talk(lambda registry: setattr(registry, "behave", basic), use, auth=ANN)
    assert registry.requests[-1][2] == BASIC
    assert [header for _, _, header in elsewhere.requests] == [""]


def test_a_host_that_was_redirected_to_cannot_ask_for_credentials() -> None:
    elsewhere = ScriptedRegistry()

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        async with elsewhere.serving():
            elsewhere.behave = basic
            target = f"http://{elsewhere.host}/blob"
            registry.behave = lambda request: _answer(web.Response(status=302, headers={"Location": target}))
            with pytest.raises(RegistryError):
                await download(repository, blob_descriptor())

    talk(lambda _: None, use, auth=ANN)
    assert [header for _, _, header in elsewhere.requests] == [""]


async def _answer(response: web.Response) -> web.Response:
    return response


def test_a_circle_of_redirects_ends() -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = lambda request: _answer(web.Response(status=302, headers={"Location": request.path}))
        with pytest.raises(InvalidArgument, match="redirects more than"):
            await download(repository, blob_descriptor())

    talk(lambda _: None, use)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/", "http://[bad", "//"])
def test_a_redirect_to_what_is_no_place_is_refused(location: str) -> None:
    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = lambda request: _answer(web.Response(status=302, headers={"Location": location}))
        with pytest.raises((InvalidArgument, Unavailable)):
            await download(repository, blob_descriptor())

    talk(lambda _: None, use)


def test_tags_are_listed_over_all_pages() -> None:
    async def pages(request: web.Request) -> web.Response | None:
        if not request.path.endswith("/tags/list"):
            return None
        if request.query.get("last"):
            return web.json_response({"name": "x", "tags": ["c"]})
        return web.json_response({"tags": ["a", "b"]}, headers={"Link": '</v2/x/tags/list?last=b&n=2>; rel="next"'})

    async def use(repository: Repository, registry: ScriptedRegistry) -> None:
        registry.behave = pages
        assert await repository.tags() == ["a", "b", "c"]

    talk(lambda _: None, use)


def test_a_registry_that_is_not_there_is_said_in_known_words() -> None:
    async def run() -> None:
        async with new_session() as session:
            with pytest.raises(Unavailable, match=r"dial tcp 127\.0\.0\.1:1: connect: connection refused"):
                await Repository.open(session, RegistryHosts(), parse("127.0.0.1:1/x"), RegistryAuth())

    asyncio.run(run())


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's context with a certificate that nobody has signed."""
    place = tmp_path_factory.mktemp("tls")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(place / "key"), "-out", str(place / "certificate")]
    subprocess.run([*words, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place / "certificate", place / "key")
    return context


def over_tls(certificate: ssl.SSLContext, hosts: RegistryHosts) -> bytes:
    registry = ScriptedRegistry(tls=certificate)

    async def run() -> bytes:
        async with registry.serving(), new_session() as session:
            registry.put_manifest(b"{}", "latest")
            repository = await Repository.open(session, hosts, parse(f"{registry.host}/x"), RegistryAuth())
            return (await repository.manifest("latest")).data

    return asyncio.run(run())


def test_an_insecure_registry_is_spoken_to_with_tls_if_it_can(certificate: ssl.SSLContext) -> None:
    assert over_tls(certificate, RegistryHosts()) == b"{}"


def test_a_certificate_that_nobody_signed_ends_the_conversation(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RegistryHosts, "is_insecure", lambda *_: False)
    with pytest.raises(Unavailable, match="failed to verify certificate"):
        over_tls(certificate, RegistryHosts())


def test_a_registry_without_tls_that_is_not_insecure_is_not_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryHosts, "is_insecure", lambda *_: False)
    with pytest.raises(Unavailable):
        talk(lambda _: None, lambda *_: _answer(web.Response()))  # type: ignore[arg-type]


# --- through a proxy


class Proxy:
    """Leads every CONNECT to the registry, and remembers what it was asked."""

    def __init__(self, registry: ScriptedRegistry) -> None:
        self._registry = registry
        self.heads: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            yield f"{host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        there, onwards = await asyncio.open_connection("127.0.0.1", self._registry.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pump(reader, onwards), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            sink.write(data)
    sink.close()


def test_a_registry_is_reached_through_a_proxy_that_wants_a_password(
    certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ScriptedRegistry(certificate)
    proxy = Proxy(registry)

    async def run() -> None:
        async with registry.serving(), proxy.serving() as address:
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
            registry.put_manifest(b"{}", "latest")
            reference = parse("registry.invalid:4430/x")
            hosts = RegistryHosts([reference.domain])
            async with new_session() as session:
                repository = await Repository.open(session, hosts, reference, RegistryAuth())
                assert (await repository.manifest("latest")).data == b"{}"
            monkeypatch.setenv("NO_PROXY", "registry.invalid")
            async with new_session() as session:
                with pytest.raises(Unavailable, match="no such host"):
                    await Repository.open(session, hosts, reference, RegistryAuth())

    asyncio.run(run())
    assert {head.split("\r\n")[0] for head in proxy.heads} == {"CONNECT registry.invalid:4430 HTTP/1.1"}
    assert all("Proxy-Authorization: Basic bWU6c2VjcmV0" in head for head in proxy.heads)
    assert not any(authorization for _, _, authorization in registry.requests)
