import asyncio
import re
from pathlib import Path

import pytest
from tests.unit.registry.lab import Client, registry, run, sha

from wherry.registry import listener
from wherry.registry.index import Index


def test_the_base_says_which_api_this_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            answer = await client.ask("GET", "/v2/")
            assert (answer.status, answer.json) == (200, {})
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"

    run(test)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "UNSUPPORTED"),
        ("GET", "/v2/A/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/../../etc/passwd/tags/list", 400, "NAME_INVALID"),
        ("POST", "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ("TRACE", "/v2/", 405, "UNSUPPORTED"),
        ("GET", "/v2/a/blobs/sha256:zz", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/manifests/sha256:zz", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/manifests/.no-tag", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/a/blobs/uploads/x", 404, "BLOB_UPLOAD_UNKNOWN"),
    ],
)
def test_errors_have_the_specifications_form(tmp_path: Path, method: str, path: str, status: int, code: str) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            answer = await raw(client, f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.startswith(f"HTTP/1.1 {status} ") and f'"code": "{code}"' in answer

    run(test)


async def raw(client: Client, request: str) -> str:
    host, _, port = client.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode("latin-1"))
    answer = await reader.read()
    writer.close()
    return answer.decode()


def test_what_is_no_http_is_refused_and_the_server_lives(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            assert "400" in await raw(client, "\x16\x03\x01\x00nonsense\r\n\r\n")
            assert " 400 " in await raw(client, f"GET /v2/ HTTP/1.1\r\nX: {'a' * 20000}\r\n\r\n")
            assert (await client.ask("GET", "/v2/")).status == 200

    run(test)


def test_a_read_only_registry_serves_and_refuses(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", b"data")
        async with registry(tmp_path, read_only=True) as client:
            assert (await client.ask("GET", f"/v2/a/blobs/{digest}")).body == b"data"
            for method, path in (("DELETE", f"/v2/a/blobs/{digest}"), ("POST", "/v2/a/blobs/uploads/")):
                answer = await client.ask(method, path)
                assert (answer.status, answer.code) == (405, "UNSUPPORTED")
            assert (await client.ask("PUT", "/v2/a/manifests/x", data=b"x" * 100_000)).status == 405

    run(test)


def test_the_log_has_a_line_a_request_that_a_client_cannot_forge(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            await client.ask("GET", "/v2/", headers={"User-Agent": 'x" 200 \u202e\\'})
            await client.ask("GET", f"/v2/a/blobs/{await client.push_blob('a', b'12345')}")
            while len(lines := client.lab.log.getvalue().splitlines()) < 3:  # the line is written after the answer
                await asyncio.sleep(0.01)
            first, _, third = lines
            assert re.fullmatch(
                r'127\.0\.0\.1 - - \[.*\] "GET /v2/ HTTP/1\.1" 200 2 "-" "x\\x22 200 \\x202e\\x5c" 0\.\d{3}', first
            )
            assert f'"GET /v2/a/blobs/{sha(b"12345")} HTTP/1.1" 200 5 ' in third

    run(test)


def test_writes_that_wait_together_succeed_and_fail_apart(tmp_path: Path) -> None:
    async def test() -> None:
        index = Index(str(tmp_path / "index.db"))

        def write(number: int) -> int:
            if number % 3 == 0:
                raise KeyError(number)
            return number

        def writer(number: int):  # type: ignore[no-untyped-def]
            def function(connection):  # type: ignore[no-untyped-def]
                connection.execute("insert into repositories values (?)", (f"r{number}",))
                return write(number)

            return index.write(function)

        outcomes = await asyncio.gather(*map(writer, range(100)), return_exceptions=True)
        assert [isinstance(outcome, KeyError) for outcome in outcomes] == [n % 3 == 0 for n in range(100)]
        assert len(index.repositories("", 1000)) == 66
        index.close()

    run(test)


def test_many_uploads_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            blobs = [f"{number}".encode() * 1000 for number in range(100)]
            await asyncio.gather(*(client.push_blob(f"r{n % 5}", data) for n, data in enumerate(blobs)))
            await asyncio.gather(*(client.push_blob("same", b"same") for _ in range(20)))
            for number, data in enumerate(blobs):
                assert (await client.ask("GET", f"/v2/r{number % 5}/blobs/{sha(data)}")).body == data

    run(test)


@pytest.mark.parametrize("said", ["", "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_connection_on_which_no_request_comes_is_closed(
    tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            host, _, port = client.base.removeprefix("http://").partition(":")
            used, asked = await asyncio.open_connection(host, int(port))
            for _ in range(2):
                asked.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await used.readuntil(b"\r\n\r\n{}")).startswith(b"HTTP/1.1 200 ")
                monkeypatch.setattr(listener, "FIRST_REQUEST_SECONDS", 0.05)  # for those who come now
                assert await raw(client, said) == ""
            asked.close()

    run(test)
