"""Engines for the end-to-end tests: `engine` for all of them, `own_engine` for the tests that kill theirs."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import images, leaks
from tests.e2e.harness import BUSYBOX, PEER, Engine, nothing_left, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = ["overlay", "docker", "busybox"] + (["dockerd"] if PEER == "dockerd" else [])
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.requires(*needs))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The test image as `docker save` writes it."""
    path = tmp_path_factory.mktemp("images") / "busybox.tar"
    return images.write_docker_archive(str(path), images.busybox_spec(), BUSYBOX)


def _new_root() -> Path:
    return Path(leaks.engine_roots() + secrets.token_hex(3))


@pytest.fixture(scope="session")
def shared_engine(archive: str) -> Iterator[Engine]:
    root = _new_root()
    with nothing_left(), running(Engine(root), archive) as engine:
        yield engine
    shutil.rmtree(root)


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The engine that the tests of one run share; what the test made in it is removed at its end."""
    before = shared_engine.objects()
    yield shared_engine
    shared_engine.remove_everything_new(before)


@pytest.fixture
def own_engine(archive: str) -> Iterator[Callable[..., Engine]]:
    """Makes engines for this test alone: `own_engine()`, with further arguments of the daemon if given."""
    roots: list[Path] = []
    with nothing_left(), ExitStack() as stack:

        def make(*arguments: str) -> Engine:
            roots.append(_new_root())
            return stack.enter_context(running(Engine(roots[-1], extra_arguments=arguments), archive))

        yield make
    for root in roots:
        shutil.rmtree(root)
