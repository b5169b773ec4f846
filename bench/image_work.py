"""Pull, push, save, load and removal of a realistic image: wherryd beside dockerd, from the same docker-registry, by the same docker CLI.

One round does all of it with one engine, then with the other; who begins changes with every round. Before each measurement everything that is dirty
is written (`sync`), so that nobody pays for what was before; the registry's files and the archive are in the page cache for both. What an engine
leaves to do after a command returned is bounded: its directory must be small again soon after a removal, or the run fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.registry import docker_registry

from bench import image_made
from bench.engines import Engine
from bench.measure import Result, pss_megabytes, timed

ROUNDS = 5
MEMORY_BOUND = 150.0
"""MB above idle."""
_BACKGROUND_SECONDS = 20.0
_REST_SECONDS = 0.5
_SAMPLE_SECONDS = 0.05

Values = defaultdict[str, list[float]]


class Bench:
    """`root` is on the file system of both engines' data."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.first, self.second = (f"{registry}/{image_made.REPOSITORY}:{tag}" for tag in ("1", "2"))
        self.archive = root / "peer.tar"
        """What dockerd saved: both load the same."""

    def run(self, ours: Engine, theirs: Engine, count: int) -> dict[str, tuple[Result, Result]]:
        values: dict[str, Values] = {engine.name: defaultdict(list) for engine in (ours, theirs)}
        for turn in range(count + 1):
            for engine in (theirs, ours) if turn % 2 == 0 else (ours, theirs):
                into = values[engine.name] if turn else defaultdict(list)  # the first round does not count
                self._round(engine, into)
        mine, others = values[ours.name], values[theirs.name]
        return {name: (Result(mine[name]), Result(others[name])) for name in mine}

    def _round(self, engine: Engine, values: Values) -> None:
        self._timed(values, "image-pull", engine, "pull", "-q", self.first)
        self._timed(values, "image-pull-again", engine, "pull", "-q", self.second)
        engine.docker("rmi", self.second)
        with docker_registry(self.root / "empty") as empty:
            target = f"{empty}/{image_made.REPOSITORY}:1"
            engine.docker("tag", self.first, target)
            self._timed(values, "image-push", engine, "push", "-q", target)
            engine.docker("rmi", target)
        shutil.rmtree(self.root / "empty")
        saved = self.root / "saved.tar"
        self._timed(values, "image-save", engine, "save", "-o", str(saved), self.first)
        if engine.name == "dockerd" and not self.archive.exists():
            saved.rename(self.archive)
        else:
            saved.unlink()
        self._timed(values, "image-remove", engine, "rmi", self.first)
        self._until_gone(engine)
        self._timed(values, "image-load", engine, "load", "-q", "-i", str(self.archive))
        engine.docker("rmi", self.first)
        self._until_gone(engine)

    def _timed(self, values: Values, name: str, engine: Engine, *words: str) -> None:
        os.sync()
        time.sleep(_REST_SECONDS)
        values[name].append(timed(["docker", *words], engine.environment))
        print(f"bench: {engine.name}: {name}: {values[name][-1]:.0f} ms", file=sys.stderr, flush=True)

    def _until_gone(self, engine: Engine) -> None:
        deadline = time.monotonic() + _BACKGROUND_SECONDS
        while _megabytes(engine.root / "data") > 100:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{engine.name}: the removed image still takes space after {_BACKGROUND_SECONDS} s")
            time.sleep(0.1)

    def memory(self, engine: Engine) -> float:
        """MB that the engine and all its processes (PSS) take at most during a pull, beyond what they took before."""
        idle = _tree_megabytes(engine.pid)
        most, ended = idle, threading.Event()

        def watch() -> None:
            nonlocal most
            while not ended.wait(_SAMPLE_SECONDS):
                most = max(most, _tree_megabytes(engine.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        engine.docker("pull", "-q", self.first)
        ended.set()
        watcher.join()
        engine.docker("rmi", self.first)
        return most - idle


@contextlib.contextmanager
def prepared(root: Path) -> Iterator[Bench]:
    root.mkdir()
    with docker_registry(root / "registry") as host:
        image_made.put(host, root / "made")
        shutil.rmtree(root / "made")
        yield Bench(root, host)
    shutil.rmtree(root)


def _megabytes(directory: Path) -> float:
    """What the regular files below it take; those that go meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total / 1e6


def _tree_megabytes(root: int) -> float:
    total = 0.0
    for pid in _tree(root):
        with contextlib.suppress(OSError, StopIteration):
            total += pss_megabytes(pid)
    return total


def _tree(root: int) -> Sequence[int]:
    found = [root]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += [int(word) for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found
