import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.registry import OCI_MANIFEST, Behaviour, ScriptedRegistry, digest_of, error
from tests.unit.registry.lab import EMPTY, Client, image, registry, run
from tests.unit.registry.test_passwords import htpasswd

from wherry.registry.issuer import Issuer
from wherry.registry.passwords import Passwords
from wherry.registry.tokens import TokenGate, TokenSettings, own_key

DATA = os.urandom(5_000_000)


@asynccontextmanager
async def cached(root: Path) -> AsyncIterator[tuple[Client, ScriptedRegistry]]:
    async with ScriptedRegistry().serving() as source, registry(root, proxy=f"http://{source.host}") as client:
        yield client, source


def asked(source: ScriptedRegistry, method: str, part: str) -> int:
    return sum(m == method and part in path for m, path, _ in source.requests)


def test_a_blob_is_fetched_once_and_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            digest = source.put_blob(DATA)["digest"]
            url = f"/v2/a/blobs/{digest}"
            answers = await asyncio.gather(*(client.ask("GET", url) for _ in range(20)))
            assert all(answer.status == 200 and answer.body == DATA for answer in answers)
            assert (await client.ask("GET", url, headers={"Range": "bytes=1-3"})).body == DATA[1:4]
            assert asked(source, "GET", "/blobs/") == 1
            assert os.listdir(tmp_path / "uploads") == []
        async with registry(tmp_path, proxy="http://127.0.0.1:1") as client:
            assert (await client.ask("GET", url)).body == DATA

    run(test)


def test_clients_are_sent_what_has_come_while_the_rest_comes(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            digest = source.put_blob(DATA)["digest"]
            go_on = asyncio.Event()
            source.behave = slowly(DATA, go_on)
            async with client.session.get(f"{client.base}/v2/a/blobs/{digest}") as answer:
                first = await answer.content.readexactly(1_000_000)
                go_on.set()
                assert first + await answer.read() == DATA

    run(test)


def slowly(data: bytes, go_on: asyncio.Event) -> Behaviour:
    """Sends 3 MB, and the rest when it is told to."""

    async def behave(request: web.Request) -> web.StreamResponse | None:
        response = web.StreamResponse()
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[:3_000_000])
        await go_on.wait()
        await response.write(data[3_000_000:])
        return response

    return behave


def test_a_blob_with_another_digest_is_never_whole_and_not_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            digest = source.put_blob(DATA)["digest"]
            source.blobs[digest] = DATA[:-1] + b"x"
            answers = await asyncio.gather(*(fetch(client, digest) for _ in range(3)))
            assert all(len(body) < len(DATA) for body in answers)
            assert list(client.lab.repositories.storage) == []
            source.blobs[digest] = DATA
            assert await fetch(client, digest) == DATA

    run(test)


async def fetch(client: Client, digest: str) -> bytes:
    got = b""
    async with client.session.get(f"{client.base}/v2/a/blobs/{digest}") as answer:
        try:
            async for piece in answer.content.iter_any():
                got += piece
        except Exception:
            assert got != DATA
    return got


def test_a_broken_connection_goes_on_where_it_was(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            digest = source.put_blob(DATA)["digest"]

            async def once(request: web.Request) -> web.StreamResponse | None:
                source.behave = None
                response = web.StreamResponse()
                response.content_length = len(DATA)
                await response.prepare(request)
                await response.write(DATA[:2_000_000])
                await asyncio.sleep(0.05)
                assert request.transport is not None
                request.transport.abort()
                return response

            source.behave = once
            assert (await client.ask("GET", f"/v2/a/blobs/{digest}")).body == DATA
            assert asked(source, "GET", "/blobs/") == 2

    run(test)


def test_a_tag_is_asked_for_each_time_and_fetched_when_it_moved(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            source.put_blob(EMPTY)
            first = source.put_manifest(image(), "v1")["digest"]
            answers = await asyncio.gather(*(client.ask("GET", "/v2/a/manifests/v1") for _ in range(10)))
            assert {answer.headers["Docker-Content-Digest"] for answer in answers} == {first}
            assert asked(source, "GET", "/manifests/v1") == 1
            assert (await client.ask("GET", "/v2/a/manifests/v1")).headers["Content-Type"] == OCI_MANIFEST
            assert (asked(source, "GET", "/manifests/v1"), asked(source, "HEAD", "/manifests/v1")) == (1, 1)
            second = source.put_manifest(image(b"new"), "v1")["digest"]
            assert (await client.ask("HEAD", "/v2/a/manifests/v1")).headers["Docker-Content-Digest"] == second
            before = len(source.requests)
            assert (await client.ask("GET", f"/v2/a/manifests/{first}")).status == 200
            assert len(source.requests) == before
            del source.manifests["v1"]
            assert (await client.ask("GET", "/v2/a/manifests/v1")).status == 404

    run(test)


def test_without_upstream_what_is_here_is_served_with_a_warning(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            source.put_manifest(image(), "v1")
            await client.ask("GET", "/v2/a/manifests/v1")

            async def fail(request: web.Request) -> web.StreamResponse:
                return error(503, "UNKNOWN", "out of order")

            source.behave = fail
            answer = await client.ask("GET", "/v2/a/manifests/v1")
            assert answer.status == 200 and answer.headers["Warning"].startswith("299 - ")
            assert (await client.ask("GET", "/v2/a/tags/list")).json["tags"] == ["v1"]
            answer = await client.ask("GET", "/v2/a/manifests/v2")
            assert answer.status == 503
            assert (await client.ask("GET", f"/v2/a/blobs/{digest_of(b'x')}")).status == 503

    run(test)


def test_what_upstream_does_not_have_is_unknown(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, _):
            assert (await client.ask("GET", "/v2/a/manifests/v1")).code == "MANIFEST_UNKNOWN"
            for method in ("GET", "HEAD"):
                assert (await client.ask(method, f"/v2/a/blobs/{digest_of(b'x')}")).status == 404
            assert (await client.ask("POST", "/v2/a/blobs/uploads/")).status == 405

    run(test)


def test_a_repository_shows_only_what_upstream_shows_there(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            digest = source.put_blob(DATA)["digest"]
            await client.ask("GET", f"/v2/a/blobs/{digest}")

            async def hide(request: web.Request) -> web.StreamResponse | None:
                return error(404, "BLOB_UNKNOWN", "unknown") if request.path.startswith("/v2/b/") else None

            source.behave = hide
            assert (await client.ask("GET", f"/v2/b/blobs/{digest}")).status == 404
            assert (await client.ask("GET", f"/v2/c/blobs/{digest}")).body == DATA
            assert asked(source, "GET", f"/v2/c/blobs/{digest}") == 0

    run(test)


def test_a_manifest_that_is_not_what_was_asked_for_is_not_served(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            digest = source.put_manifest(image())["digest"]
            source.manifests[digest] = (b'{"schemaVersion": 2}', OCI_MANIFEST)
            assert (await client.ask("GET", f"/v2/a/manifests/{digest}")).status == 502

    run(test)


def test_what_nobody_asks_a_cache_for_goes(tmp_path: Path) -> None:
    async def test() -> None:
        async with cached(tmp_path) as (client, source):
            source.put_blob(EMPTY)
            source.put_manifest(image(), "old")
            source.put_manifest(image(annotations={"n": "2"}), "new")
            for tag in ("old", "new"):
                await client.ask("GET", f"/v2/a/manifests/{tag}")
            await client.ask("GET", f"/v2/a/blobs/{digest_of(EMPTY)}")
            repositories = client.lab.repositories
            await repositories.index.write(lambda db: db.execute("update manifests set touched = 1"))
            repositories.touched.clear()
            await client.ask("GET", "/v2/a/manifests/new")
            collected = await client.lab.collector(grace=0.0, max_age=3600).collect()
            assert collected.manifests == 1
            assert repositories.index.tags("a", "", 10) == ["new"]
            assert list(repositories.storage) == [digest_of(EMPTY)]

    run(test)


def test_the_cache_shows_upstream_who_it_is_and_its_clients_need_not(tmp_path: Path) -> None:
    async def test() -> None:
        settings = TokenSettings("", "here", "here")
        key = own_key(str(tmp_path / "key"))
        issuer = Issuer(settings, key, Passwords(htpasswd(tmp_path / "users", ann="secret")), anonymous_pull=False)
        options: dict[str, Any] = {"gate": TokenGate(settings, [key.public_key()]), "extra": {"/token": issuer.answer}}
        async with registry(tmp_path / "source") as client:
            digest = await client.push_blob("a", DATA)
        async with registry(tmp_path / "source", **options) as source:
            async with registry(tmp_path / "cache", proxy=source.base, proxy_user=("ann", "secret")) as client:
                assert (await client.ask("GET", f"/v2/a/blobs/{digest}")).body == DATA
            async with registry(tmp_path / "other", proxy=source.base, proxy_user=("ann", "wrong")) as client:
                answer = await client.ask("GET", f"/v2/a/blobs/{digest}")
                assert (answer.status, answer.code) == (403, "DENIED")

    run(test)
