"""The two engines under measurement, each on its own roots and socket, and what dockerd changes of the machine put back afterwards.

dockerd runs as its users run it, with its packet filter; so its bridge benchmark is fair. The rules and the bridge that it makes are removed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READY_SECONDS = 60.0
PEER_BRIDGE = "whbench0"
PEER_ADDRESS = "10.213.77.1/24"
IMAGE = "busybox:latest"


class Connection(http.client.HTTPConnection):
    """A keep-alive HTTP connection over a unix socket; the same client for both engines."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One request; → the decoded answer (None when empty). RuntimeError for a status of 400 or more."""
        data = None if body is None else json.dumps(body)
        self.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = self.getresponse()
        text = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None


class Engine:
    """One engine's process; `environment` makes the docker CLI talk to it."""

    def __init__(self, name: str, root: Path, command: list[str], data: Path | None = None) -> None:
        self.name = name
        self.root = root
        self.socket = str(root / "engine.sock")
        self.pid = 0
        self._command = [
            *command,
            f"--data-root={data or root / 'data'}",
            f"--exec-root={root / 'exec'}",
            f"--host=unix://{self.socket}",
            f"--pidfile={root / 'pid'}",
        ]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(root / "client"),
        }

    @contextlib.contextmanager
    def running(self, archive: str | None) -> Iterator[Engine]:
        """`archive`: images to load first."""
        self.root.mkdir(parents=True)
        with open(self.root / "log", "wb") as log:
            process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        self.pid = process.pid
        try:
            self._wait_until_it_answers(process)
            if archive is not None:
                self.docker("load", "-q", "-i", archive)
            yield self
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                connection = self.connection()
                for item in connection.call("GET", "/containers/json?all=1"):
                    connection.call("DELETE", f"/containers/{item['Id']}?force=1")
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                self.connection().call("GET", "/version")
                return
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.name} did not come up:\n{(self.root / 'log').read_text()[-2000:]}"
                    ) from error
            time.sleep(0.05)

    def connection(self) -> Connection:
        return Connection(self.socket)

    def docker(self, *words: str) -> str:
        """The docker CLI's output; its errors as RuntimeError."""
        done = subprocess.run(["docker", *words], env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: docker {' '.join(words)}: {done.stderr}")
        return done.stdout


def program(name: str) -> str:
    """A program of wherry's, as installed beside this interpreter."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise SystemExit(f"bench: {path} is missing: measure an installed wherry (make bench)")
    return str(path)


def wherryd(root: Path, data: Path | None = None) -> Engine:
    return Engine("wherryd", root / "wherryd", [program("wherryd")], data)


def dockerd(root: Path, data: Path | None = None) -> Engine:
    command = ["dockerd", f"--bridge={PEER_BRIDGE}", "--storage-driver=overlay2"]
    return Engine("dockerd", root / "dockerd", command, data)


@contextlib.contextmanager
def peer_network() -> Iterator[None]:
    """A bridge for dockerd, and the machine's packet filter as it was, afterwards."""
    before = {table: _save(table) for table in ("filter", "nat")}
    for words in (
        ["ip", "link", "add", PEER_BRIDGE, "type", "bridge"],
        ["ip", "addr", "add", PEER_ADDRESS, "dev", PEER_BRIDGE],
        ["ip", "link", "set", PEER_BRIDGE, "up"],
    ):
        subprocess.run(words, check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", PEER_BRIDGE], check=False)
        for table, rules in before.items():
            if rules:
                subprocess.run(["iptables-restore", "-T", table], input=rules, text=True, check=True)
            else:
                subprocess.run(["nft", "delete", "table", "ip", table], check=False)


def _save(table: str) -> str:
    """The table's rules for iptables-restore; nothing when there is no such table."""
    if shutil.which("iptables-save") is None:
        raise SystemExit("bench: iptables is missing (make packages)")
    if subprocess.run(["nft", "list", "table", "ip", table], capture_output=True, check=False).returncode:
        return ""
    return subprocess.run(["iptables-save", "-t", table], capture_output=True, text=True, check=True).stdout
