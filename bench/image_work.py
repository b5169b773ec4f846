"""Pull, push, save, load and removal of a realistic image: wherryd beside dockerd, from the same docker-registry, by the same docker CLI.

One round does all of it with one engine, then with the other; who begins changes with every round. Each turn has a file system of its own, newly
made (ext4 in a file): on a used one ext4 passes over every inode that was removed in the last minutes when it makes one, so that whoever comes after
a removal pays for it - tens of seconds for such an image, which no user's first pull costs. Before each measurement everything that is dirty is
written (`sync`), so that nobody pays for what was before; the registry's files and the archive are in the page cache for both. What an engine leaves
to do after a removal has returned is bounded: its files must be gone soon, or the run fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.registry import docker_registry

from bench import image_made
from bench.engines import Engine, dockerd, wherryd
from bench.measure import Result, pss_megabytes, timed

ROUNDS = 5
MEMORY_BOUND = 150.0
"""MB above idle."""
_BACKGROUND_SECONDS = 20.0
_EMPTY_BYTES = 200 << 20
"""What an engine without images takes at most."""
_REST_SECONDS = 0.5
_SAMPLE_SECONDS = 0.05

_FILE_SYSTEM_BYTES = 16 << 30

Values = defaultdict[str, list[float]]
Make = Callable[[Path, Path | None], Engine]


class Bench:
    """`root` is an empty directory."""

    def __init__(self, root: Path, registry: str) -> None:
        self.root = root
        self.first, self.second = (f"{registry}/{image_made.REPOSITORY}:{tag}" for tag in ("1", "2"))
        self.archive = root / "peer.tar"
        """What dockerd saved: both load the same."""

    def run(self, count: int) -> dict[str, tuple[Result, Result]]:
        sides: tuple[tuple[Make, Values], ...] = ((wherryd, defaultdict(list)), (dockerd, defaultdict(list)))
        for turn in range(count + 1):
            for make, values in sides[::-1] if turn % 2 == 0 else sides:
                into = values if turn else defaultdict(list)  # the first round does not count
                with self._engine(make) as engine:
                    self._round(engine, into)
                with self._engine(make) as engine:
                    self._timed(into, "image-load", engine, "load", "-q", "-i", str(self.archive))
        mine, others = sides[0][1], sides[1][1]
        return {name: (Result(mine[name]), Result(others[name])) for name in mine}

    @contextlib.contextmanager
    def _engine(self, make: Make) -> Iterator[Engine]:
        """An engine whose data is on a new file system."""
        image, mounted = self.root / "fs.img", self.root / "fs"
        image.touch()
        os.truncate(image, _FILE_SYSTEM_BYTES)
        words = "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run([*words.split(), str(image)], check=True)
        mounted.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
        engine = make(self.root, mounted / "data")
        try:
            with engine.running(None):
                yield engine
        finally:
            subprocess.run(["umount", str(mounted)], check=True)
            shutil.rmtree(engine.root)

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
        self._until_gone()

    def _timed(self, values: Values, name: str, engine: Engine, *words: str) -> None:
        os.sync()
        time.sleep(_REST_SECONDS)
        values[name].append(timed(["docker", *words], engine.environment))
        print(f"bench: {engine.name}: {name}: {values[name][-1]:.0f} ms", file=sys.stderr, flush=True)

    def _until_gone(self) -> None:
        deadline = time.monotonic() + _BACKGROUND_SECONDS
        while (used := shutil.disk_usage(self.root / "fs").used) > _EMPTY_BYTES:
            if time.monotonic() > deadline:
                raise RuntimeError(f"a removed image still takes {used >> 20} MB after {_BACKGROUND_SECONDS} s")
            time.sleep(0.1)

    def memory(self) -> float:
        """MB that wherryd and all its processes (PSS) take at most during a pull, beyond what they took before."""
        with self._engine(wherryd) as engine:
            idle = most = _tree_megabytes(engine.pid)
            ended = threading.Event()

            def watch() -> None:
                nonlocal most
                while not ended.wait(_SAMPLE_SECONDS):
                    most = max(most, _tree_megabytes(engine.pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            engine.docker("pull", "-q", self.first)
            ended.set()
            watcher.join()
        return most - idle


@contextlib.contextmanager
def prepared(root: Path) -> Iterator[Bench]:
    root.mkdir()
    with docker_registry(root / "registry") as host:
        image_made.put(host, root / "made")
        shutil.rmtree(root / "made")
        yield Bench(root, host)
    shutil.rmtree(root)


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
