"""Real engines with the runtime as a parameter: every test runs on Debian's runc first, so that what fails on wherry-runc
alone is wherry-runc's fault. One engine of each kind serves both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.conformance.engines import IMAGE, Containerd, Dockerd, Podman, make_groups, remove_groups
from tests.wherry_runc import install

RUNTIMES = ("runc", "wherry-runc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.requires("busybox", "libseccomp", "runc"))


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each runtime's path."""
    runc = shutil.which("runc")
    assert runc is not None
    return {"runc": runc, "wherry-runc": str(install(tmp_path_factory.mktemp("prefix") / "usr"))}


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "busybox.tar"
    return images.write_docker_archive(str(path), images.busybox_spec(), IMAGE)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A short path: shims make unix sockets below it."""
    directory = Path(f"/tmp/wherry-conf-{os.getpid():x}")
    directory.mkdir(mode=0o711)
    make_groups()
    yield directory
    remove_groups()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shared_dockerd(place: Path, archive: str, programs: dict[str, str]) -> Iterator[Dockerd]:
    engine = Dockerd(place / "d", archive, programs)
    yield engine
    engine.close()


@pytest.fixture
def dockerd(shared_dockerd: Dockerd, runtime: str) -> Iterator[Dockerd]:
    """A dockerd of our own that runs containers on `runtime`; those of the test are removed at its end."""
    shared_dockerd.runtime = runtime
    yield shared_dockerd
    shared_dockerd.remove_everything()


@pytest.fixture(scope="session")
def shared_containerd(place: Path, archive: str, programs: dict[str, str]) -> Iterator[Containerd]:
    engine = Containerd(place / "c", archive, programs)
    yield engine
    engine.close()


@pytest.fixture
def containerd(shared_containerd: Containerd, runtime: str) -> Iterator[Containerd]:
    shared_containerd.runtime = runtime
    yield shared_containerd
    shared_containerd.remove_everything()


@pytest.fixture(scope="session")
def shared_podman(place: Path, archive: str, programs: dict[str, str]) -> Podman:
    return Podman(place / "p", archive, programs)


@pytest.fixture
def podman(shared_podman: Podman, runtime: str) -> Iterator[Podman]:
    shared_podman.runtime = runtime
    yield shared_podman
    shared_podman.remove_everything()
