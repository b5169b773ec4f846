"""Debian's engines, each with directories, a socket and a parent cgroup of its own, and a runtime that can be changed from
container to container.

    engine.run("--rm", "sh", "-c", "exit 3")     the container's program on `engine.runtime`; → CompletedProcess, as text
    engine("pause", "box")                       any command of the engine's client

**Invariant:** `close` leaves nothing: no process, mount, cgroup.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import leaks

IMAGE = "docker.io/library/box:latest"
PARENT = f"/wherry-conf-{os.getpid():x}"
TIMEOUT = 300
START = "import os, sys; from wherry.runtime.process import reset_signals; reset_signals(); os.execvp(sys.argv[1], sys.argv[1:])"
"""Becomes the engine. runc passes on to containers the signals that are ignored for it, and make's children ignore one."""

Done = subprocess.CompletedProcess[str]


def make_groups() -> None:
    """The parent group of all engines, and the one of podman's monitors: no engine removes them with its last container."""
    for point in leaks.cgroup_hierarchies():
        group = Path(f"{point}{PARENT}/conmon")
        group.mkdir(parents=True, exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):  # on v1 empty at first, and then no process may enter
            for directory in (group.parent, group):
                if (file := directory / name).exists():
                    file.write_text((directory.parent / name).read_text())


def remove_groups() -> None:
    """The parent group, and what an engine has left in it."""
    for point in leaks.cgroup_hierarchies():
        for directory, _, _ in os.walk(f"{point}{PARENT}", topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()


class Engine:
    """What the engines have in common. `client`: the words that every command of the client begins with."""

    def __init__(self, place: Path, programs: dict[str, str]) -> None:
        self.place = place
        self.programs = programs
        self.runtime = "runc"
        self.client: list[str] = []
        self.environment = dict(os.environ)
        place.mkdir()

    def __call__(self, *words: str, **options: Any) -> Done:
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [*self.client, *words],
            capture_output=True, text=True, check=False, timeout=TIMEOUT, env=self.environment, cwd=self.place, **options,
        )  # fmt: skip

    def must(self, *words: str, **options: Any) -> str:
        """The output of a command that has to succeed."""
        done = self(*words, **options)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_words(self, *words: str) -> list[str]:
        raise NotImplementedError

    def run(self, *words: str, **options: Any) -> Done:
        return self(*self.run_words(*words), **options)

    def in_terminal(self, words: Sequence[str], typed: bytes = b"") -> tuple[int, str]:
        """(exit status, output) of the client's command in a terminal of 33 rows and 77 columns, with `typed` typed in."""
        pid, master = pty.fork()
        if pid == 0:
            os.execvpe(
                "sh", ["sh", "-c", 'stty rows 33 cols 77; exec "$@"', "sh", *self.client, *words], self.environment
            )
        output = b""
        os.write(master, typed)
        while True:
            assert select.select([master], [], [], TIMEOUT)[0], output
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            output += part
            if not part:
                break
        os.close(master)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode()


class _Daemon(Engine):
    """An engine that is a process."""

    def start(self, words: Sequence[str], question: Sequence[str]) -> None:
        self.log = self.place / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        pidfd = os.pidfd_open(self.process.pid)
        while self(*question).returncode:
            assert not select.select([pidfd], [], [], 0.1)[0], self.log.read_text()[-2000:]
        os.close(pidfd)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT)
        for line in (
            Path("/proc/self/mountinfo").read_text().splitlines()
        ):  # dockerd's name for the host's network namespace
            if (point := line.split()[4]).startswith(f"{self.place}/"):
                subprocess.run(["umount", "-l", point], check=True)


class Dockerd(_Daemon):
    def __init__(self, place: Path, archive: str, programs: dict[str, str]) -> None:
        super().__init__(place, programs)
        host = f"unix://{place}/s"
        self.client = ["docker", "-H", host]
        words = [
            "dockerd", "-H", host, "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "-p", f"{place}/pid",
            "--iptables=false", "--bridge=none", "--storage-driver=vfs", "--cgroup-parent", PARENT,
            "--add-runtime", f"wherry-runc={programs['wherry-runc']}",
        ]  # fmt: skip
        self.start(words, ["version"])
        self.must("load", "-q", "-i", archive)

    def run_words(self, *words: str) -> list[str]:
        network = () if any("network" in word for word in words) else ("--network=none",)
        flags, program = split(words)
        return ["run", "--runtime", self.runtime, *network, *flags, IMAGE, *program]

    def remove_everything(self) -> None:
        if names := self.must("ps", "-aq").split():
            self("rm", "-f", "-v", *names)


class Containerd(_Daemon):
    def __init__(self, place: Path, archive: str, programs: dict[str, str]) -> None:
        super().__init__(place, programs)
        socket = f"{place}/s"
        (place / "config.toml").write_text(
            'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'root = "{place}/root"\nstate = "{place}/state"\n[grpc]\naddress = "{socket}"\n'
        )
        self.client = ["ctr", "-a", socket, "-n", PARENT[1:]]
        self.start(["containerd", "-c", f"{place}/config.toml"], ["version"])
        self.must("image", "import", "--snapshotter=native", archive)

    def run_words(self, *words: str) -> list[str]:
        """The last flag is the container's name: ctr wants one."""
        flags, (name, *program) = split(words)
        return [
            "run",
            "--runc-binary",
            self.programs[self.runtime],
            "--snapshotter=native",
            *flags,
            IMAGE,
            name,
            *program,
        ]

    def remove_everything(self) -> None:
        for name in self.must("task", "ls", "-q").split():
            self("task", "delete", "-f", name)
        for name in self.must("container", "ls", "-q").split():
            self("container", "rm", name)


class Podman(Engine):
    def __init__(self, place: Path, archive: str, programs: dict[str, str]) -> None:
        super().__init__(place, programs)
        (place / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            '[containers]\ndefault_ulimits = ["nofile=1024:2048", "nproc=1024:2048"]\n'
        )
        self.environment["CONTAINERS_CONF"] = str(place / "containers.conf")
        self.client = [
            "podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp", "--storage-driver=vfs",
        ]  # fmt: skip
        self.must("load", "-q", "-i", archive)

    def __call__(self, *words: str, **options: Any) -> Done:
        return super().__call__("--runtime", self.programs[self.runtime], *words, **options)

    def run_words(self, *words: str) -> list[str]:
        network = () if any("network" in word for word in words) else ("--network=none",)
        flags, program = split(words)
        return ["run", "--cgroup-parent", PARENT, *network, *flags, IMAGE, *program]

    def remove_everything(self) -> None:
        self("rm", "-a", "-f", "-t", "0")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags (each one word), and the rest."""
    count = next((index for index, word in enumerate(words) if not word.startswith("-")), len(words))
    return list(words[:count]), list(words[count:])
