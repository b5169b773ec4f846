"""What each route asks of its backend, and how it answers."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.api.fake_backends import CONTAINER, EXEC, Fakes
from tests.unit.api.harness import Served, run, settled

from wherry import errors
from wherry.api.auth import parse_auth
from wherry.errors import InvalidArgument
from wherry.spec.calls import LogOptions, RegistryAuth, WaitResult
from wherry.wire import stdcopy

TAG_DIGEST = "sha256:" + "d" * 64


# -- containers


def test_create_answers_the_id_and_hands_on_name_and_platform() -> None:
    async def scenario(served: Served) -> None:
        body = json.dumps({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"PidsLimit": -1}}).encode()
        answer = await served.request("POST", "/v1.50/containers/create?name=db&platform=linux%2Famd64", body)
        assert (answer.status, answer.json) == (201, {"Id": CONTAINER, "Warnings": []})
        _, (name, request, platform) = served.fakes.containers.calls[0]
        assert (name, request.image, platform) == ("db", "busybox", "linux/amd64")
        assert request.host_config.pids_limit is None

    run(scenario)


def test_create_refuses_what_it_cannot_do_by_name() -> None:
    async def scenario(served: Served) -> None:
        body = json.dumps(
            {
                "Image": "busybox",
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 9},
                "HostConfig": {"Links": ["a"]},
            }
        ).encode()
        answer = await served.request("POST", "/containers/create", body)
        assert answer.status == 501
        assert answer.message == "wherry does not support Healthcheck.Interval, HostConfig.Links yet"
        assert served.fakes.containers.calls == []

    run(scenario)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b'{"Image": ', "application/json", 400, "invalid JSON"),
        (b'{"Image": 5}', "application/json", 400, "invalid JSON"),
        (b'"text"', "application/json", 400, "invalid JSON"),
        (b"{} {}", "application/json", 400, "invalid JSON"),
        (b"\xff\xfe", "application/json", 400, "invalid JSON"),
        (b"[" * 100_000, "application/json", 400, "invalid JSON"),
        (b"{}", "text/plain", 400, "must be 'application/json'"),
        (b"{}", "", 400, "must be 'application/json'"),
        (b'{"Image": "nope"}', "application/json; charset=utf-8", 404, "No such image: nope:latest"),
        (b"", "", 400, "config cannot be empty"),
    ],
)
def test_a_bad_body_is_the_clients_mistake(body: bytes, content_type: str, status: int, words: str) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("POST", "/containers/create", body, Content_Type=content_type)
        assert answer.status == status
        assert words in answer.message

    run(scenario)


def test_a_body_beyond_its_bound_is_refused_unread() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        client.writer.write(
            b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
            b"Content-Length: 999999999\r\n\r\n"
        )
        assert (await client.answer()).status == 413
        client = await served.connect()
        client.writer.write(
            b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        for _ in range(17):
            client.writer.write(chunk)
        assert (await client.answer()).status == 413

    run(scenario)


def test_a_client_that_asks_before_sending_its_body_is_invited() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        client.writer.write(
            b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 19\r\n\r\n"
        )
        assert (await client.head())[0] == 100
        client.writer.write(b'{"Image":"busybox"}')
        assert (await client.answer()).status == 201

    run(scenario)


def test_life_cycle_routes_hand_on_their_parameters() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        calls = served.fakes.containers.calls
        for target, status, call in (
            ("POST /containers/web/stop?t=5&signal=SIGINT", 204, ("stop", (5, "SIGINT"))),
            ("POST /v1.41/containers/web/stop?t=-1&signal=SIGINT", 204, ("stop", (-1, None))),
            ("POST /containers/web/restart", 204, ("restart", (None, None))),
            ("POST /containers/web/kill?signal=9", 204, ("kill", "9")),
            ("POST /containers/web/rename?name=new", 204, ("rename", "new")),
            ("POST /containers/web/resize?h=24&w=80", 200, ("resize", (24, 80))),
            ("DELETE /containers/web?force=1&v=true", 204, ("remove", (True, True, False))),
        ):
            answer = await client.request(*target.split(" "))
            assert (answer.status, calls.pop()) == (status, call)
        for target in ("pause", "unpause", "start"):
            assert (await client.request("POST", f"/containers/web/{target}")).status == 204

    run(scenario)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("POST /containers/web/stop?t=x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("POST /containers/web/resize?h=x&w=1", 'invalid resize height "x"'),
        ("POST /containers/web/resize?h=1", 'invalid resize width ""'),
        ("GET /containers/json?limit=x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("GET /containers/json?filters={", "invalid filter"),
        ("GET /containers/web/logs", "you must choose at least one stream"),
        ("GET /containers/web/logs?stdout=1&since=x", "invalid timestamp"),
        ("POST /containers/web/wait?condition=x", 'invalid condition: "x"'),
        ("GET /events?since=2&until=1", "`since` time (2) cannot be after `until` time (1)"),
        ("GET /events?since=x", "invalid timestamp"),
        ("GET /system/df?type=x", "unknown object type: x"),
        ("POST /images/create", "one of fromImage and fromSrc must be given"),
        ("POST /images/a/tag", "repo must be given"),
    ],
)
def test_bad_parameters_are_named(target: str, words: str) -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request(*target.split(" "))
        assert answer.status == 400
        assert words in answer.message

    run(scenario)


def test_start_takes_no_host_configuration() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        assert (await client.request("POST", "/containers/web/start", b"null")).status == 204
        answer = await client.request("POST", "/containers/web/start", b'{"Binds": []}')
        assert answer.status == 400

    run(scenario)


def test_the_list_is_filtered_and_shaped_for_the_version() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        answer = await client.request("GET", '/v1.50/containers/json?all=1&limit=-1&filters={"name":["a"]}')
        assert served.fakes.containers.calls.pop() == ("list", (True, None, False, {"name": ["a"]}))
        assert "Annotations" in answer.json[0]["HostConfig"]
        answer = await client.request("GET", "/v1.45/containers/json")
        assert "Annotations" not in answer.json[0]["HostConfig"]

    run(scenario)


def test_wait_sends_its_headers_before_the_exit() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        await client.send("POST", "/v1.50/containers/web/wait?condition=removed")
        status, headers = await client.head()
        assert (status, headers["content-type"]) == (200, "application/json")
        served.fakes.containers.exit.set_result(WaitResult(137))
        assert json.loads(await client.chunk()) == {"StatusCode": 137}
        assert await client.chunk() == b""

    run(scenario)


def test_wait_reports_an_error_of_the_wait() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.exit.set_result(WaitResult(125, "driver failed"))
        answer = await served.request("POST", "/containers/web/wait")
        assert answer.json == {"StatusCode": 125, "Error": {"Message": "driver failed"}}

    run(scenario)


def test_waits_and_follows_end_with_their_client() -> None:
    async def scenario(served: Served) -> None:
        containers = served.fakes.containers
        waiting, following = await served.connect(), await served.connect()
        await waiting.send("POST", "/containers/web/wait")
        await following.send("GET", "/containers/web/logs?stdout=1&follow=1")
        await waiting.head()
        await following.head()
        await settled(lambda: containers.waiters == 1 and containers.followers == 1)
        waiting.close()
        following.close()
        await settled(lambda: containers.waiters == 0 and containers.followers == 0)

    run(scenario)


def test_logs_are_streamed_with_their_options() -> None:
    async def scenario(served: Served) -> None:
        target = "/v1.50/containers/web/logs?stdout=1&stderr=1&tail=10&timestamps=1&since=1.5&until=0"
        answer = await served.request("GET", target)
        assert answer.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        assert answer.body == stdcopy.frame(1, b"one\n") + stdcopy.frame(1, b"two\n")
        assert served.fakes.containers.calls.pop() == (
            "logs",
            LogOptions(stdout=True, stderr=True, timestamps=True, tail=10, since_ns=1_500_000_000),
        )

    run(scenario)


def test_one_shot_stats_are_one_sample_without_a_previous_one() -> None:
    async def scenario(served: Served) -> None:
        answer = await served.request("GET", "/containers/web/stats?stream=0&one-shot=1")
        assert answer.json["precpu_stats"] == {}
        assert answer.json["preread"] == "0001-01-01T00:00:00Z"

    run(scenario)


def test_an_answer_that_fails_midway_is_cut_off_not_completed() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.log_failure = errors.DataLoss("the log is damaged")
        client = await served.connect()
        await client.send("GET", "/containers/web/logs?stdout=1")
        assert (await client.head())[0] == 200
        rest = await client.reader.read()
        assert rest.endswith(b"two\n\r\n")  # no last chunk

    run(scenario)


def test_a_client_that_leaves_in_the_middle_of_an_answer_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(served: Served) -> None:
        served.fakes.containers.log_chunks = [b"x" * 65536] * 1000
        client = await served.connect()
        await client.send("GET", "/containers/web/logs?stdout=1")
        await client.head()
        client.writer.transport.abort()
        assert (await served.request("GET", "/containers/web/json")).status == 200

    with caplog.at_level("INFO", "wherry"):
        run(scenario)
    assert not caplog.records


# -- execs


def test_an_exec_needs_a_command() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        answer = await client.request("POST", "/containers/web/exec", b"{}")
        assert (answer.status, answer.message) == (400, "No exec command specified")
        answer = await client.request("POST", "/v1.41/containers/web/exec", b'{"Cmd": ["a"], "ConsoleSize": [1, 2]}')
        assert (answer.status, answer.json) == (201, {"Id": EXEC})
        assert served.fakes.execs.calls.pop()[1][1].console_size is None
        answer = await client.request("POST", f"/exec/{EXEC}/resize?h=1&w=2")
        assert (answer.status, served.fakes.execs.calls.pop()) == (200, ("resize", (1, 2)))

    run(scenario)


# -- images


def test_a_pull_streams_its_progress() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.images.reports = [{"status": "Pulling"}, {"status": "Done", "id": "x"}]
        auth = base64.urlsafe_b64encode(json.dumps({"username": "u", "password": "p"}).encode()).decode()
        answer = await served.request(
            "POST", "/images/create?fromImage=team%2Fapp&tag=1.0&platform=linux/arm64", None, X_Registry_Auth=auth
        )
        assert [json.loads(line) for line in answer.body.splitlines()] == served.fakes.images.reports
        assert served.fakes.images.calls.pop() == (
            "pull",
            ("team/app:1.0", "linux/arm64", RegistryAuth(username="u", password="p")),
        )

    run(scenario)


def test_a_tag_may_be_a_digest() -> None:
    async def scenario(served: Served) -> None:
        await served.request("POST", f"/images/create?fromImage=app&tag={TAG_DIGEST}")
        assert served.fakes.images.calls.pop()[1][0] == f"app@{TAG_DIGEST}"

    run(scenario)


def test_a_pull_that_fails_before_any_progress_has_a_status() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.images.failure = errors.NotFound("manifest unknown")
        answer = await served.request("POST", "/images/create?fromImage=app&tag=1")
        assert (answer.status, answer.message) == (404, "manifest unknown")

    run(scenario)


def test_a_pull_that_fails_later_says_so_in_the_stream() -> None:
    async def scenario(served: Served) -> None:
        images = served.fakes.images
        images.reports, images.failure = [{"status": "Pulling"}], errors.DataLoss("digest mismatch")
        hold = images.hold = __import__("asyncio").Event()
        client = await served.connect()
        await client.send("POST", "/images/create?fromImage=app&tag=1")
        assert (await client.head())[0] == 200
        assert json.loads(await client.chunk()) == {"status": "Pulling"}
        hold.set()
        assert json.loads(await client.chunk()) == {
            "errorDetail": {"message": "digest mismatch"},
            "error": "digest mismatch",
        }
        assert await client.chunk() == b""

    run(scenario)


def test_a_pull_ends_with_its_client() -> None:
    async def scenario(served: Served) -> None:
        images = served.fakes.images
        images.hold = __import__("asyncio").Event()
        client = await served.connect()
        await client.send("POST", "/images/create?fromImage=app&tag=1")
        await settled(lambda: images.pulling)
        client.close()
        await settled(lambda: not images.pulling)

    run(scenario)


def test_archives_are_streamed_in() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        archive = b"tar" * 500_000
        answer = await client.request("POST", "/images/load?quiet=1", archive, Content_Type="application/x-tar")
        assert answer.json == {"stream": "loaded 1500000\n"}
        served.fakes.images.received = b""
        answer = await client.request(
            "POST", "/images/create?fromSrc=-&repo=a&tag=b&changes=CMD+x&changes=USER+y", b"tar"
        )
        assert served.fakes.images.calls.pop() == ("import", ("a", "b", "Imported from -", ["CMD x", "USER y"]))
        assert served.fakes.images.received == b"tar"

    run(scenario)


def test_image_names_may_contain_slashes() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        answer = await client.request("GET", "/images/registry:5000/team/json/busybox/json")
        assert answer.json["Id"] == "registry:5000/team/json/busybox"
        answer = await client.request("DELETE", "/images/registry:5000/team/json?force=1&noprune=1")
        assert served.fakes.images.calls.pop() == ("remove", ("registry:5000/team/json", True, False))
        answer = await client.request("POST", "/images/a/b/tag?repo=c%2Fd&tag=e")
        assert (answer.status, served.fakes.images.calls.pop()) == (201, ("tag", ("a/b", "c/d", "e")))

    run(scenario)


def test_image_answers_are_shaped_for_the_version() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        newest = (await client.request("GET", "/images/json")).json[0]
        assert (newest["RepoTags"], newest["Containers"], "VirtualSize" in newest) == ([], 3, False)
        old = (await client.request("GET", "/v1.42/images/json")).json[0]
        assert (old["RepoTags"], old["Containers"], old["VirtualSize"]) == (["<none>:<none>"], -1, 7)
        inspected = (await client.request("GET", "/v1.50/images/busybox/json")).json
        assert inspected["DockerVersion"] == inspected["Parent"] == ""
        assert "DockerVersion" not in (await client.request("GET", "/images/busybox/json")).json

    run(scenario)


def test_credentials_are_read_strictly() -> None:
    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()

    assert parse_auth("") == parse_auth(encoded({})) == parse_auth(encoded(None)) == RegistryAuth()
    assert parse_auth("bnVsbA") == RegistryAuth()
    both = parse_auth(encoded({"auth": base64.b64encode(b"user:pass:word").decode(), "serveraddress": "r"}))
    assert both == RegistryAuth(username="user", password="pass:word", server_address="r")
    for text in ("*", "é", encoded([]), encoded({"username": 1}), "bnVsb", base64.b64encode(b"{").decode()):
        with pytest.raises(InvalidArgument, match="invalid X-Registry-Auth header"):
            parse_auth(text)


# -- volumes, system


def test_volume_routes() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        answer = await client.request("POST", "/volumes/create", b'{"Name": "v"}')
        assert (answer.status, answer.json) == (201, {"Name": "v"})
        assert (await client.request("DELETE", "/volumes/v?force=1")).status == 204
        assert served.fakes.volumes.calls.pop() == ("remove", ("v", True))
        await client.request("POST", "/v1.41/volumes/prune")
        assert served.fakes.volumes.calls.pop() == ("prune", {"all": ["true"]})
        await client.request("POST", '/volumes/prune?filters={"label":["a"]}')
        assert served.fakes.volumes.calls.pop() == ("prune", {"label": ["a"]})

    run(scenario)


def test_events_are_streamed_as_they_happen_until_the_client_leaves() -> None:
    async def scenario(served: Served) -> None:
        system = served.fakes.system
        client = await served.connect()
        await client.send("GET", '/v1.50/events?since=1&until=99999999999.5&filters={"type":["container"]}')
        assert (await client.head())[0] == 200
        assert system.asked == [(1_000_000_000, 99_999_999_999_500_000_000, {"type": ["container"]})]
        event = {"Type": "container", "Action": "start", "Actor": {"ID": "c", "Attributes": {"image": "b"}}}
        system.queue.put_nowait(event)
        assert json.loads(await client.chunk()) == {**event, "status": "start", "id": "c", "from": "b"}
        assert system.listeners == 1
        client.close()
        await settled(lambda: system.listeners == 0)

    run(scenario)


def test_events_have_the_newest_shape_for_the_newest_client() -> None:
    async def scenario(served: Served) -> None:
        served.fakes.system.queue.put_nowait({"Type": "container", "Action": "start", "Actor": {}})
        served.fakes.system.queue.put_nowait(None)
        answer = await served.request("GET", "/events")
        assert answer.headers["content-type"] == "application/jsonl"
        assert answer.json == {"Type": "container", "Action": "start", "Actor": {}}

    run(scenario)


def test_disk_usage_is_lists_for_the_old_and_sums_for_the_new() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        old = (await client.request("GET", "/v1.50/system/df")).json
        assert old["LayersSize"] == 10 and "ImagesReclaimable" not in old
        usage = (await client.request("GET", "/system/df?verbose=1")).json
        assert "LayersSize" not in usage
        images = usage["ImageUsage"]
        assert (images["ActiveCount"], images["TotalCount"], images["TotalSize"]) == (1, 2, 10)
        assert (images["Reclaimable"], len(images["Items"])) == (5, 2)
        assert usage["ContainerUsage"]["Reclaimable"] == 0

    run(scenario)


def test_info_of_old_versions_has_the_old_fields() -> None:
    async def scenario(served: Served) -> None:
        client = await served.connect()
        old = (await client.request("GET", "/v1.45/info")).json
        assert (old["RuncCommit"]["Expected"], "Containerd" in old) == ("abc", False)
        assert "Expected" not in (await client.request("GET", "/info")).json["RuncCommit"]

    run(scenario)


def test_there_are_no_plugins_and_asking_for_one_says_so() -> None:
    async def scenario(served: Served) -> None:
        assert (await served.request("GET", "/plugins")).json == []
        answer = await served.request("GET", "/plugins/vieux/sshfs/json")
        assert (answer.status, answer.message) == (404, 'plugin "vieux/sshfs" not found')

    run(scenario)


# -- hostile input

_SEGMENTS = st.sampled_from(
    ["containers", "images", "exec", "volumes", "networks", "web", "json", "create", "logs", "stats", "..", "", "v1.50"]
) | st.text(st.characters(codec="ascii", exclude_characters=" \r\n\t\x00\x0b\x0c"), max_size=8)
_BODY = (
    st.none()
    | st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["Image", "Cmd", "HostConfig", "Mounts", "Binds", "Tty", "x"]), inner, max_size=4
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
            st.lists(_SEGMENTS, max_size=5),
            st.text(st.characters(codec="ascii", exclude_characters=" \r\n\t\x00\x0b\x0c#"), max_size=30),
            _BODY,
        ),
        max_size=4,
    )
)
def test_nothing_a_client_sends_is_a_defect(
    requests: list[tuple[str, list[str], str, bytes | None]],
) -> None:
    async def scenario(served: Served) -> None:
        served.fakes = Fakes()
        for method, segments, query, body in requests:
            target = "/" + "/".join(segments) + "?" + query
            if any(stream in target for stream in ("events", "stats", "wait", "attach", "follow", "start")):
                continue
            answer = await served.request(method, target, body)
            assert answer.status != 500, (target, answer.body)

    run(scenario)
