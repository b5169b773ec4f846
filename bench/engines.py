"""The engines that are compared: Debian's dockerd and wherryd, each on its own socket and roots, both gone without a trace afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

BUSYBOX = "/bin/busybox"
IMAGE = "bench-busybox"
APPLETS = ("sh", "true", "sleep", "cat", "echo", "ls")
_READY_SECONDS = 30


@dataclass(frozen=True)
class Engine:
    name: str
    socket: str

    def docker(self, *arguments: str) -> list[str]:
        """The command line of the one docker CLI that both get."""
        return ["docker", "-H", f"unix://{self.socket}", *arguments]

    def run(self, *arguments: str, stdin: bytes | None = None) -> str:
        done = subprocess.run(self.docker(*arguments), input=stdin, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: docker {' '.join(arguments)}: {done.stderr.decode()}")
        return done.stdout.decode().strip()


def busybox_tar() -> bytes:
    """A root file system with nothing but busybox."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for folder in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add(BUSYBOX, "bin/busybox")
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return output.getvalue()


@contextlib.contextmanager
def engines() -> Iterator[tuple[Engine, Engine]]:
    """(dockerd, wherryd), both ready and with the image."""
    folder = tempfile.mkdtemp(prefix="wherry-bench-", dir="/var/tmp")
    state = tempfile.mkdtemp(prefix="wherry-bench-", dir="/run")
    try:
        with (
            _dockerd(f"{folder}/dockerd", f"{state}/dockerd") as peer,
            _wherryd(f"{folder}/wherryd", f"{state}/wherryd") as ours,
        ):
            image = busybox_tar()
            for engine in (peer, ours):
                engine.run("import", "-", IMAGE, stdin=image)
            yield peer, ours
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)


@contextlib.contextmanager
def _dockerd(data: str, state: str) -> Iterator[Engine]:
    """With its default bridge and firewall, as users have it. What it makes in the host's network goes afterwards."""
    os.makedirs(data)
    os.makedirs(state)
    socket = f"{state}/docker.sock"
    roots = ["--data-root", f"{data}/data", "--exec-root", f"{state}/exec", "-p", f"{state}/pid"]
    tables, had_bridge = _nft_tables(), os.path.exists("/sys/class/net/docker0")
    try:
        with _process("dockerd", ["dockerd", *roots, "-H", f"unix://{socket}"], f"{data}/log", socket) as engine:
            yield engine
    finally:
        if not had_bridge:
            subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)
        for table in _nft_tables() - tables:
            subprocess.run(["nft", "delete", "table", *table.split()], capture_output=True, check=False)


@contextlib.contextmanager
def _wherryd(data: str, state: str) -> Iterator[Engine]:
    os.makedirs(data)
    os.makedirs(state)
    socket = f"{state}/wherry.sock"
    program = os.path.join(os.path.dirname(sys.executable), "wherryd")
    roots = ["--data-root", f"{data}/data", "--exec-root", f"{state}/exec", "--pidfile", f"{state}/pid"]
    with _process("wherryd", [program, *roots, "-H", f"unix://{socket}"], f"{data}/log", socket) as engine:
        yield engine


@contextlib.contextmanager
def _process(name: str, command: list[str], log: str, socket: str) -> Iterator[Engine]:
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    engine = Engine(name, socket)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while subprocess.run(engine.docker("version"), capture_output=True, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                with open(log, errors="replace") as text:
                    raise RuntimeError(f"{name} does not start:\n{text.read()[-2000:]}")
            time.sleep(0.1)
        yield engine
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _nft_tables() -> set[str]:
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return {line.removeprefix("table ").strip() for line in listed.splitlines()}
