"""Requests and answers, byte for byte, against a server that follows a script."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.client.playbook import answer, chunked, playing, session

from wherry import errors
from wherry.client.errors import ApiError, ConnectionFailed
from wherry.client.session import encode_query, segment, version_tuple
from wherry.errors import InvalidArgument


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def test_a_call_sends_json_and_decodes_the_answer(path: str) -> None:
    with playing(path, [answer(b'{"Id":"x"}')]) as played, session(path) as client:
        assert client.call("POST", "/containers/create", query={"name": "a b", "none": None}, json={"é": [1]}) == {
            "Id": "x"
        }
    head, _, body = played.requests[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /containers/create?name=a%20b HTTP/1.1"
    assert b"Content-Type: application/json" in head
    assert body == b'{"\\u00e9":[1]}'


def test_a_connection_serves_one_request_after_the_other(path: str) -> None:
    script = [answer(b"[]"), chunked(b"[", b"]"), answer(status="204 No Content", length=False), answer(b"[]")]
    with playing(path, script) as played, session(path) as client:
        for _ in range(2):
            assert client.call("GET", "/x") == []
        assert client.call("POST", "/x") is None
        assert client.call("GET", "/x") == []
    assert played.connections == 1


def test_an_idle_connection_that_the_engine_closed_is_replaced(path: str) -> None:
    with (
        playing(path, [answer(b"[]", headers="Connection: close\r\n"), answer(b"[]")]) as played,
        session(path) as client,
    ):
        client.call("GET", "/x")
        client.call("GET", "/x")
    assert played.connections == 2


def test_a_question_is_asked_again_when_a_used_connection_breaks(path: str) -> None:
    with playing(path, [answer(b"[]"), None, answer(b"[1]")]) as played, session(path) as client:
        client.call("GET", "/x")
        assert client.call("GET", "/x") == [1]
    assert played.connections == 2


def test_an_order_is_not_given_twice(path: str) -> None:
    with playing(path, [answer(b"[]"), None, answer(b"[1]")]) as played, session(path) as client:
        client.call("GET", "/x")
        with pytest.raises(ConnectionFailed):
            client.call("POST", "/x")
    assert len(played.requests) == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", errors.InvalidArgument),
        ("403 Forbidden", errors.PermissionDenied),
        ("404 Not Found", errors.NotFound),
        ("409 Conflict", errors.Conflict),
        ("500 Internal Server Error", errors.Internal),
        ("501 Not Implemented", errors.NotImplemented),
        ("503 Service Unavailable", errors.Unavailable),
        ("418 Teapot", ApiError),
    ],
)
def test_an_error_is_of_the_kind_of_its_status(status: str, kind: type[Exception], path: str) -> None:
    body = answer(b'{"message":"No such thing"}', status=status, headers="Content-Type: application/json\r\n")
    with playing(path, [body]), session(path) as client:
        with pytest.raises(kind) as caught:
            client.call("GET", "/x")
    assert isinstance(caught.value, ApiError)
    assert (caught.value.status, str(caught.value)) == (int(status[:3]), "No such thing")


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"plain words\n", "", "plain words"),
        (b"", "", "request returned HTTP status 500"),
        (b"{", "Content-Type: application/json\r\n", "{"),
        (b'{"message":5}', "Content-Type: application/json\r\n", '{"message":5}'),
    ],
)
def test_an_error_without_a_message_says_what_there_is(body: bytes, headers: str, message: str, path: str) -> None:
    with playing(path, [answer(body, status="500 X", headers=headers)]), session(path) as client:
        with pytest.raises(ApiError) as caught:
            client.call("GET", "/x")
    assert str(caught.value) == message


def test_a_stream_of_json_is_read_line_by_line_however_it_is_cut(path: str) -> None:
    with playing(path, [chunked(b'{"a"', b':1}\r\n\n{"b":2}\n{"c"', b":3}")]), session(path) as client:
        response = client.open("GET", "/events")
        assert list(client.stream(response)) == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_a_body_may_last_until_the_connection_ends(path: str) -> None:
    with playing(path, [answer(b"text", length=False, headers="Connection: close\r\n")]), session(path) as client:
        assert client.open("GET", "/x").read() == b"text"


@pytest.mark.parametrize(
    "damaged",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_an_answer_that_is_damaged_is_an_error_of_wherry(damaged: bytes, path: str) -> None:
    with playing(path, [damaged]), session(path) as client:
        with pytest.raises(errors.WherryError):
            client.call("GET", "/x")


def test_a_head_without_an_end_is_not_read_for_ever(path: str) -> None:
    with playing(path, [b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 19)]), session(path) as client:
        with pytest.raises(ConnectionFailed, match="no end of header"):
            client.call("GET", "/x")


def test_a_body_is_sent_in_chunks(path: str) -> None:
    with playing(path, [answer(b'{"stream":"ok"}')]) as played, session(path) as client:
        client.open("POST", "/images/load", body=iter([b"one", b"", b"two"])).read()
    assert played.requests[0].endswith(b"\r\n\r\nonetwo")


def test_an_engine_newer_than_this_client_is_asked_for_the_clients_version(path: str) -> None:
    newer = answer(b"[]", headers="Api-Version: 1.99\r\n")
    with playing(path, [newer, newer]) as played, session(path) as client:
        client.call("GET", "/x")
        client.call("GET", "/x")
    assert [request.split(b" ")[1] for request in played.requests] == [b"/x", b"/v1.56/x"]


def test_a_pinned_version_is_asked_for_from_the_start(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", "1.30")
    with playing(path, [answer(b"[]", headers="Api-Version: 1.99\r\n")]) as played, session(path) as client:
        client.call("GET", "/x")
        assert client.api_version == "1.30"
    assert played.requests[0].startswith(b"GET /v1.30/x ")


def test_an_upgraded_connection_begins_with_what_came_with_the_answer(path: str) -> None:
    hello = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst"
    with playing(path, [hello]), session(path) as client:
        stream = client.upgrade("POST", "/containers/x/attach", query={"stream": True})
        received = b""
        while len(received) < 5:
            received += stream.receive()
        assert received == b"first"
        assert stream.receive() == b""
        stream.close()


def test_no_engine_is_a_connection_that_failed(path: str) -> None:
    with session(path) as client, pytest.raises(ConnectionFailed, match="Is wherryd running") as caught:
        client.call("GET", "/x")
    assert caught.value.refused


def test_queries_are_encoded_for_docker() -> None:
    query = {"a": True, "b": False, "c": None, "d": ["x", "y z"], "e": {"k": {"v": True}}, "f": {}, "g": 5, "h": "é&=#"}
    assert encode_query(query) == "?a=1&b=0&d=x&d=y%20z&e=%7B%22k%22%3A%7B%22v%22%3Atrue%7D%7D&g=5&h=%C3%A9%26%3D%23"
    assert encode_query({"a": None}) == ""


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("web", "web"),
        ("a/b:c", "a/b%3Ac"),
        ("x?y#z", "x%3Fy%23z"),
        ("../info", "%2E%2E/info"),
        ("a/./b", "a/%2E/b"),
        ("é", "%C3%A9"),
    ],
)
def test_a_name_cannot_leave_its_place_in_the_path(name: str, quoted: str) -> None:
    assert segment(name) == quoted


def test_versions_are_compared_as_numbers() -> None:
    assert version_tuple("1.9") < version_tuple("1.41")
    assert version_tuple("x") == (0, 0)


def test_an_empty_name_is_refused_before_it_becomes_another_path() -> None:
    with pytest.raises(InvalidArgument, match="value is empty"):
        segment("")
