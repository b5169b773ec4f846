"""What somebody who means ill can send to the registry: each is refused plainly, and the registry lives on."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.unit.registry.lab import EMPTY, OCI_MANIFEST, Client, image, registry, run, sha
from tests.unit.registry.test_passwords import basic, htpasswd
from tests.unit.registry.test_tokens import gate, token

from wherry.registry import issuer as issuers
from wherry.registry.issuer import Issuer
from wherry.registry.passwords import Passwords
from wherry.registry.tokens import TokenGate, TokenSettings, own_key

HEAD = b"Host: x\r\nConnection: close\r\n"
LAYER = b"layer"
BLOB = f"/v2/a/blobs/{sha(LAYER)}".encode()


def request(line: bytes, headers: bytes = b"", body: bytes | None = None) -> bytes:
    length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
    return line + b" HTTP/1.1\r\n" + HEAD + headers + length + b"\r\n" + (body or b"")


def manifest(document: dict[str, Any] | bytes) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return request(b"PUT /v2/a/manifests/x", b"Content-Type: " + OCI_MANIFEST.encode() + b"\r\n", body)


async def said(client: Client, data: bytes) -> tuple[int, bytes]:
    """(status, body) of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(client.base.rpartition(":")[2]))
    writer.write(data)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read(1 << 20)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ", 2)[1]), body


IMAGE = image(LAYER)
NO_HTTP = [
    b"\r\n\r\n\x16\x03\x01 GET",
    b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\n\r\n",
    request(b"GET /v2/\xff/tags/list"),
    request(b"GET /v2/a/tags/list?last=\xff"),
    request(b"GET /v2/" + b"a" * 20_000),
    request(b"GET /v2/", b"X: " + b"a" * 20_000 + b"\r\n"),
    request(b"PATCH /v2/a/blobs/uploads/x", b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abc"),
    request(b"PATCH /v2/a/blobs/uploads/x", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    request(b"PATCH /v2/a/blobs/uploads/x", b"Content-Length: -3\r\n"),
    request(b"PATCH /v2/a/blobs/uploads/x", b"Transfer-Encoding: chunked\r\n") + b"zz\r\nabc",
]
REFUSED = {
    "not a number": (manifest(json.dumps(IMAGE | {"annotations": {"a": float("nan")}}).encode()), 400),
    "no finite number": (manifest(json.dumps(IMAGE).encode()[:-1] + b', "x": 1e999}'), 400),
    "half a character": (manifest(IMAGE | {"artifactType": "\ud800"}), 400),
    "annotations of no strings": (manifest(IMAGE | {"annotations": {"a": [1]}}), 400),
    "UTF-16": (manifest(json.dumps(IMAGE).encode("utf-16")), 400),
    "a byte order mark": (manifest(b"\xef\xbb\xbf" + json.dumps(IMAGE).encode()), 400),
    "another spelling": (manifest(IMAGE | {"Layers": []}), 400),
    "another s": (manifest(IMAGE | {"layer\u017f": []}), 400),
    "another spelling within": (manifest(IMAGE | {"config": {**IMAGE["config"], "Digest": sha(LAYER)}}), 400),
    "a digit too many": (manifest(b'{"schemaVersion": 2, "a": ' + b"9" * 5000 + b"}"), 400),
    "nesting": (manifest(b'{"a":' * 100_000), 400),
    "a host that is none": (b'GET /v2/ HTTP/1.1\r\nHost: x",realm="http://evil/\r\nConnection: close\r\n\r\n', 400),
    "a whole URL": (request(b"GET http://x/v2/"), 404),
    "a tunnel": (request(b"CONNECT x:1"), 404),
    "a way up": (request(b"GET /v2/../../etc/passwd"), 404),
    "an encoded way up": (request(b"GET /v2/a/blobs/..%2f..%2findex.db"), 404),
    "a NUL": (request(b"GET /v2/a%00/tags/list"), 400),
    "a line's end in a tag": (request(b"GET /v2/a/manifests/t%0a"), 404),
    "a mount from above": (request(b"POST /v2/b/blobs/uploads/?from=../a&mount=" + sha(LAYER).encode(), body=b""), 400),
    "a digest of no digest": (request(b"GET /v2/a/blobs/md5:" + b"0" * 32), 400),
    "other digits": (request(b"GET /v2/a/tags/list?n=%D9%A5"), 400),
    "a range backwards": (request(b"GET " + BLOB, b"Range: bytes=5-4\r\n"), 416),
    "a range past the end": (request(b"GET " + BLOB, b"Range: bytes=99999999999-\r\n"), 416),
    "an upload of nobody": (request(b"PATCH /v2/a/blobs/uploads/../../x", body=b"abc"), 404),
}


def is_quiet(caplog: pytest.LogCaptureFixture) -> bool:
    return all(record.exc_info is None and record.levelno < logging.ERROR for record in caplog.records)


@pytest.mark.parametrize("data", NO_HTTP)
def test_what_is_no_http_is_a_line_in_the_log_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        async with registry(tmp_path / "r") as client:
            status, _ = await said(client, data)
            assert status == 400
            assert (await client.ask("GET", "/v2/")).status == 200

    run(test)
    assert is_quiet(caplog), caplog.text
    assert "Traceback" not in caplog.text


def test_what_is_refused_is_refused_plainly_and_nothing_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r") as client:
            subject = await client.push_image("a", "t", LAYER)
            for name, (data, expected) in REFUSED.items():
                status, body = await said(client, data)
                assert status == expected, (name, body)
                if status != 416:
                    assert json.loads(body)["errors"][0]["code"], name
            assert (await client.ask("GET", "/v2/a/tags/list")).json["tags"] == ["t"]
            assert (await client.ask("GET", f"/v2/a/referrers/{subject}")).json["manifests"] == []

    run(test)
    assert is_quiet(caplog), caplog.text


def test_nothing_swells_on_its_way_in(tmp_path: Path) -> None:
    """A body that says that it is compressed is taken as it is: what is counted and hashed is what was sent."""
    packed = gzip.compress(bytes(1 << 20))

    async def test() -> None:
        async with registry(tmp_path / "r") as client:
            path = f"/v2/a/blobs/uploads/?digest={sha(packed)}"
            answer = await client.ask("POST", path, data=packed, headers={"Content-Encoding": "gzip"})
            assert answer.status == 201
            assert (await client.ask("GET", f"/v2/a/blobs/{sha(packed)}")).body == packed
            headers = {"Content-Encoding": "gzip", "Content-Type": OCI_MANIFEST}
            answer = await client.ask("PUT", "/v2/a/manifests/x", data=packed, headers=headers)
            assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")

    run(test)


def test_forms_that_are_none_get_no_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuers, "IDLE_SECONDS", 0.1)
    urlencoded = b"application/x-www-form-urlencoded"
    forms = [
        (b"grant_type=password&username=%ff&password=x", urlencoded, 400),
        (b"grant_type=password&username=\xff&password=x", urlencoded, 400),
        (b"grant_type=password", urlencoded + b"; charset=nonsense", 401),
        (b"--x\r\nfoo", b"multipart/form-data; boundary=x", 415),
        (b"--x\r\nfoo", b"multipart/form-data", 415),
        (b"{}", b"application/json", 415),
    ]

    async def test() -> None:
        settings, key = TokenSettings("", "here", "here"), own_key(str(tmp_path / "key"))
        issuer = Issuer(settings, key, Passwords(htpasswd(tmp_path / "users", ann="secret")), anonymous_pull=True)
        options: dict[str, Any] = {"gate": TokenGate(settings, [key.public_key()]), "extra": {"/token": issuer.answer}}
        async with registry(tmp_path / "r", **options) as client:
            for body, kind, expected in forms:
                status, _ = await said(client, request(b"POST /token", b"Content-Type: " + kind + b"\r\n", body))
                assert status == expected, body
            slow = request(b"POST /token", b"Content-Type: " + urlencoded + b"\r\nContent-Length: 9\r\n")
            assert (await said(client, slow))[0] == 408
            scopes = "&".join(["scope=repository:a:pull"] * 51)
            ann = basic("ann", "secret")
            assert (await client.ask("GET", f"/token?service=here&{scopes}", headers=ann)).status == 400

    run(test)
    assert is_quiet(caplog), caplog.text


def test_a_token_for_one_repository_is_worth_nothing_in_another(tmp_path: Path) -> None:
    """Whatever the path looks like, the name that is checked is the name that is used."""

    def access(name: str) -> dict[str, str]:
        actions = ["pull", "push", "delete", "*"]
        return {"Authorization": f"Bearer {token(access=[{'type': 'repository', 'name': name, 'actions': actions}])}"}

    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "keys")) as client:
            mine, theirs = access("mine"), access("theirs")
            for data in (EMPTY, LAYER):
                path = f"/v2/theirs/blobs/uploads/?digest={sha(data)}"
                assert (await client.ask("POST", path, data=data, headers=theirs)).status == 201
            body = json.dumps(image(LAYER)).encode()
            kind = {"Content-Type": OCI_MANIFEST}
            pushed = await client.ask("PUT", "/v2/theirs/manifests/t", data=body, headers=theirs | kind)
            assert pushed.status == 201
            digest = pushed.headers["Docker-Content-Digest"]
            session = (await client.ask("POST", "/v2/theirs/blobs/uploads/", headers=theirs)).headers["Location"]
            number = session.rpartition("/")[2]
            for method, path in (
                ("GET", "tags/list"),
                ("GET", "manifests/t"),
                ("HEAD", f"manifests/{digest}"),
                ("PUT", "manifests/t"),
                ("DELETE", "manifests/t"),
                ("GET", f"blobs/{sha(LAYER)}"),
                ("HEAD", f"blobs/{sha(LAYER)}"),
                ("DELETE", f"blobs/{sha(LAYER)}"),
                ("POST", "blobs/uploads/"),
                ("GET", f"blobs/uploads/{number}"),
                ("PATCH", f"blobs/uploads/{number}"),
                ("PUT", f"blobs/uploads/{number}?digest={sha(LAYER)}"),
                ("DELETE", f"blobs/uploads/{number}"),
                ("GET", f"referrers/{digest}"),
            ):
                answer = await client.ask(method, f"/v2/theirs/{path}", headers=mine)
                assert answer.status == 401, (method, path)
                assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
            assert (await client.ask("GET", "/v2/_catalog", headers=mine)).status == 401
            # what is mine leads to nothing of theirs
            assert (await client.ask("GET", f"/v2/mine/blobs/{sha(LAYER)}", headers=mine)).status == 404
            assert (
                await client.ask("PATCH", f"/v2/mine/blobs/uploads/{number}", data=b"x", headers=mine)
            ).status == 404
            mount = f"/v2/mine/blobs/uploads/?mount={sha(LAYER)}&from="
            absent = f"/v2/mine/blobs/uploads/?mount={sha(b'absent')}&from=theirs"
            for path in (mount + "theirs", mount, absent):  # not even whether it is there
                assert (await client.ask("POST", path, headers=mine)).status == 202
            refused = await client.ask("PUT", "/v2/mine/manifests/t", data=body, headers=mine | kind)
            assert (refused.status, refused.code) == (400, "MANIFEST_BLOB_UNKNOWN")
            shown = mine["Authorization"].encode()
            for line in (
                b"GET /v2/mine/../theirs/tags/list",
                b"GET /v2/mine%2f..%2ftheirs/tags/list",
                b"GET /v2/%74heirs/tags/list",
                b"GET /v2/theirs/tags/list?name=mine",
                b"GET /v2//theirs/tags/list",
                b"GET /v2/mine/manifests/../../theirs/tags/list",
            ):
                status, answer = await said(client, request(line, b"Authorization: " + shown + b"\r\n"))
                assert status in (400, 401, 404) and b'"t"' not in answer, line

    run(test)


def test_thousands_of_tags_in_pages_while_they_change(tmp_path: Path) -> None:
    """Each that stays is seen once, in order, whatever comes and goes meanwhile."""
    stay = [f"v{number:05}" for number in range(3000)]

    async def test() -> None:
        async with registry(tmp_path / "r") as client:
            digest = await client.push_image("a", "v00000", LAYER)
            body = json.dumps(image(LAYER)).encode()
            for start in range(0, len(stay), 50):
                query = "&".join(f"tag={name}" for name in stay[start : start + 50])
                path = f"/v2/a/manifests/{digest}?{query}"
                assert (await client.ask("PUT", path, data=body, headers={"Content-Type": OCI_MANIFEST})).status == 201
            seen: list[str] = []
            path = "/v2/a/tags/list?n=700"
            while path:
                page = await client.ask("GET", path)
                seen += page.json["tags"]
                path = page.headers.get("Link", "").partition(">")[0].removeprefix("<")
                await client.push_manifest("a", f"{seen[-1]}-new", image(LAYER))
                await client.ask("DELETE", f"/v2/a/manifests/{seen[-1]}-new")
                await client.push_manifest("a", "a-first", image(LAYER))
            assert [name for name in seen if name in set(stay)] == stay
            assert len((await client.ask("GET", "/v2/a/tags/list")).json["tags"]) == len(stay) + 1

    run(test)
