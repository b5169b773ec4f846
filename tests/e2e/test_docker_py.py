"""docker-py, the Python SDK, unchanged: runs, execs, streams logs and events."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.harness import BUSYBOX, Engine, wait_until

docker = pytest.importorskip("docker", reason="needs docker-py")


@pytest.fixture
def client(engine: Engine) -> Iterator[Any]:
    connected = docker.DockerClient(base_url=f"unix://{engine.socket_path}", version="auto", timeout=300)
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
        for event in client.events(decode=True, since=since, filters={"container": "sdk-told"}):
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    client.containers.run(BUSYBOX, ["true"], name="sdk-told", network_mode="none", remove=True)
    listener.join(timeout=300)
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


@pytest.fixture
def box(client: Any) -> Any:
    return client.containers.run(BUSYBOX, ["sleep", "1000"], network_mode="none", detach=True, init=False)


def test_exec_by_socket_talks_both_ways_in_frames(client: Any, box: Any) -> None:
    execution = client.api.exec_create(
        box.id, ["sh", "-c", "read line; echo got $line; echo bad >&2; exit 5"], stdin=True
    )
    stream = client.api.exec_start(execution["Id"], socket=True)
    stream._sock.sendall(b"word\n")
    frames = list(docker.utils.socket.frames_iter(stream, tty=False))
    stream.close()
    assert sorted(frames) == [(1, b"got word\n"), (2, b"bad\n")]
    assert client.api.exec_inspect(execution["Id"])["ExitCode"] == 5


def test_exec_on_a_terminal_has_a_size_and_one_stream(client: Any, box: Any) -> None:
    execution = client.api.exec_create(box.id, ["sh", "-c", "read go; stty size; echo err >&2"], stdin=True, tty=True)
    stream = client.api.exec_start(execution["Id"], tty=True, socket=True)
    client.api.exec_resize(execution["Id"], height=11, width=22)
    stream._sock.sendall(b"go\n")
    received = b"".join(data for _, data in docker.utils.socket.frames_iter(stream, tty=True))
    stream.close()
    assert received == b"go\r\n11 22\r\nerr\r\n"


def test_exec_streams_apart_as_it_goes(client: Any, box: Any) -> None:
    _, stream = box.exec_run(["sh", "-c", "echo out; sleep 0.1; echo err >&2"], stream=True, demux=True)
    assert list(stream) == [(b"out\n", None), (None, b"err\n")]
    code, output = box.exec_run("env", environment={"A": "b"}, user="app", workdir="/tmp")
    assert code == 0 and b"A=b\n" in output
    assert box.exec_run(["pwd"], workdir="/etc").output == b"/etc\n"
    assert box.exec_run(["id", "-u"], user="app").output == b"1000\n"
    code, output = box.exec_run(["nope"])
    assert code == 127 and b"executable file not found" in output


def test_attach_streams_from_the_first_byte(client: Any) -> None:
    box = client.containers.create(BUSYBOX, ["sh", "-c", "echo out; sleep 0.1; echo err >&2"], network_mode="none")
    stream = client.api.attach(box.id, stream=True, demux=True)
    box.start()
    assert list(stream) == [(b"out\n", None), (None, b"err\n")]


def test_attach_socket_of_pipes_ends_with_the_container(client: Any) -> None:
    box = client.containers.create(BUSYBOX, ["cat"], stdin_open=True, network_mode="none", detach=True)
    stream = box.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    box.start()
    stream._sock.sendall(b"hello\n")
    assert next(docker.utils.socket.frames_iter(stream, tty=False)) == (1, b"hello\n")
    box.kill()
    assert list(docker.utils.socket.frames_iter(stream, tty=False)) == []
    stream.close()


def test_logs_of_one_stream_with_times_and_between_times(client: Any) -> None:
    script = "echo one; echo bad >&2; until [ -e /go ]; do sleep 0.05; done; echo two"
    box = client.containers.run(BUSYBOX, ["sh", "-c", script], network_mode="none", detach=True)
    wait_until("the first two are logged", lambda: len(box.logs()) == len(b"one\nbad\n"))
    written = time.time()
    wait_until("a new second has begun", lambda: int(time.time()) > int(written))
    box.exec_run(["touch", "/go"])
    box.wait()
    assert box.logs() == b"one\nbad\ntwo\n"
    assert (box.logs(stderr=False), box.logs(stdout=False)) == (b"one\ntwo\n", b"bad\n")
    stamped = box.logs(timestamps=True, stderr=False).split()
    assert stamped[1::2] == [b"one", b"two"]
    second = datetime.datetime.fromisoformat(stamped[2].decode()[:19] + "+00:00")
    assert box.logs(since=second) == b"two\n"
    assert box.logs(until=second) == b"one\nbad\n"


def test_events_of_a_span_of_time_end(client: Any) -> None:
    since = datetime.datetime.fromtimestamp(int(time.time()))
    client.containers.create(BUSYBOX, ["true"], name="spanned", network_mode="none")
    until = datetime.datetime.fromtimestamp(int(time.time()) + 1)
    told = list(
        client.events(decode=True, since=since, until=until, filters={"event": ["create"], "container": "spanned"})
    )
    assert [event["Actor"]["Attributes"]["name"] for event in told] == ["spanned"]
    stream = client.events()
    stream.close()


def test_settings_arrive_in_the_container(client: Any) -> None:
    output = client.containers.run(
        BUSYBOX,
        ["sh", "-c", "hostname; pwd; id -u; ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; df /dev/shm; ls /t"],
        hostname="sdk", working_dir="/etc", user="app", ulimits=[docker.types.Ulimit(name="nofile", soft=99, hard=100)],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "7"}, shm_size="1m", tmpfs={"/t": "size=1m"}, network_mode="none",
        mounts=[docker.types.Mount("/t2", None, type="tmpfs", tmpfs_size=4096)], read_only=True, remove=True,
        mem_limit="64m", nano_cpus=500_000_000, pids_limit=50, cap_drop=["ALL"], security_opt=["no-new-privileges"],
    ).decode().splitlines()  # fmt: skip
    assert output[:5] == ["sdk", "/etc", "1000", "99", "7"]
    assert output[6].split()[1] == "1024"


def test_a_running_container_streams_its_output(client: Any) -> None:
    lines = client.containers.run(BUSYBOX, ["sh", "-c", "echo 1; echo 2"], network_mode="none", stream=True)
    assert b"".join(lines) == b"1\n2\n"


def test_wait_restart_rename_and_prune(client: Any, box: Any) -> None:
    box.rename("renamed")
    box.reload()
    assert box.name == "renamed"
    started = box.attrs["State"]["StartedAt"]
    box.restart(timeout=0)
    box.reload()
    assert box.attrs["State"]["StartedAt"] > started
    box.stop(timeout=0)
    assert box.wait(condition="not-running") == {"StatusCode": 137}
    assert box.id in client.containers.prune(filters={"label!": "kept"})["ContainersDeleted"]
    assert client.df()["Images"]


def test_published_ports_are_known(client: Any) -> None:
    box = client.containers.run(BUSYBOX, ["sleep", "1000"], ports={"80/tcp": ("127.0.0.1", None)}, detach=True)
    box.reload()
    [bound] = box.ports["80/tcp"]
    assert bound["HostIp"] == "127.0.0.1" and int(bound["HostPort"]) > 1024


def test_what_is_not_supported_is_refused_by_name(client: Any) -> None:
    for wish in ({"volumes_from": ["x"]}, {"links": {"a": "b"}}, {"storage_opt": {"size": "1g"}}):
        with pytest.raises(docker.errors.APIError) as caught:
            client.containers.create(BUSYBOX, ["true"], **wish)
        assert caught.value.status_code in (400, 501), wish


def test_images_volumes_and_networks_are_listed(client: Any) -> None:
    assert any(BUSYBOX in image.tags for image in client.images.list())
    volume = client.volumes.create("sdk-volume")
    assert volume in client.volumes.list()
    volume.remove()
    assert {"bridge", "host", "none"} <= {network.name for network in client.networks.list()}
    assert client.ping()
    assert client.info()["OSType"] == "linux"
    assert client.version()["ApiVersion"]
