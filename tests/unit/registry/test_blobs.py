import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.registry.lab import Client, registry, run, sha

from wherry.registry import call, sending, uploads

DATA = os.urandom(3_000_000)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_in_one_post_comes_back(tmp_path: Path, algorithm: str) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a/b", DATA, algorithm)
            answer = await client.ask("GET", f"/v2/a/b/blobs/{digest}")
            assert (answer.status, answer.body) == (200, DATA)
            assert answer.headers["Docker-Content-Digest"] == digest
            head = await client.ask("HEAD", f"/v2/a/b/blobs/{digest}")
            assert (head.status, head.headers["Content-Length"]) == (200, str(len(DATA)))

    run(test)


async def start(client: Client, query: str = "") -> str:
    answer = await client.ask("POST", f"/v2/a/blobs/uploads/{query}")
    assert answer.status == 202
    assert answer.headers["Location"].endswith(answer.headers["Docker-Upload-UUID"])
    return str(answer.headers["Location"])


@pytest.mark.parametrize("query", ["", "?digest-algorithm=sha512"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_in_chunks(tmp_path: Path, query: str, algorithm: str) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client, query)
            for first, last in ((0, 999), (1000, 2_000_000)):
                headers = {"Content-Range": f"{first}-{last}"}
                answer = await client.ask("PATCH", location, data=DATA[first : last + 1], headers=headers)
                assert (answer.status, answer.headers["Range"]) == (202, f"0-{last}")
                location = answer.headers["Location"]
            status = await client.ask("GET", location)
            assert (status.status, status.headers["Range"]) == (204, "0-2000000")
            digest = sha(DATA, algorithm)
            headers = {"Content-Range": f"2000001-{len(DATA) - 1}"}
            answer = await client.ask("PUT", f"{location}?digest={digest}", data=DATA[2_000_001:], headers=headers)
            assert (answer.status, answer.headers["Location"]) == (201, f"/v2/a/blobs/{digest}")
            assert (await client.ask("GET", f"/v2/a/blobs/{digest}")).body == DATA
            assert (await client.ask("GET", location)).code == "BLOB_UPLOAD_UNKNOWN"
            assert os.listdir(tmp_path / "uploads") == []

    run(test)


@pytest.mark.parametrize("named", ["3-6", "3-8", "3-2999999", "3-2"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_stream_is_as_long_as_its_range_or_refused(tmp_path: Path, method: str, named: str) -> None:
    async def streamed(*pieces: bytes) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client)
            await client.ask("PATCH", location, data=b"123")
            path = location if method == "PATCH" else f"{location}?digest={sha(b'12345678')}"
            headers = {"Content-Range": named}
            answer = await client.ask(method, path, data=streamed(b"45", b"678"), headers=headers)
            assert (answer.status, answer.code) == (400, "SIZE_INVALID")
            assert (await client.ask("GET", location)).headers["Range"] == "0-2"
            answer = await client.ask(method, path, data=streamed(b"45", b"678"), headers={"Content-Range": "3-7"})
            assert answer.status == (202 if method == "PATCH" else 201)
            if method == "PATCH":
                answer = await client.ask("PUT", f"{location}?digest={sha(b'12345678')}")
                assert answer.status == 201

    run(test)


def test_a_chunk_out_of_order_is_416_and_says_where_to_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client)
            await client.ask("PATCH", location, data=b"12345", headers={"Content-Range": "0-4"})
            for method, path in (("PATCH", location), ("PUT", f"{location}?digest={sha(b'12345xx')}")):
                answer = await client.ask(method, path, data=b"xx", headers={"Content-Range": "3-4"})
                assert (answer.status, answer.headers["Range"]) == (416, "0-4")
                assert answer.headers["Location"] == location
            answer = await client.ask("PATCH", location, data=b"xx", headers={"Content-Range": "5-9"})
            assert (answer.status, answer.code) == (400, "SIZE_INVALID")
            answer = await client.ask("PATCH", location, data=b"xx", headers={"Content-Range": "bytes five"})
            assert (answer.status, answer.code) == (400, "BLOB_UPLOAD_INVALID")

    run(test)


def test_a_wrong_digest_stores_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            wrong = sha(b"other")
            answer = await client.ask("POST", f"/v2/a/blobs/uploads/?digest={wrong}", data=b"data")
            assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
            answer = await client.ask("PUT", f"{await start(client)}?digest={wrong}", data=b"data")
            assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
            for digest in ("", "sha256:00", "md5:" + "0" * 32):
                answer = await client.ask("PUT", f"{await start(client)}?digest={digest}", data=b"data")
                assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
            assert (await client.ask("GET", f"/v2/a/blobs/{wrong}")).code == "BLOB_UNKNOWN"
            assert list(client.lab.repositories.storage) == []

    run(test)


def test_a_cancelled_upload_is_gone(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client)
            await client.ask("PATCH", location, data=b"1")
            assert (await client.ask("DELETE", location)).status == 204
            assert (await client.ask("DELETE", location)).status == 404
            assert os.listdir(tmp_path / "uploads") == []

    run(test)


def test_an_upload_belongs_to_its_repository(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client)
            other = location.replace("/v2/a/", "/v2/b/")
            assert (await client.ask("PATCH", other, data=b"1")).code == "BLOB_UPLOAD_UNKNOWN"

    run(test)


def test_an_upload_goes_on_after_the_server_was_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client)
            await client.ask("PATCH", location, data=DATA[:1_500_000])
        async with registry(tmp_path) as client:
            assert (await client.ask("GET", location)).headers["Range"] == "0-1499999"
            answer = await client.ask("PUT", f"{location}?digest={sha(DATA)}", data=DATA[1_500_000:])
            assert answer.status == 201
            assert (await client.ask("GET", f"/v2/a/blobs/{sha(DATA)}")).body == DATA

    run(test)


def test_what_came_before_a_connection_broke_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = await start(client)
            host, _, port = client.base.removeprefix("http://").partition(":")
            _, writer = await asyncio.open_connection(host, int(port))
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n".encode()
            writer.write(head + DATA[:2_000_000])
            await writer.drain()
            upload = next(iter(client.lab.repositories.uploads._sessions.values()))
            while upload.size < 1_000_000:
                await asyncio.sleep(0.01)
            writer.close()
            async with upload.lock:
                pass
            status = await client.ask("GET", location)
            come = int(status.headers["Range"].removeprefix("0-")) + 1
            answer = await client.ask("PUT", f"{location}?digest={sha(DATA)}", data=DATA[come:])
            assert answer.status == 201

    run(test)


def test_ranges_and_conditions(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", DATA)
            url = f"/v2/a/blobs/{digest}"
            answer = await client.ask("GET", url, headers={"Range": "bytes=10-19"})
            assert (answer.status, answer.body) == (206, DATA[10:20])
            assert answer.headers["Content-Range"] == f"bytes 10-19/{len(DATA)}"
            answer = await client.ask("GET", url, headers={"Range": f"bytes={len(DATA)}-"})
            assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")
            answer = await client.ask("GET", url, headers={"If-None-Match": f'"{digest}"'})
            assert (answer.status, answer.body) == (304, b"")
            answer = await client.ask("GET", url, headers={"Range": "bytes=1-2", "If-Range": '"other"'})
            assert answer.status == 200

    run(test)


def test_mounts_come_from_the_repository_named_or_any_that_has_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", b"data")
            for query in ("&from=a", ""):
                answer = await client.ask("POST", f"/v2/b{len(query)}/blobs/uploads/?mount={digest}{query}")
                assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
                assert (await client.ask("GET", answer.headers["Location"])).body == b"data"
            answer = await client.ask("POST", f"/v2/c/blobs/uploads/?mount={digest}&from=nobody")
            assert answer.status == 202
            answer = await client.ask("POST", f"/v2/c/blobs/uploads/?mount={digest}&from=../a")
            assert answer.code == "NAME_INVALID"
            assert list(client.lab.repositories.storage) == [digest]

    run(test)


def test_a_deleted_blob_is_gone_there_and_nowhere_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", b"data")
            await client.push_blob("b", b"data")
            assert (await client.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 202
            assert (await client.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 404
            assert (await client.ask("HEAD", f"/v2/a/blobs/{digest}")).status == 404
            assert (await client.ask("GET", f"/v2/b/blobs/{digest}")).body == b"data"

    run(test)


def test_a_blob_whose_content_was_lost_is_unknown_and_can_be_pushed_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", b"data")
            client.lab.repositories.storage.remove(digest)  # type: ignore[arg-type]
            assert (await client.ask("HEAD", f"/v2/a/blobs/{digest}")).status == 404
            await client.push_blob("a", b"data")
            assert (await client.ask("GET", f"/v2/a/blobs/{digest}")).body == b"data"

    run(test)


def test_a_client_that_stops_sending_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "IDLE_SECONDS", 0.1)

    async def test() -> None:
        async with registry(tmp_path) as client:
            host, _, port = client.base.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            location = await start(client)
            writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\nabc".encode())
            assert b"408" in await reader.readline()
            writer.close()

    run(test)


def test_the_number_of_uploads_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_SESSIONS", 1)

    async def test() -> None:
        async with registry(tmp_path) as client:
            await start(client)
            answer = await client.ask("POST", "/v2/a/blobs/uploads/")
            assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
            assert "Retry-After" in answer.headers

    run(test)


def test_a_client_that_expects_100_is_told_before_it_sends(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            host, _, port = client.base.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            request = f"POST /v2/a/blobs/uploads/?digest={sha(b'data')} HTTP/1.1\r\nHost: x\r\n"
            writer.write(f"{request}Content-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
            assert b"100 Continue" in await reader.readline()
            writer.write(b"data")
            await reader.readline()
            assert b"201 Created" in await reader.readline()
            writer.close()

    run(test)


def test_a_client_that_stops_reading_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "IDLE_SECONDS", 0.1)

    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", DATA * 10)
            host, _, port = client.base.removeprefix("http://").partition(":")
            _, writer = await asyncio.open_connection(host, int(port), limit=1)
            writer.write(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            while "GET" not in client.lab.log.getvalue():
                await asyncio.sleep(0.02)
            assert '" 499 0 ' in client.lab.log.getvalue()
            writer.close()

    run(test)
