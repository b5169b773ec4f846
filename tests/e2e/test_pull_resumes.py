"""An interrupted pull goes on where it stopped: over a line that breaks, and after the engine was killed. Bytes on the line are counted."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cutter import Cutter, cutter
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, wait_until
from tests.images import Entry, ImageSpec, busybox_spec, layer, write_oci_layout
from tests.registry import docker_registry, skopeo_copy, wherry_registry

pytestmark = [
    pytest.mark.requires("registry", "skopeo"),
    differs_on_dockerd("keeps nothing of an interrupted pull"),
]

BOTH = pytest.mark.parametrize("registry", ["wherry", "docker-registry"], indirect=True)
MakeEngine = Callable[..., Engine]
DATA = random.Random(4).randbytes(8 << 20)  # does not compress
OTHER = 3 << 19
"""At most what else passes in a pull: manifests, the config, the layer of busybox, headers."""
LOST = 512 << 10
"""At most what a break loses: what was on the way."""


@pytest.fixture(scope="module")
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    kind = getattr(request, "param", "wherry")
    root = tmp_path_factory.mktemp("registry")
    write_oci_layout(str(root / "layout"), ImageSpec((layer([Entry("data", DATA)]), *busybox_spec().layers), {}))
    served = wherry_registry(root / "r") if kind == "wherry" else docker_registry(root / "r")
    with served as found:
        host = found if isinstance(found, str) else found.host
        skopeo_copy(f"oci:{root}/layout:latest", f"docker://{host}/big:1")
        yield host


@pytest.fixture
def line(registry: str) -> Iterator[Cutter]:
    with cutter(registry) as made:
        yield made


def is_whole(engine: Engine, image: str) -> bool:
    said = engine.output("run", "--rm", "--network=none", image, "sha256sum", "/data")
    return said.split()[0] == hashlib.sha256(DATA).hexdigest()


def partials(engine: Engine) -> dict[str, int]:
    with os.scandir(engine.data_root / "content/partial") as found:
        return {entry.name: entry.stat().st_size for entry in found}


def killed_midway(engine: Engine, line: Cutter, image: str) -> int:
    """The line stands still in the middle of the large layer; the engine is killed. → the bytes that it has left."""
    line.hold_after(5 << 20)
    with engine.popen("pull", "-q", image) as client:
        line.until_held()
        wait_until("what has come is written", lambda: sum(partials(engine).values()) > 3 << 20)
        engine.kill9()
        client.wait()
    line.let_go()
    return sum(partials(engine).values())


@BOTH
def test_a_pull_goes_on_after_kill_9_of_the_engine(own_engine: MakeEngine, line: Cutter) -> None:
    engine, image = own_engine(), f"{line.host}/big:1"
    kept = killed_midway(engine, line, image)
    engine.start()
    before = line.passed
    engine.docker("pull", "-q", image)
    assert line.passed - before < len(DATA) - kept + OTHER
    assert partials(engine) == {}
    assert is_whole(engine, image)


def test_a_damaged_partial_is_fetched_once_more(own_engine: MakeEngine, line: Cutter) -> None:
    """As a power cut leaves it: its length is there, its data is not."""
    engine, image = own_engine(), f"{line.host}/big:1"
    killed_midway(engine, line, image)
    for name in partials(engine):
        path = Path(engine.data_root / "content/partial" / name)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(bytes(path.stat().st_size // 2))
    engine.start()
    before = line.passed
    engine.docker("pull", "-q", image)
    assert len(DATA) < line.passed - before < 2 * len(DATA) + OTHER
    assert partials(engine) == {}
    assert is_whole(engine, image)


@BOTH
def test_a_line_that_breaks_again_and_again_costs_little(engine: Engine, line: Cutter) -> None:
    image = f"{line.host}/big:1"
    line.cut_every(2 << 20)
    engine.docker("pull", "-q", image)
    assert line.cuts >= 3
    assert line.passed < len(DATA) + OTHER + line.cuts * LOST
    assert is_whole(engine, image)
    engine.docker("rmi", image)


def test_what_an_interrupted_pull_has_left_is_pruned(own_engine: MakeEngine, line: Cutter) -> None:
    engine, image = own_engine(), f"{line.host}/big:1"
    kept = killed_midway(engine, line, image)
    engine.start()
    assert sum(partials(engine).values()) == kept
    layers = engine.api("GET", "/system/df")[1]["LayersSize"]
    status, said = engine.api("POST", "/images/prune")
    assert status == 200 and said["SpaceReclaimed"] >= kept
    assert partials(engine) == {}
    assert engine.api("GET", "/system/df")[1]["LayersSize"] == layers - said["SpaceReclaimed"]
    assert engine.output("images", "-q", BUSYBOX)
