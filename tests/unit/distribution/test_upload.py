"""Uploads to registries that stumble and lie: what was received is not sent again, what is stored has the right digest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from tests.registry import OCI_INDEX, OCI_MANIFEST, ScriptedRegistry, digest_of, error

from wherry.distribution import connection, upload
from wherry.distribution.connection import new_session
from wherry.distribution.errors import RegistryError
from wherry.distribution.hosts import RegistryHosts
from wherry.distribution.upload import Target
from wherry.errors import DataLoss, InvalidArgument, Unavailable
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import Descriptor
from wherry.spec.reference import parse

BLOB = bytes(range(256)) * 10_000
DIGEST = Digest(digest_of(BLOB))


class Receiving(ScriptedRegistry):
    """Takes uploads, one at a time. `breaks_after`: how many bytes it takes before it drops the connection, each time once."""

    def __init__(self) -> None:
        super().__init__()
        self.behave = self.receive
        self.received = b""
        self.sent = 0
        self.breaks_after: list[int] = []
        self.forgets = False
        self.stored: dict[str, bytes] = {}

    async def receive(self, request: web.Request) -> web.StreamResponse | None:
        match request.method:
            case "POST":
                self.received = b""
                return web.Response(status=202, headers={"Location": "/v2/x/blobs/uploads/1?state=a"})
            case "PATCH":
                return await self._patch(request)
            case "GET" if "/uploads/" in request.path:
                if self.forgets:
                    return error(404, "BLOB_UPLOAD_UNKNOWN", "upload unknown")
                return web.Response(
                    status=204,
                    headers={
                        "Range": f"0-{max(0, len(self.received) - 1)}",
                        "Location": "/v2/x/blobs/uploads/1?state=b",
                    },
                )
            case "PUT" if "/uploads/" in request.path:
                assert "state" in request.query
                self.stored[request.query["digest"]] = self.received
                return web.Response(status=201, headers={"Docker-Content-Digest": digest_of(self.received)})
            case "HEAD":
                return web.Response(status=200 if request.path.rpartition("/")[2] in self.stored else 404)
        return None

    async def _patch(self, request: web.Request) -> web.StreamResponse:
        start = int(request.headers["Content-Range"].partition("-")[0])
        if start != len(self.received):
            return error(416, "BLOB_UPLOAD_INVALID", "another range was expected")
        limit = self.breaks_after.pop(0) if self.breaks_after else None
        async for piece in request.content.iter_any():
            self.received += piece
            self.sent += len(piece)
            if limit is not None and self.sent >= limit:
                assert request.transport is not None
                request.transport.close()
                break
        return web.Response(status=202, headers={"Location": "/v2/x/blobs/uploads/1?state=c"})


def talk(registry: ScriptedRegistry, use: Callable[[Target], Awaitable[None]]) -> None:
    async def run() -> None:
        async with registry.serving(), new_session() as session:
            reference = parse(f"{registry.host}/x")
            await use(await Target.open(session, RegistryHosts(certificates=[]), reference, RegistryAuth()))

    asyncio.run(run())


async def pieces(position: int) -> AsyncIterator[bytes]:
    for start in range(position, len(BLOB), 100_000):
        yield BLOB[start : start + 100_000]


def test_a_blob_is_sent_whole() -> None:
    registry = Receiving()

    async def use(target: Target) -> None:
        assert not await target.has_blob(DIGEST)
        await target.upload(DIGEST, len(BLOB), pieces)
        assert await target.has_blob(DIGEST)

    talk(registry, use)
    assert registry.stored == {DIGEST: BLOB} and registry.sent == len(BLOB)


def test_an_upload_that_breaks_goes_on_where_it_was() -> None:
    registry = Receiving()
    registry.breaks_after = [500_000, 1_500_000]

    async def use(target: Target) -> None:
        await target.upload(DIGEST, len(BLOB), pieces)

    talk(registry, use)
    assert registry.stored == {DIGEST: BLOB} and registry.sent == len(BLOB)


def test_an_upload_that_the_registry_forgets_begins_anew() -> None:
    registry = Receiving()
    registry.breaks_after, registry.forgets = [500_000], True

    async def use(target: Target) -> None:
        await target.upload(DIGEST, len(BLOB), pieces)

    talk(registry, use)
    assert registry.stored == {DIGEST: BLOB} and registry.sent > len(BLOB)


def test_an_upload_that_never_gets_anywhere_is_given_up() -> None:
    registry = Receiving()
    registry.breaks_after = [1] * 100

    async def use(target: Target) -> None:
        with pytest.raises(Unavailable):
            await target.upload(DIGEST, len(BLOB), pieces)

    async def drop(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH":
            assert request.transport is not None
            request.transport.close()
        return await registry.receive(request) if request.method != "PATCH" else web.Response()

    registry.behave = drop
    talk(registry, use)
    assert sum(method == "PATCH" for method, _, _ in registry.requests) == connection.ATTEMPTS


def test_a_registry_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(upload, "ATTEMPTS", 1)
    registry = Receiving()

    async def swallow(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PATCH":
            await asyncio.sleep(30)
        return await registry.receive(request)

    async def use(target: Target) -> None:
        with pytest.raises(Unavailable, match="takes nothing"):
            await target.upload(DIGEST, len(BLOB), pieces)

    registry.behave = swallow
    talk(registry, use)


def test_a_registry_that_stores_something_else_is_data_loss() -> None:
    registry = Receiving()

    async def lie(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            return web.Response(status=201, headers={"Docker-Content-Digest": digest_of(b"other")})
        return await registry.receive(request)

    async def use(target: Target) -> None:
        with pytest.raises(DataLoss, match="stored"):
            await target.upload(DIGEST, len(BLOB), pieces)
        with pytest.raises(DataLoss, match="stored"):
            await target.put_manifest("latest", b"{}", "application/json", DIGEST)

    registry.behave = lie
    talk(registry, use)


def test_a_registry_that_does_not_say_where_to_send_is_an_error() -> None:
    registry = Receiving()

    async def silent(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=202) if request.method == "POST" else None

    async def use(target: Target) -> None:
        with pytest.raises(InvalidArgument, match="does not say where"):
            await target.upload(DIGEST, len(BLOB), pieces)

    registry.behave = silent
    talk(registry, use)


@pytest.mark.parametrize("status", [201, 202, 403])
def test_a_mount_either_is_done_or_leaves_nothing_begun(status: int) -> None:
    registry = Receiving()
    asked: list[dict[str, str]] = []

    async def mount(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST":
            asked.append(dict(request.query))
            if status == 403:
                return error(403, "DENIED", "no")
            return web.Response(status=status, headers={"Location": "/v2/x/blobs/uploads/1"})
        return web.Response(status=204) if request.method == "DELETE" else None

    async def use(target: Target) -> None:
        assert await target.mount(DIGEST, "team/other") is (status == 201)

    registry.behave = mount
    talk(registry, use)
    assert asked == [{"mount": DIGEST, "from": "team/other"}]
    assert ("DELETE" in [method for method, _, _ in registry.requests]) is (status == 202)


def test_credentials_do_not_follow_an_upload_to_another_place() -> None:
    real, other = ScriptedRegistry(), Receiving()
    shown: list[tuple[str, str]] = []

    async def lead_away(request: web.Request) -> web.Response | None:
        if "Authorization" not in request.headers:
            return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="x"'})
        shown.append(("real", request.method))
        location = f"http://{other.host}/v2/x/blobs/uploads/1?state=a"
        return web.Response(status=202, headers={"Location": location}) if request.method == "POST" else None

    async def run() -> None:
        async with real.serving(), other.serving(), new_session() as session:
            real.behave = lead_away
            auth = RegistryAuth(username="ann", password="secret")
            target = await Target.open(session, RegistryHosts(), parse(f"{real.host}/x"), auth)

            async def pieces(position: int) -> AsyncIterator[bytes]:
                yield BLOB[position:]

            await target.upload(DIGEST, len(BLOB), pieces)

    asyncio.run(run())
    assert other.stored == {DIGEST: BLOB} and ("real", "POST") in shown
    assert all(not authorization for _, _, authorization in other.requests)


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("methods", [{"POST"}, {"PATCH"}, {"PUT"}, {"POST", "PATCH", "PUT"}])
def test_an_upload_that_is_redirected_is_sent_there_without_credentials(status: int, methods: set[str]) -> None:
    real, other = Receiving(), Receiving()
    other.received = b""
    if methods == {"PUT"}:
        other.received = BLOB  # the place has been told otherwise

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        if "Authorization" not in request.headers:
            return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": 'Basic realm="x"'})
        if request.method in methods:
            async for _ in request.content.iter_any():
                pass
            return web.Response(status=status, headers={"Location": f"http://{other.host}{request.path_qs}"})
        return await real.receive(request)

    async def run() -> None:
        async with real.serving(), other.serving(), new_session() as session:
            real.behave = redirect
            auth = RegistryAuth(username="ann", password="secret")
            target = await Target.open(session, RegistryHosts(), parse(f"{real.host}/x"), auth)
            await target.upload(DIGEST, len(BLOB), pieces)

    asyncio.run(run())
    assert other.stored == {DIGEST: BLOB}
    assert all(not authorization for _, _, authorization in other.requests)


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_may_drop_the_body_is_an_error(status: int) -> None:
    registry = Receiving()

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=status, headers={"Location": "/elsewhere"}) if request.method == "POST" else None

    async def use(target: Target) -> None:
        with pytest.raises(RegistryError, match=str(status)):
            await target.upload(DIGEST, len(BLOB), pieces)

    registry.behave = redirect
    talk(registry, use)


def test_redirects_that_lead_round_and_round_end() -> None:
    registry = Receiving()

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=307, headers={"Location": request.path_qs}) if request.method == "POST" else None

    async def use(target: Target) -> None:
        with pytest.raises(InvalidArgument, match="redirects more than 10 times"):
            await target.upload(DIGEST, len(BLOB), pieces)

    registry.behave = redirect
    talk(registry, use)


def test_a_refusal_is_not_repeated() -> None:
    registry = Receiving()

    async def deny(request: web.Request) -> web.StreamResponse | None:
        return error(403, "DENIED", "requested access to the resource is denied") if request.method == "POST" else None

    async def use(target: Target) -> None:
        with pytest.raises(RegistryError, match="denied: requested access"):
            await target.upload(DIGEST, len(BLOB), pieces)

    registry.behave = deny
    talk(registry, use)
    assert sum(method == "POST" for method, _, _ in registry.requests) == 1


# --- referrers


@pytest.mark.parametrize("api", [True, False])
def test_a_referrer_is_listed_by_the_client_where_the_registry_does_not(api: bool) -> None:
    registry = ScriptedRegistry()
    subject = Digest(digest_of(b"the image"))
    tag = subject.replace(":", "-")

    async def keep(request: web.Request) -> web.Response | None:
        if request.method != "PUT":
            return None
        data = await request.read()
        registry.put_manifest(data, request.path.rpartition("/")[2], media_type=request.headers["Content-Type"])
        headers = {"OCI-Subject": subject} if api else {}
        return web.Response(status=201, headers={"Docker-Content-Digest": digest_of(data), **headers})

    def referrer(name: str) -> tuple[bytes, Descriptor]:
        data = json.dumps({"schemaVersion": 2, "name": name}).encode()
        return data, Descriptor(OCI_MANIFEST, Digest(digest_of(data)), len(data), None, {"a": name}, "x/y")

    registry.behave = keep
    if not api:
        first = {"mediaType": OCI_MANIFEST, "digest": digest_of(b"first"), "size": 5, "artifactType": "z", "more": 1}
        registry.put_manifest({"schemaVersion": 2, "manifests": [first]}, tag, media_type=OCI_INDEX)

    async def put(target: Target) -> None:
        for name in ("one", "two", "one"):
            await target.put_referrer(*referrer(name), subject)

    async def put_beside_an_image(target: Target) -> None:
        registry.put_manifest(b'{"schemaVersion": 2, "config": {}, "layers": []}', tag)
        with pytest.raises(InvalidArgument):
            await target.put_referrer(*referrer("three"), subject)

    talk(registry, put)
    if api:
        assert tag not in registry.manifests
        return
    listed = json.loads(registry.manifests[tag][0])["manifests"]
    assert listed == [first, referrer("one")[1].to_json(), referrer("two")[1].to_json()]
    talk(registry, put_beside_an_image)
