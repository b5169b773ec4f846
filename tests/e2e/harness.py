"""An engine under test, and the real docker CLI as its client.

`Engine` is one engine process on its own roots, socket and bridge: wherryd, or (WHERRY_E2E_PEER=dockerd) Debian's dockerd, on which every test
is proven first. What a test knows of the engine it knows through the CLI or the HTTP API; only the scenarios that kill processes look behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests import leaks
from wherry.shim import launch

PEER = os.environ.get("WHERRY_E2E_PEER", "wherryd")
READY_SECONDS = 300.0
BUSYBOX = "busybox:latest"
POOL = 4
"""Network namespaces that wherryd keeps ready, of each kind: attached to its bridge, and with loopback alone."""
AHEAD = 4
"""The zygote, and what it has forked ahead: a shim, its worker, its standby."""
REPOSITORY = Path(__file__).parent.parent.parent

Done = subprocess.CompletedProcess[str]


def differs_on_dockerd(reason: str) -> pytest.MarkDecorator:
    """The stated reason why a test does not hold on dockerd 20.10; it is skipped there and runs on wherryd."""
    return pytest.mark.skipif(PEER == "dockerd", reason=f"peer: dockerd 20.10: {reason}")


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Ask until it holds; fail the test with `what` otherwise. For states of the machine that announce themselves in no other way."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def _quiet_ports() -> Iterator[int]:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as given_to_anybody:
        low, high = (int(word) for word in given_to_anybody.read().split())
    ports = range(5000, 65536)
    quiet = [port for port in ports if not low <= port <= high] or list(ports)
    yield from random.sample(quiet, len(quiet))


_untried = _quiet_ports()


def free_port() -> int:
    """A TCP port on which nobody listens, and that the kernel gives to nobody who does not ask for it: so it is still free when it is used. Another
    one each time."""
    for port in _untried:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    raise AssertionError("every port is taken")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float = 300.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client(subprocess.Popen[str]):
    """A running CLI; a test that fails within its `with` block ends it rather than waiting for its end."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, trace)


@dataclass
class Engine:
    """One engine on its own roots. `start` returns when it answers; `kill9` is the crash; `stop` the orderly end."""

    root: Path
    kind: str = PEER
    extra_arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _pools_allowed: bool = field(default=False, repr=False)

    @property
    def socket_path(self) -> str:
        return str(self.root / "engine.sock")

    @property
    def data_root(self) -> Path:
        return self.root / "data"

    @property
    def exec_root(self) -> Path:
        return self.root / "exec"

    @property
    def instance(self) -> str:
        """The tag in the names of wherryd's bridge, nftables table and cgroups: it follows from the data root."""
        return hashlib.sha256(str(self.data_root).encode()).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        return f"wh{self.instance}" if self.kind == "wherryd" else f"peer{self.instance}"

    def _launch(self, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command(), **options)

    def _command(self) -> list[str]:
        common = [
            f"--data-root={self.data_root}",
            f"--exec-root={self.exec_root}",
            f"--host=unix://{self.socket_path}",
            f"--pidfile={self.root / 'engine.pid'}",
            *self.extra_arguments,
        ]
        if self.kind == "dockerd":
            peer_only = [f"--bridge={self.bridge}", "--iptables=false", "--ip-masq=false"]
            if "--live-restore" not in self.extra_arguments:
                peer_only.append("--live-restore")
            return ["dockerd", *peer_only, *common]
        installed = Path(sys.executable).parent / "wherryd"
        if installed.exists():
            return [str(installed), *common]
        return [sys.executable, "-c", "from wherry.daemon.main import main; raise SystemExit(main())", *common]

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, "PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(self.root)}

    def start(self) -> None:
        """Start the process; returns once it answers a ping."""
        self.root.mkdir(parents=True, exist_ok=True)
        leaks.watch_instance(self.instance)
        if self.kind == "dockerd":
            self._make_peer_bridge()
        else:
            self._allow_pools()
        with open(self.root / "engine.log", "ab") as log:
            self.process = self._launch(
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(), cwd="/"
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers():
            leaks.reap_orphans(of_other_sessions=True)
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the engine did not come up:\n{self.log()[-4000:]}", pytrace=False)
            time.sleep(0.02)

    def warm_up(self) -> None:
        """Bring into being what an engine makes once and keeps (pools, parent cgroups), so that no test is held to account for it."""
        for network in ("none", "bridge"):
            self.docker("run", "--rm", f"--network={network}", BUSYBOX, "true")
        assert self.process is not None
        seen: list[int] = []
        while len(seen) < 10 or len(set(seen[-10:])) > 1:
            seen.append(len(os.listdir(f"/proc/{self.process.pid}/fd")))
            time.sleep(0.05)

    def answers(self) -> bool:
        try:
            return self.api("GET", "/_ping")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def log(self) -> str:
        return (self.root / "engine.log").read_text(errors="replace")

    def kill9(self) -> None:
        """End the engine's process as a crash does. (dockerd's containerd stays, as wherry's shims do.)"""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the engine in the orderly way; its containers are expected to be gone already."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=300)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail("the engine did not end within 300 s of SIGTERM", pytrace=False)
        finally:
            self.process = None
            self._remove_leftovers()

    def _allow_pools(self) -> None:
        if not self._pools_allowed:
            self._count_pools(1)
            self._pools_allowed = True

    def _count_pools(self, engines: int) -> None:
        leaks.allow_pool(f"link: veth on {self.bridge}", engines * POOL)
        zygote = " ".join([os.path.realpath(sys.executable), "-I", "-S", "-c", launch._SOURCE])[:120]
        leaks.allow_pool(f"process: {zygote}", engines * AHEAD)
        for name in ("python", "wherryd"):  # as run from the source, and as installed
            leaks.allow_pool(f"network namespace held by {name}", engines * 2 * POOL)

    def _make_peer_bridge(self) -> None:
        if os.path.exists(f"/sys/class/net/{self.bridge}"):
            return
        address = f"10.{200 + int(self.instance[:2], 16) % 50}.{int(self.instance[2:4], 16)}.1/24"
        for words in (
            ["ip", "link", "add", self.bridge, "type", "bridge"],
            ["ip", "addr", "add", address, "dev", self.bridge],
            ["ip", "link", "set", self.bridge, "up"],
        ):
            subprocess.run(words, check=True)

    def _remove_leftovers(self) -> None:
        """The peer's bridge was made here; wherryd removes its own."""
        if self.kind == "dockerd":
            subprocess.run(["ip", "link", "del", self.bridge], check=True)
            subprocess.run(["umount", self.exec_root / "netns" / "default"], check=False, capture_output=True)
        if self._pools_allowed:
            self._count_pools(-1)
            self._pools_allowed = False
        leaks.reap_orphans()

    # -- the clients ------------------------------------------------------------------------------------------------------------

    @property
    def client_environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "DOCKER_HOST": f"unix://{self.socket_path}",
            "DOCKER_CONFIG": str(self.root / "client"),
        }

    def run_client(
        self,
        cli: str,
        *words: str,
        stdin: str | None = None,
        timeout: float = 300.0,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run a client (docker, wherry) at this engine, however it ends."""
        return subprocess.run(
            [cli, *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.client_environment, **(env or {})},
            check=False,
        )

    def docker(
        self,
        *words: str,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = 300.0,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run the docker CLI; with `check` a non-zero exit fails the test with what it said."""
        done = self.run_client("docker", *words, stdin=stdin, timeout=timeout, env=env)
        if check and done.returncode:
            pytest.fail(f"docker {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(self, *words: str, **options: Any) -> Client:
        """Start the docker CLI; its stdout and stderr are pipes unless said otherwise."""
        settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return Client(["docker", *words], env=self.client_environment, **settings)

    def output(self, *words: str, stdin: str | None = None) -> str:
        """The CLI's stdout without the last line's end."""
        return self.docker(*words, stdin=stdin).stdout.rstrip("\n")

    def shell(self, script: str, *flags: str, image: str = BUSYBOX) -> str:
        """What a shell script prints in a fresh container run with `flags`."""
        return self.output("run", "--rm", "--network=none", *flags, image, "sh", "-c", script)

    def inspect(self, ref: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output("inspect", ref))[0]
        return found

    def until_said(self, ref: str, word: str = "ready") -> None:
        """Returns when a container has written a line that says only `word`."""
        with self.popen("logs", "-f", ref) as client:
            assert client.stdout is not None
            assert f"{word}\n" in iter(client.stdout.readline, ""), f"{ref} has ended and never said {word}"
            client.kill()

    def state(self, ref: str) -> dict[str, Any]:
        """State of a container, by the API (cheaper than a CLI process)."""
        status, body = self.api("GET", f"/containers/{ref}/json")
        assert status == 200, body
        state: dict[str, Any] = body["State"]
        return state

    def api(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request; → status and decoded JSON (text when it is none)."""
        connection = UnixConnection(self.socket_path)
        try:
            data = None if body is None else json.dumps(body)
            own = {"Content-Type": "application/json"} if data else {}
            connection.request(method, path, data, {**own, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    # -- what a test leaves ---------------------------------------------------------------------------------------------------------

    def remove_everything_new(self, before: Mapping[str, frozenset[str]]) -> None:
        """Remove containers, volumes and images that were not there `before` (see `objects`)."""
        for ref in self.objects()["containers"] - before["containers"]:
            status, body = self.api("DELETE", f"/containers/{ref}?force=1&v=1")
            assert status in (204, 404, 409), body
        # 409: it is being removed already
        wait_until("what is new is removed", lambda: self.objects()["containers"] <= before["containers"])
        now = self.objects()
        for name in now["volumes"] - before["volumes"]:
            self.api("DELETE", f"/volumes/{name}?force=1")
        for ref in now["images"] - before["images"]:
            self.api("DELETE", f"/images/{ref}?force=1")

    def objects(self) -> dict[str, frozenset[str]]:
        """Ids of containers and images, names of volumes."""
        containers = self.api("GET", "/containers/json?all=1")[1]
        volumes = self.api("GET", "/volumes")[1].get("Volumes") or []
        images = self.api("GET", "/images/json")[1]
        return {
            "containers": frozenset(item["Id"] for item in containers),
            "volumes": frozenset(item["Name"] for item in volumes),
            "images": frozenset(tag for item in images for tag in item.get("RepoTags") or [item["Id"]]),
        }


@contextlib.contextmanager
def running(engine: Engine, archive: str) -> Iterator[Engine]:
    """The engine started, with the busybox image loaded; its containers removed and itself stopped at the end."""
    engine.start()
    try:
        engine.docker("load", "-i", archive)
        engine.warm_up()
        yield engine
    finally:
        if engine.process is not None and engine.process.poll() is None:
            for item in engine.api("GET", "/containers/json?all=1")[1]:
                engine.api("DELETE", f"/containers/{item['Id']}?force=1&v=1")
        engine.stop()


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Around engines: after their end nothing of them is on the machine, their bridges and parent groups neither."""
    watch = leaks.Watch(roots=(leaks.engine_roots(),))
    yield
    left = (
        watch.what_is_left(but_engines=False) if PEER == "wherryd" else []
    )  # what the peer leaves is not ours to judge
    assert not left, "left behind by the engine:\n" + "\n".join(left)
