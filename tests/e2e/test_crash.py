"""kill -9 of the engine at counted changes of its state: the old or the new state holds, nothing is left over, every blob and every unpacked file is
right, and the same operation succeeds again.

A sample of the points each time; `make crash` (WHERRY_CRASH_EVERY=1) tries all of them.
"""

from __future__ import annotations

import http.client
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
from tests.crash.operations import OPERATIONS, Operation, World, write_layouts
from tests.crash.points import Points
from tests.e2e.harness import REPOSITORY, Engine, differs_on_dockerd, nothing_left
from tests.registry import skopeo_copy, wherry_registry

pytestmark = [pytest.mark.requires("registry", "skopeo", "libseccomp"), differs_on_dockerd("has no such points")]

EVERY = int(os.environ.get("WHERRY_CRASH_EVERY", "0"))
SAMPLE = 2
"""Points of each operation, when not all are asked for."""


@dataclass
class CountedEngine(Engine):
    """wherryd, watched."""

    points: Points = field(init=False)

    def __post_init__(self) -> None:
        self.points = Points(str(self.data_root))

    def _launch(self, **options: Any) -> subprocess.Popen[bytes]:
        words = self._command()
        first = next(index for index, word in enumerate(words) if word.startswith("--data-root"))
        return self.points.launch(words[first:], **options)

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}

    def has_died(self) -> bool:
        assert self.process is not None
        return self.process.wait(timeout=20) != 0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("registry")
    with wherry_registry(root / "served") as served:
        for tag, layout in write_layouts(root).items():
            skopeo_copy(f"oci:{layout}:latest", f"docker://{served.host}/app:{tag}")
        yield served.host


@pytest.fixture(scope="module")
def counted(registry: str) -> Iterator[CountedEngine]:
    root = Path(leaks.engine_roots() + secrets.token_hex(3))
    with nothing_left():
        engine = CountedEngine(root)
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()
    shutil.rmtree(root)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_kill_leaves_the_old_or_the_new_state(counted: CountedEngine, registry: str, operation: Operation) -> None:
    world = World(counted.socket_path, counted.data_root, registry)

    def begin() -> None:
        world.clear()
        operation.before(world)

    def is_sound(moment: str) -> None:
        problems = world.problems()
        assert not problems, f"{operation.name}, {moment}: {problems}"

    begin()
    old = world.state()
    counted.points.arm()
    operation.act(world)
    total = counted.points.disarm()
    new = world.state()
    is_sound("undisturbed")
    assert total > 1 and old != new
    assert not counted.points.unknown
    kills = 0
    chosen = _chosen(total)
    for point in chosen:
        begin()
        assert world.state() == old
        counted.points.arm(point)
        try:
            operation.act(world)
        except (OSError, http.client.HTTPException):
            kills += 1
            assert counted.has_died()
            counted.start()
        else:  # it took fewer changes this time: the order of threads is not ours
            counted.points.disarm()
            continue
        moment = f"killed at point {point} of {total}, {counted.points.last}"
        found = world.state()
        assert operation.is_allowed(found, old, new), f"{operation.name}, {moment}: {found}"
        is_sound(moment)
        operation.act(world)
        assert world.state() == operation.once_more(found, new), f"{operation.name}, {moment}, once more"
        is_sound(f"{moment}, once more")
    print(f"{operation.name}: {total} points, {kills} kills")
    assert kills >= len(chosen) - max(1, len(chosen) // 5)


def _chosen(total: int) -> list[int]:
    if EVERY:
        return [*range(1, total + 1, EVERY)]
    return [total * step // (SAMPLE + 1) + 1 for step in range(1, SAMPLE + 1)]
