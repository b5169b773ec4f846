"""docker-py, the Python SDK, unchanged: runs, execs, streams logs and events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import BUSYBOX, Engine

docker = pytest.importorskip("docker", reason="needs docker-py")


@pytest.fixture
def client(engine: Engine) -> Iterator[Any]:
    connected = docker.DockerClient(base_url=f"unix://{engine.socket_path}", version="auto", timeout=60)
    yield connected
    connected.close()


def test_run_returns_the_output(client: Any) -> None:
    assert client.containers.run(BUSYBOX, ["echo", "hello"], network_mode="none", remove=True) == b"hello\n"


def test_a_failing_run_raises_with_its_exit_code(client: Any) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run(BUSYBOX, ["sh", "-c", "echo bad >&2; exit 3"], network_mode="none", remove=True)
    assert caught.value.exit_status == 3
    assert caught.value.stderr == b"bad\n"


def test_an_unknown_image_and_container_raise_not_found(client: Any) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("no-such-image")
    with pytest.raises(docker.errors.NotFound):
        client.containers.get("nobody")


def test_exec_streams_apart_and_exit_code(client: Any) -> None:
    box = client.containers.run(BUSYBOX, ["sleep", "1000"], network_mode="none", detach=True)
    code, (out, err) = box.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
    assert (code, out, err) == (4, b"out\n", b"err\n")
    _, stream = box.exec_run(["sh", "-c", "echo one; echo two"], stream=True)
    assert b"".join(stream) == b"one\ntwo\n"


def test_logs_stream_until_the_end(client: Any) -> None:
    box = client.containers.run(
        BUSYBOX, ["sh", "-c", "for n in 1 2 3; do echo $n; sleep 0.1; done"], network_mode="none", detach=True
    )
    assert b"".join(box.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert box.wait()["StatusCode"] == 0
    assert box.logs(tail=1) == b"3\n"


def test_events_stream(client: Any) -> None:
    seen: list[str] = []
    since = int(time.time())

    def listen() -> None:
        for event in client.events(decode=True, since=since, filters={"container": "told"}):
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    client.containers.run(BUSYBOX, ["true"], name="told", network_mode="none", remove=True)
    listener.join(timeout=20)
    assert not listener.is_alive()
    assert [action for action in seen if action in ("create", "start", "die", "destroy")] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


def test_life_cycle_and_stats(client: Any) -> None:
    box = client.containers.create(
        BUSYBOX, ["sleep", "1000"], name="sdk", network_mode="none", labels={"a": "b"}, mem_limit="64m"
    )
    assert box.status == "created"
    box.start()
    box.reload()
    assert box.status == "running"
    assert box.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
    assert any("sleep" in " ".join(row) for row in box.top()["Processes"])
    box.pause()
    box.unpause()
    box.kill()
    assert box.wait()["StatusCode"] == 137
    assert [found.name for found in client.containers.list(all=True, filters={"label": "a=b"})] == ["sdk"]
    box.remove()


def test_attach_socket_talks_both_ways(client: Any) -> None:
    box = client.containers.create(BUSYBOX, ["cat"], stdin_open=True, network_mode="none", tty=True)
    stream = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    stream._sock.sendall(b"hello\n")
    received = b""
    while b"hello\r\nhello\r\n" not in received:
        received += stream._sock.recv(1000)
    stream.close()


def test_images_volumes_and_networks_are_listed(client: Any) -> None:
    assert any(BUSYBOX in image.tags for image in client.images.list())
    volume = client.volumes.create("sdk-volume")
    assert volume in client.volumes.list()
    volume.remove()
    assert {"bridge", "host", "none"} <= {network.name for network in client.networks.list()}
    assert client.ping()
    assert client.info()["OSType"] == "linux"
    assert client.version()["ApiVersion"]
