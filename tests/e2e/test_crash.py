"""kill -9 of the engine at counted changes of its state: the old or the new state holds, nothing is left over, every blob and every unpacked file is
right, and the same operation succeeds again. And a disk that is full from such a change on, or fails once.

A sample of the points each time; `make crash` (WHERRY_CRASH_EVERY=1) tries all of them.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.crash.operations import OPERATIONS, Operation, State, World, write_layouts
from tests.crash.points import ENGINE, End, Points
from tests.e2e.harness import REPOSITORY, Engine, differs_on_dockerd, nothing_left
from tests.e2e.test_storage_drivers import file_system_for
from tests.registry import skopeo_copy, wherry_registry

pytestmark = [pytest.mark.requires("registry", "skopeo", "libseccomp"), differs_on_dockerd("has no such points")]

EVERY = int(os.environ.get("WHERRY_CRASH_EVERY", "0"))
SAMPLE = 2
"""Points of each operation, when not all are asked for."""
FEWER = 7
"""When all are asked for: every so many, on the storage drivers that share most of their code with overlay2."""
OTHERS = {"btrfs": ["commit"], "erofs": ["pull", "commit"], "fuse-overlayfs": ["commit"], "vfs": ["commit"]}
"""What is tried of them each time; `make crash` tries everything."""
SAMPLED = [("overlay2", name) for name in OPERATIONS] + [
    (driver, name) for driver, names in OTHERS.items() for name in (OPERATIONS if EVERY else names)
]
ENDS = {
    (end.name, name): (end, name)
    for end in (End.NO_SPACE, End.IO_ERROR)
    for name in (OPERATIONS if EVERY else ("import", "commit", "tag"))
}


@dataclass
class CountedEngine(Engine):
    """wherryd, watched."""

    points: Points = field(init=False)

    def __post_init__(self) -> None:
        self.points = Points(str(self.data_root))

    def _launch(self, **options: Any) -> subprocess.Popen[bytes]:
        words = self._command()
        first = next(index for index, word in enumerate(words) if word.startswith("--data-root"))
        return self.points.launch([*ENGINE, *words[first:]], **options)

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}

    def has_died(self) -> bool:
        assert self.process is not None
        return self.process.wait(timeout=300) != 0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("registry")
    with wherry_registry(root / "served") as served:
        for tag, layout in write_layouts(root).items():
            skopeo_copy(f"oci:{layout}:latest", f"docker://{served.host}/app:{tag}")
        yield served.host


@pytest.fixture(scope="module")
def counted(
    request: pytest.FixtureRequest, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CountedEngine]:
    """An engine with the storage driver `request.param`."""
    driver = getattr(request, "param", "overlay2")
    root = Path(leaks.engine_roots() + secrets.token_hex(3))
    with nothing_left(), file_system_for(driver, root, tmp_path_factory.mktemp("disk")):
        engine = CountedEngine(root, extra_arguments=[f"--storage-driver={driver}"])
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()
    shutil.rmtree(root)


@dataclass
class Trial:
    """An operation, undisturbed at first, on an engine of which its points are known then."""

    engine: CountedEngine
    world: World
    operation: Operation
    old: State = frozenset()
    new: State = frozenset()
    total: int = 0

    def begin(self) -> None:
        self.world.clear()
        self.operation.before(self.world)

    def measure(self) -> None:
        self.begin()
        self.old = self.world.state()
        self.engine.points.arm()
        self.operation.act(self.world)
        self.total = self.engine.points.disarm()
        self.new = self.world.state()
        self.is_sound("undisturbed")
        assert self.total > 1 and self.old != self.new
        assert not self.engine.points.unknown

    def is_sound(self, moment: str, *, leftovers: bool = False) -> None:
        """`leftovers`: there may be some; the disk would not let them go."""
        problems = self.world.problems(leftovers=leftovers)
        assert not problems, f"{self.operation.name}, {moment}: {problems}"

    def succeeds_once_more(self, found: State, moment: str, *, leftovers: bool = False) -> None:
        try:
            self.operation.act(self.world)
        except RuntimeError as error:
            raise AssertionError(f"{moment}, once more") from error
        assert self.world.state() == self.operation.once_more(found, self.new), f"{moment}, once more"
        self.is_sound(f"{moment}, once more", leftovers=leftovers)


@pytest.mark.requires("btrfs", "erofs", "fuse-overlayfs")
@pytest.mark.parametrize(
    ("counted", "name"), SAMPLED, indirect=["counted"], ids=[f"{driver}-{name}" for driver, name in SAMPLED]
)
def test_a_kill_leaves_the_old_or_the_new_state(counted: CountedEngine, registry: str, name: str) -> None:
    trial = Trial(counted, World(counted.socket_path, counted.data_root, registry), OPERATIONS[name])
    trial.measure()
    is_first = "--storage-driver=overlay2" in counted.extra_arguments
    chosen = _chosen(trial.total, EVERY if is_first else EVERY * FEWER, SAMPLE if is_first else 1)
    kills = 0
    for point in chosen:
        trial.begin()
        assert trial.world.state() == trial.old
        counted.points.arm(point)
        try:
            trial.operation.act(trial.world)
        except (OSError, http.client.HTTPException):
            assert counted.points.last
        counted.points.disarm()
        if not counted.points.last:
            continue  # it took fewer changes this time: the order of threads is not ours
        kills += 1  # perhaps after it had answered: files go later
        assert counted.has_died()
        counted.start()
        moment = f"killed at point {point} of {trial.total}, {counted.points.last}"
        found = trial.world.state()
        assert trial.operation.is_allowed(found, trial.old, trial.new), f"{name}, {moment}: {found}"
        trial.is_sound(moment)
        trial.succeeds_once_more(found, moment)
    print(f"{name}: {trial.total} points, {kills} kills")
    assert kills >= len(chosen) - max(1, len(chosen) // 5)


@pytest.mark.parametrize(("end", "name"), ENDS.values(), ids=["-".join(words) for words in ENDS])
def test_a_disk_that_fails_leaves_the_old_state_and_the_engine_well(
    counted: CountedEngine, registry: str, end: End, name: str
) -> None:
    """Told is what holds: after an error there is the old state, after success the new one; and then it can be done."""
    trial = Trial(counted, World(counted.socket_path, counted.data_root, registry), OPERATIONS[name])
    trial.measure()
    failed = 0
    for point in _chosen(trial.total, EVERY, 1):
        trial.begin()
        counted.points.arm(point, end)
        told = ""
        try:
            trial.operation.act(trial.world)
        except RuntimeError as error:
            told = str(error)
        counted.points.disarm()
        moment = f"{end.name} at point {point} of {trial.total}, {counted.points.last}: {told or 'success'}"
        found = trial.world.state()
        if trial.operation.stepwise:
            assert trial.operation.is_allowed(found, trial.old, trial.new), f"{name}, {moment}: {found}"
        else:
            assert found == (trial.old if told else trial.new), f"{name}, {moment}: {found}"
        failed += bool(told)
        assert "internal error" not in told, moment
        trial.is_sound(moment, leftovers=True)
        trial.succeeds_once_more(found, moment, leftovers=True)
    print(f"{name}: {trial.total} points, {failed} times refused after {end.name}")
    counted.kill9()
    counted.start()
    trial.is_sound("after the next start")


def test_a_kill_of_fsck_leaves_what_the_next_one_mends(counted: CountedEngine, registry: str) -> None:
    """Nothing is taken away before what replaces it is there: images, names and containers stay as they were."""
    world = World(counted.socket_path, counted.data_root, registry)
    name = f"{registry}/app:1"

    def begin() -> None:
        world.clear()
        world.pull()
        world.make("box", name)
        _damage(world, name)

    def mend(moment: str) -> None:
        summary = world.ask("POST", "/wherry/fsck?repair=1")["summary"]
        assert summary["Problems"] == summary["Mended"], f"{moment}: {summary}"
        assert world.state() == sound and world.problems() == [], moment

    world.clear()
    world.pull()
    world.make("box", name)
    sound = world.state()
    _damage(world, name)
    counted.points.arm()
    mend("undisturbed")
    total = counted.points.disarm()
    kills = 0
    for point in _chosen(total, EVERY, SAMPLE):
        begin()
        counted.points.arm(point)
        try:
            world.ask("POST", "/wherry/fsck?repair=1")
        except (OSError, http.client.HTTPException):
            kills += 1
            assert counted.has_died()
            counted.start()
        counted.points.disarm()
        mend(f"killed at point {point} of {total}, {counted.points.last}")
    print(f"fsck: {total} points, {kills} kills")
    assert kills


def _damage(world: World, name: str) -> None:
    """Its config and its lowest layer's blob, a file of its top layer, and something that belongs to nobody."""
    shown = world.ask("GET", f"/images/{name}/json")
    blobs = world.data_root / "content/blobs/sha256"
    manifest = json.loads((blobs / shown["Descriptor"]["digest"].removeprefix("sha256:")).read_bytes())
    for digest in (shown["Id"], manifest["layers"][0]["digest"]):
        (blobs / digest.removeprefix("sha256:")).write_bytes(b"damaged")
    (Path(shown["GraphDriver"]["Data"]["UpperDir"]) / "etc/more").write_bytes(b"")
    (blobs / ("0" * 64)).write_bytes(b"stray")


def _chosen(total: int, every: int, sample: int) -> list[int]:
    if every:
        return [*range(1, total + 1, every)]
    return [total * step // (sample + 1) + 1 for step in range(1, sample + 1)]
