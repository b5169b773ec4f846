"""Versions, dispatch and errors, over a real socket."""

from __future__ import annotations

import json
import os
import re

import pytest
from tests.unit.api.harness import Served, run

from wherry import errors


def test_ping_tells_the_version_and_the_engine() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("GET", "/_ping")
        assert (answer.status, answer.body) == (200, b"OK")
        assert answer.headers["api-version"] == "1.56"
        assert answer.headers["ostype"] == "linux"
        assert answer.headers["docker-experimental"] == "false"
        assert answer.headers["server"].startswith("wherry/")
        head = await served.request("HEAD", "/_ping")
        assert (head.status, head.headers["api-version"]) == (200, "1.56")

    run(scenario)


def test_versions_in_range_are_spoken_with_and_without_a_prefix() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        for prefix, spoken in (("", [1, 56]), ("/v1.24", [1, 24]), ("/v1.50", [1, 50]), ("/v1.56", [1, 56])):
            answer = await client.request("GET", f"{prefix}/containers/web/json")
            assert answer.json["Version"] == spoken

    run(scenario)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("/v1.99", "client version 1.99 is too new. Maximum supported API version is 1.56"),
        ("/v2.0", "client version 2.0 is too new. Maximum supported API version is 1.56"),
    ],
)
def test_too_new_a_client_is_told_in_dockers_words(prefix: str, message: str) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("GET", f"{prefix}/info")
        assert (answer.status, answer.message) == (400, message)
        assert answer.headers["api-version"] == "1.56"

    run(scenario)


def test_too_old_a_client_is_told_in_plain_text() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("GET", "/v1.12/info")
        assert answer.status == 400
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.body == (
            b"client version 1.12 is too old. Minimum supported API version is 1.24,"
            b" please upgrade your client to a newer version\n"
        )

    run(scenario)


def test_unknown_paths_are_not_found_and_wrong_methods_not_allowed() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        for path in ("/", "/nonesuch", "/v1.50", "/v1.50/", "/containers", "/containers//json", "/containers/a/b/c"):
            answer = await client.request("GET", path)
            assert (answer.status, answer.message) == (404, "page not found"), path
        answer = await client.request("PUT", "/v1.50/info")
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
        answer = await client.request("GET", "/containers/web/start")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")

    run(scenario)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (errors.NotFound("x"), 404),
        (errors.InvalidArgument("x"), 400),
        (errors.AlreadyExists("x"), 409),
        (errors.Conflict("x"), 409),
        (errors.FailedPrecondition("x"), 400),
        (errors.PermissionDenied("x"), 403),
        (errors.Unavailable("x"), 503),
        (errors.NotImplemented("x"), 501),
        (errors.DeadlineExceeded("x"), 500),
        (errors.DataLoss("x"), 500),
        (errors.StartError("exec", 'exec: "x": executable file not found in $PATH', 2), 400),
        (errors.StartError("exec", "exec: permission denied", 13), 400),
        (errors.StartError("mounts", "cannot mount: no space left on device", 28), 500),
    ],
)
def test_each_kind_of_error_has_its_status_and_its_words(failure: Exception, status: int) -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.failure = failure
        answer = await served.request("POST", "/containers/web/start")
        assert (answer.status, answer.message) == (status, str(failure))

    run(scenario)


def test_not_modified_has_no_body_and_keeps_the_connection() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.failure = errors.NotModified("running")
        client = await served.connect()
        assert (await client.request("POST", "/containers/web/start")).status == 304
        served.fakes.containers.failure = None
        assert (await client.request("POST", "/containers/web/start")).status == 204

    run(scenario)


def test_a_defect_is_a_500_with_a_message_and_not_a_traceback() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.failure = ZeroDivisionError("oops")
        answer = await served.request("GET", "/containers/web/json")
        assert (answer.status, answer.message) == (500, "internal error: ZeroDivisionError: oops")

    run(scenario)


def test_what_is_not_http_is_refused_with_a_message() -> None:
    async def scenario(served: Served) -> None:
        for raw in (b"\x16\x03\x01\x02\x00\x01\n\r\n\r\n", b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n"):
            client = await served.connect()
            client.writer.write(raw)
            answer = await client.answer()
            assert answer.status == 400
            assert answer.message

    run(scenario)


def test_a_header_without_end_is_cut_off() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        client.writer.write(b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000)
        assert (await client.answer()).status == 400

    run(scenario)


def test_requests_in_the_absolute_form_are_understood() -> None:
    async def scenario(served: Served) -> None:
        assert (await served.request("GET", "http://docker/v1.50/_ping")).body == b"OK"

    run(scenario)


def test_every_path_of_the_description_is_routed() -> None:
    """Implemented or refused by name: nothing that the Engine API describes is "page not found"."""

    async def scenario(served: Served) -> None:
        with open(os.path.join(os.path.dirname(__file__), "engine_api_paths.txt")) as described:
            operations = [line.split() for line in described if line.strip()]
        assert len(operations) > 100
        client = await served.connect()
        for method, template in operations:
            path = re.sub(r"\{[a-z]+\}", "nonesuch", template)
            if path in ("/events", "/exec/nonesuch/start") or path.endswith(("/attach", "/wait")):
                continue  # streams, each tested by itself
            answer = await client.request(method, path, b"{}" if method in ("POST", "PUT") else None)
            if method == "HEAD":
                assert answer.status in (200, 501)
                continue
            if answer.status == 501:
                assert template in answer.message or "does not support" in answer.message
            else:
                assert answer.status != 405, (method, template)
                assert b"page not found" not in answer.body, (method, template)
            if answer.headers.get("connection") == "close":
                client = await served.connect()

    run(scenario)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        for name in ("web", "none", "web"):
            await client.send("GET", f"/containers/{name}/json")
        assert [(await client.answer()).status for _ in range(3)] == [200, 404, 200]

    run(scenario)


def test_names_are_decoded_after_the_path_is_split() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        answer = await client.request("GET", "/containers/we%62/json")
        assert answer.status == 200
        answer = await client.request("GET", "/containers/a%2Fjson%2Fb/json")
        assert answer.message == "No such container: a/json/b"
        answer = await client.request("GET", "/containers/%zz/json")
        assert (answer.status, answer.message) == (400, 'invalid URL escape "%zz"')
        answer = await client.request("GET", "/containers/%ff/json")
        assert answer.status == 400

    run(scenario)


def test_text_that_is_not_unicode_is_replaced_rather_than_failing() -> None:
    from wherry.api.call import encode

    assert json.loads(encode({"a\udcff": ["\udcfe", 1]})) == {"a?": ["?", 1]}
