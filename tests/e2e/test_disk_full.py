"""The data root's disk is full: what ends is told, what is removed goes, what is new is refused, and nothing waits for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.e2e.conftest import _new_root
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, nothing_left, running, wait_until

FILL = "while dd if=/dev/zero bs=64k count=100 >>/full 2>/dev/null; do :; done; while echo x >>/full; do :; done 2>/dev/null"


@pytest.fixture
def small(archive: str) -> Iterator[Engine]:
    """An engine whose data root has 16 MiB."""
    engine = Engine(_new_root())
    engine.data_root.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "small", engine.data_root], check=True)
    try:
        with nothing_left(), running(engine, archive):
            yield engine
    finally:
        subprocess.run(["umount", engine.data_root], check=True)
        shutil.rmtree(engine.root)


@differs_on_dockerd("keeps no room for its own records")
def test_a_container_that_fills_the_disk_ends_and_is_removed(small: Engine) -> None:
    filler = ("run", "--network=none", BUSYBOX, "sh", "-c", f"{FILL}; exit 9")
    done = small.docker(filler[0], "--rm", *filler[1:], check=False)
    assert done.returncode == 9, done.stderr
    assert small.shell("echo room again") == "room again"
    done = small.docker(filler[0], "--name=filler", *filler[1:], check=False)
    assert done.returncode == 9, done.stderr
    assert (small.state("filler")["Status"], small.state("filler")["ExitCode"]) == ("exited", 9)
    small.docker("rm", "filler")
    assert small.objects()["containers"] == frozenset()


@differs_on_dockerd("keeps no room for its own records")
def test_while_the_disk_is_full_containers_stop_and_new_ones_are_refused(small: Engine) -> None:
    for name in ("one", "two", "three"):
        small.docker("run", "-d", f"--name={name}", "--network=none", "--restart=on-failure", BUSYBOX, "sleep", "1000")
    small.docker("exec", "one", "sh", "-c", FILL, check=False)
    refused = [small.docker("run", "--rm", "--network=none", BUSYBOX, "true", check=False) for _ in range(3)]
    assert all(done.returncode in (0, 125) for done in refused)
    assert all(not done.returncode or "no space left on device" in done.stderr for done in refused), refused
    small.docker("stop", "-t", "0", "two")
    small.docker("kill", "three")
    small.docker("rm", "-f", "two", "three")
    assert small.output("exec", "one", "echo", "lives") == "lives"
    small.kill9()
    small.start()
    assert small.state("one")["Running"]
    small.docker("rm", "-f", "one")
    assert small.shell("echo room again") == "room again"


@differs_on_dockerd("has its own words")
def test_an_image_that_does_not_fit_leaves_nothing(small: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("big") / "big.tar"
    random = images.Entry("big", os.urandom(20 << 20))
    images.write_docker_archive(str(path), images.ImageSpec([images.layer([random])]), "big:1")
    before = files(small)
    done = small.docker("load", "-i", str(path), check=False)
    assert done.returncode == 1 and "no space left on device" in done.stderr
    assert files(small) == before


def files(engine: Engine) -> list[Path]:
    """Of its data root, once what was removed has gone: that goes after the answer."""
    wait_until("the trash is empty", lambda: not any((engine.data_root / "snapshots/trash").iterdir()))
    return sorted(engine.data_root.rglob("*"))
