"""The Python client on a real engine: what a program that needs sandboxes does with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import BUSYBOX, Engine
from wherry.client import Client
from wherry.client.stdcopy import STDERR, STDOUT, demultiplex
from wherry.errors import Conflict, InvalidArgument, NotFound, WherryError


@pytest.fixture
def client(engine: Engine) -> Iterator[Client]:
    with Client(f"unix://{engine.socket_path}") as client:
        yield client


def test_a_container_is_run_to_its_end(client: Client) -> None:
    result = client.containers.run(BUSYBOX, ["sh", "-c", "echo out; echo err >&2; exit 3"], network="none")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert client.containers.list(all=True) == []


def test_stdin_environment_directory_and_volumes_are_given(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    script = "cat; echo $A; pwd; cat /v/file"
    result = client.containers.run(
        BUSYBOX,
        ["sh", "-c", script],
        stdin=b"in\n",
        environment={"A": "b c"},
        workdir="/tmp",
        volumes=[f"{tmp_path}:/v:ro"],
        network="none",
    )
    assert result.stdout == b"in\nb c\n/tmp\nfrom outside"


def test_much_input_and_output_pass_at_the_same_time(client: Client) -> None:
    data = bytes(range(256)) * (1 << 13)
    assert client.containers.run(BUSYBOX, ["cat"], stdin=data, network="none").stdout == data


def test_a_container_that_stays_is_worked_in(client: Client) -> None:
    ref = client.containers.create({"Image": BUSYBOX, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}})[
        "Id"
    ]
    client.containers.start(ref)
    client.containers.start(ref)  # it runs already: nothing happens
    result = client.containers.exec(ref, ["sh", "-c", "cat > /file; wc -c < /file; exit 4"], stdin=b"12345")
    assert (result.exit_code, result.stdout) == (4, b"5\n")
    assert client.containers.exec(ref, ["cat", "/file"], user="1000").stdout == b"12345"
    waiter = client.containers.wait(ref)
    client.containers.kill(ref)
    assert waiter.result() == (137, None)
    assert client.containers.inspect(ref)["State"]["Status"] == "exited"
    client.containers.remove(ref)
    with pytest.raises(NotFound, match="No such container"):
        client.containers.inspect(ref)


def test_logs_are_read_by_stream(client: Client) -> None:
    config = {"Image": BUSYBOX, "Cmd": ["sh", "-c", "echo out; echo err >&2"], "HostConfig": {"NetworkMode": "none"}}
    ref = client.containers.create(config, name="talks")["Id"]
    client.containers.start(ref)
    client.containers.wait(ref).result()
    found: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
    for number, payload in demultiplex(client.containers.logs("talks")):
        found[number] += payload
    assert found == {STDOUT: b"out\n", STDERR: b"err\n"}


def test_errors_are_of_the_kinds_of_wherry(client: Client) -> None:
    body = {"Image": BUSYBOX, "HostConfig": {"NetworkMode": "none"}}
    client.containers.create(body, name="taken")
    with pytest.raises(Conflict, match="already in use"):
        client.containers.create(body, name="taken")
    with pytest.raises(NotFound, match="No such image"):
        client.containers.create({"Image": "no-such-image"})
    with pytest.raises(InvalidArgument):
        client.containers.create(body, name="@")
    with pytest.raises(WherryError, match="executable file not found"):
        client.containers.run(BUSYBOX, ["nonsense"], network="none")
    with pytest.raises(WherryError):
        client.containers.run("127.0.0.1:1/no-such-image", network="none")
    assert [item["Names"] for item in client.containers.list(all=True)] == [["/taken"]]


def test_images_volumes_and_the_engine_are_asked(client: Client) -> None:
    assert client.system.ping() == client.system.version()["ApiVersion"]
    assert client.system.info()["Images"] == len(client.images.list())
    client.images.tag(BUSYBOX, "copy", "1")
    assert "copy:1" in client.images.inspect("copy:1")["RepoTags"]
    assert client.images.remove("copy:1") == [{"Untagged": "copy:1"}]
    name = client.volumes.create(labels={"a": "b"})["Name"]
    assert [item["Name"] for item in client.volumes.list({"label": ["a=b"]})["Volumes"]] == [name]
    client.volumes.remove(name)
    assert {"none"} <= {item["Name"] for item in client.networks.list()}


def test_events_of_the_past_are_listed(client: Client) -> None:
    client.containers.run(BUSYBOX, ["true"], name="past", network="none")
    events = client.system.events(since="0", until="9999999999", filters={"container": ["past"]})
    actions = []
    for event in events:
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            break
    assert [action for action in actions if action in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


def test_an_archive_becomes_an_image(client: Client, tmp_path: Path) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/bin/busybox", "bin/sh")
    data = buffer.getvalue()
    for _ in client.images.import_(iter([data[:1000], data[1000:]]), repository="made:1", changes=['CMD ["/bin/sh"]']):
        pass
    assert client.containers.run("made:1", ["/bin/sh", "-c", "echo hello"], network="none").stdout == b"hello\n"
    assert client.containers.list(all=True) == []
