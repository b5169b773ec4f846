"""What is measured: each function does one piece of work once and answers with its seconds (or bytes)."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench.engines import APPLETS, BUSYBOX, IMAGE, Engine

API = "/v1.41"
_REST_SECONDS = 3


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()}")
    return took


def run_isolated(engine: Engine) -> float:
    return timed(engine.docker("run", "--rm", "--network", "none", IMAGE, "true"))


def run_bridged(engine: Engine) -> float:
    return timed(engine.docker("run", "--rm", IMAGE, "true"))


class Exec:
    """`docker exec` in a container that is there already."""

    def __init__(self, *engines: Engine) -> None:
        self._engines = engines
        for engine in engines:
            engine.run("run", "-d", "--name", "bench-exec", "--network", "none", IMAGE, "sleep", "100000")

    def once(self, engine: Engine) -> float:
        return timed(engine.docker("exec", "bench-exec", "true"))

    def close(self) -> None:
        for engine in self._engines:
            engine.run("rm", "-f", "bench-exec")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Api:
    """create, start, wait, delete over one kept connection."""

    def __init__(self, network: str, *engines: Engine) -> None:
        self._network = network
        self._connections = {engine.name: _Connection(engine.socket) for engine in engines}

    def once(self, engine: Engine) -> float:
        body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"NetworkMode": self._network}}
        started = time.perf_counter()
        container = self._ask(engine, "POST", "/containers/create", body)["Id"]
        self._ask(engine, "POST", f"/containers/{container}/start")
        self._ask(engine, "POST", f"/containers/{container}/wait")
        self._ask(engine, "DELETE", f"/containers/{container}")
        return time.perf_counter() - started

    def _ask(self, engine: Engine, method: str, path: str, body: Any = None) -> Any:
        connection = self._connections[engine.name]
        text = json.dumps(body) if body is not None else None
        connection.request(method, API + path, body=text, headers={"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{engine.name}: {method} {path}: {answer.status} {data!r}")
        return json.loads(data) if data else None

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def idle_memory(engine: Engine, few: int = 10, more: int = 20) -> float:
    """Bytes that one more idle container costs: how much the proportional set size (PSS) of all the processes that keep containers (shims) grows
    between `few` and `few + more` of them, divided by `more`."""
    ids: list[str] = []
    try:
        sums = []
        for count in (few, more):
            ids += [engine.run("run", "-d", "--network", "none", IMAGE, "sleep", "100000") for _ in range(count)]
            time.sleep(_REST_SECONDS)
            sums.append(sum(_keeper_pss(engine, container) for container in ids))
        return (sums[1] - sums[0]) / more
    finally:
        engine.run("rm", "-f", *ids)


def _keeper_pss(engine: Engine, container: str) -> int:
    """PSS in bytes of the parent of the container's first process."""
    pid = engine.run("inspect", "-f", "{{.State.Pid}}", container)
    with open(f"/proc/{pid}/status") as status:
        parent = next(line.split()[1] for line in status if line.startswith("PPid:"))
    with open(f"/proc/{parent}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024


class Bundle:
    """`runc run` and `wherry-runc run` of one bundle."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
        self._state = tempfile.mkdtemp(prefix="wherry-bench-", dir="/run")
        self._programs = {
            "runc": shutil.which("runc") or "runc",
            "wherry-runc": os.path.join(os.path.dirname(sys.executable), "wherry-runc"),
        }
        binaries = f"{self._folder}/rootfs/bin"
        os.makedirs(binaries)
        for name in ("dev", "proc", "sys"):
            os.mkdir(f"{self._folder}/rootfs/{name}")
        shutil.copy2(BUSYBOX, f"{binaries}/busybox")
        for applet in APPLETS:
            os.symlink("busybox", f"{binaries}/{applet}")
        subprocess.run([self._programs["runc"], "spec", "--bundle", self._folder], check=True)
        with open(f"{self._folder}/config.json") as file:
            config = json.load(file)
        config["process"].update(terminal=False, args=["true"])
        config["process"].pop("rlimits", None)  # the hard limit may not be raised without CAP_SYS_RESOURCE
        with open(f"{self._folder}/config.json", "w") as file:
            json.dump(config, file)

    def once(self, name: str) -> float:
        program, root = self._programs[name], f"{self._state}/{name}"
        return timed([program, "--root", root, "run", "--bundle", self._folder, "wherry-bench"])

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._state, ignore_errors=True)
