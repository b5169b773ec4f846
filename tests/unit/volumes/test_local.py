"""The local volume driver on a temporary directory and a real database."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from wherry.core.db import Database
from wherry.errors import InvalidArgument, NotFound, WherryError
from wherry.linux.usage import inodes
from wherry.volumes import Volumes
from wherry.wire.engine import VolumeCreate


def run(root: Path, scenario: Callable[[Volumes], Awaitable[None]]) -> None:
    """One life of the engine: opens what is there, does the scenario."""

    async def life() -> None:
        db = Database(str(root / "wherry.db"))
        try:
            volumes = Volumes(str(root), db)
            await volumes.open()
            await scenario(volumes)
        finally:
            db.close()

    asyncio.run(life())


def test_a_volume_is_a_directory_that_outlives_the_engine(tmp_path: Path) -> None:
    async def create(volumes: Volumes) -> None:
        made = await volumes.create(VolumeCreate(name="data", labels={"a": "b"}))
        assert made["Mountpoint"] == str(tmp_path / "volumes/data/_data") == volumes.path("data")
        assert made["Driver"] == "local" and made["Scope"] == "local" and made["Labels"] == {"a": "b"}
        Path(made["Mountpoint"], "file").write_text("kept")

    async def find(volumes: Volumes) -> None:
        assert volumes.inspect("data")["Labels"] == {"a": "b"}
        assert Path(volumes.path("data"), "file").read_text() == "kept"

    run(tmp_path, create)
    run(tmp_path, find)


def test_creating_an_existing_name_gives_the_existing_volume(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        first = await volumes.create(VolumeCreate(name="data", labels={"a": "b"}))
        assert await volumes.create(VolumeCreate(name="data", labels={"other": ""})) == first

    run(tmp_path, scenario)


def test_no_other_user_of_the_host_can_list_the_volumes(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        await volumes.create(VolumeCreate(name="data"))
        assert (tmp_path / "volumes").stat().st_mode & 0o777 == 0o701
        assert (tmp_path / "volumes/data").stat().st_mode & 0o777 == 0o701
        assert (tmp_path / "volumes/data/_data").stat().st_mode & 0o777 == 0o755

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "name", ["a", "../x", "a/b", "/etc", ".hidden", "-x", "a b", "a\0b", "a\n", "x" * 256, "..", "ä1"]
)
def test_a_name_that_could_be_a_path_or_too_long_is_refused(tmp_path: Path, name: str) -> None:
    async def scenario(volumes: Volumes) -> None:
        with pytest.raises(InvalidArgument):
            await volumes.create(VolumeCreate(name=name))
        assert volumes.list({}, ()) == [] and os.listdir(tmp_path / "volumes") == []

    run(tmp_path, scenario)


def test_a_volume_without_a_name_is_anonymous(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        made = await volumes.create(VolumeCreate())
        assert len(made["Name"]) == 64
        assert made["Labels"] == {"com.docker.volume.anonymous": ""}

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"type": "nfs", "o": "addr=10.0.0.1", "device": ":/x"}, "type=nfs"),
        ({"type": "tmpfs", "o": "size=1m", "device": "tmpfs"}, "type=tmpfs"),
        ({"type": "none", "o": "bind,ro", "device": "/x"}, "o=bind,ro"),
        ({"type": "none", "o": "bind"}, "device"),
        ({"type": "none", "o": "bind", "device": "x"}, "device='x'"),
        ({"size": "1g"}, '"size"'),
    ],
)
def test_an_option_that_is_not_carried_out_is_refused_by_name(
    tmp_path: Path, options: dict[str, str], named: str
) -> None:
    async def scenario(volumes: Volumes) -> None:
        with pytest.raises(WherryError, match=named):
            await volumes.create(VolumeCreate(name="data", driver_opts=options))
        assert not volumes.exists("data")

    run(tmp_path, scenario)


def test_a_bind_volume_is_the_directory_of_the_host_and_is_not_deleted_with_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")

    async def scenario(volumes: Volumes) -> None:
        options = {"type": "none", "o": "bind", "device": str(outside)}
        assert (await volumes.create(VolumeCreate(name="data", driver_opts=options)))["Options"] == options
        assert volumes.path("data") == str(outside)
        await volumes.remove("data")

    run(tmp_path, scenario)
    assert (outside / "file").read_text() == "kept"


def test_another_driver_is_not_found(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        with pytest.raises(NotFound, match='plugin "nope" not found'):
            await volumes.create(VolumeCreate(name="data", driver="nope"))

    run(tmp_path, scenario)


def test_removal_takes_the_data_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")

    async def scenario(volumes: Volumes) -> None:
        path = Path((await volumes.create(VolumeCreate(name="data")))["Mountpoint"])
        (path / "link").symlink_to(outside)
        (path / "folder").mkdir()
        (path / "folder/up").symlink_to(tmp_path)
        await volumes.remove("data")
        with pytest.raises(NotFound, match="get data: no such volume"):
            volumes.inspect("data")
        with pytest.raises(NotFound):
            await volumes.remove("data")
        await volumes.remove("data", force=True)

    run(tmp_path, scenario)
    assert os.listdir(tmp_path / "volumes") == []
    assert outside.read_text() == "kept"


def _du(path: str) -> int:
    return int(subprocess.run(["du", "-sB1", path], check=True, capture_output=True, text=True).stdout.split()[0])


def test_prune_takes_unused_anonymous_volumes_and_with_all_the_named_ones_too(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        free = (await volumes.create(VolumeCreate()))["Name"]
        used = (await volumes.create(VolumeCreate()))["Name"]
        await volumes.create(VolumeCreate(name="named", labels={"keep": "yes"}))
        with Path(volumes.path(free), "file").open("wb", buffering=0) as file:
            file.write(b"x" * 1000)
            os.fsync(file.fileno())  # what it takes on the disk is decided by now
        size = _du(volumes.path(free))
        assert await volumes.prune({}, {used}) == {"VolumesDeleted": [free], "SpaceReclaimed": size}
        assert (await volumes.prune({"all": ["true"], "label!": ["keep"]}, {used}))["VolumesDeleted"] == []
        assert (await volumes.prune({"all": ["true"]}, {used}))["VolumesDeleted"] == ["named"]
        assert [volume["Name"] for volume in volumes.list({}, ())] == [used]
        with pytest.raises(InvalidArgument, match="invalid filter 'name'"):
            await volumes.prune({"name": ["x"]}, ())

    run(tmp_path, scenario)


def test_filters_of_the_list(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        await volumes.create(VolumeCreate(name="one", labels={"a": "1"}))
        await volumes.create(VolumeCreate(name="two", labels={"a": "2"}))

        def names(**filters: list[str]) -> list[str]:
            return [volume["Name"] for volume in volumes.list(filters, {"two"})]

        assert names() == ["one", "two"]
        assert names(dangling=["true"]) == ["one"]
        assert names(dangling=["0"]) == ["two"]
        assert names(label=["a"]) == ["one", "two"]
        assert names(label=["a=2"]) == ["two"]
        assert names(name=["ne"]) == ["one"]
        assert names(name=["^t.o$", "("]) == ["two"]
        assert names(driver=["local"]) == ["one", "two"]
        assert names(driver=["other"]) == []
        with pytest.raises(InvalidArgument, match="invalid filter 'colour'"):
            names(colour=["red"])
        with pytest.raises(InvalidArgument):
            names(dangling=["perhaps"])

    run(tmp_path, scenario)


def test_usage_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        path = Path((await volumes.create(VolumeCreate(name="data")))["Mountpoint"])
        (path / "file").write_bytes(b"x" * 500)
        (path / "again").hardlink_to(path / "file")
        (found,) = await volumes.usage({"data": 2})
        assert found["UsageData"] == {"Size": _du(str(path)), "RefCount": 2}

    run(tmp_path, scenario)


def test_a_removal_cut_short_is_ended_at_the_next_start(tmp_path: Path) -> None:
    async def create(volumes: Volumes) -> None:
        await volumes.create(VolumeCreate(name="data"))

    async def find(volumes: Volumes) -> None:
        assert not volumes.exists("data")

    run(tmp_path, create)
    os.rename(
        tmp_path / "volumes/data", tmp_path / "volumes/.removed-0123"
    )  # as a crash before the row's deletion leaves it
    run(tmp_path, find)
    assert os.listdir(tmp_path / "volumes") == []
    run(tmp_path, find)


def test_a_directory_without_a_row_is_taken_in_with_its_data(tmp_path: Path) -> None:
    (tmp_path / "volumes/data/_data").mkdir(parents=True)
    (tmp_path / "volumes/data/_data/file").write_text("kept")

    async def find(volumes: Volumes) -> None:
        assert Path(volumes.path("data"), "file").read_text() == "kept"

    run(tmp_path, find)
    run(tmp_path, find)


def test_a_staged_volume_lasts_only_with_the_row_of_its_container(tmp_path: Path) -> None:
    names = ["a" * 64, "b" * 64]

    async def stage(volumes: Volumes) -> None:
        rows = [await volumes.stage(name, {"label": "x"}) for name in names]
        assert None not in rows and await volumes.stage(names[0], {}) is None
        await volumes._db.run(rows[0])  # type: ignore[arg-type]
        assert all(volumes.exists(name) for name in names)

    async def find(volumes: Volumes) -> None:
        assert [volume["Name"] for volume in volumes.list({}, ())] == [names[0]]
        assert volumes.inspect(names[0])["Labels"] == {"label": "x"}
        assert os.listdir(tmp_path / "volumes") == [names[0]]

    run(tmp_path, stage)
    run(tmp_path, find)


def test_a_staged_volume_is_undone_by_its_removal(tmp_path: Path) -> None:
    async def scenario(volumes: Volumes) -> None:
        await volumes.stage("data", {})
        await volumes.remove("data", force=True)
        assert not volumes.exists("data") and os.listdir(tmp_path / "volumes") == []
        with pytest.raises(InvalidArgument):
            await volumes.stage("../data", {})

    run(tmp_path, scenario)


def deepen(path: Path, levels: int) -> None:
    """Directories in each other, far deeper than a path may be long: what any container can make."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_a_volume_of_any_depth_is_measured_and_removed(tmp_path: Path) -> None:
    """Also by the next engine, when this one ended in the middle."""
    levels = 6000

    async def first(volumes: Volumes) -> None:
        deepen(Path((await volumes.create(VolumeCreate(name="deep")))["Mountpoint"]), levels)
        assert sum(1 for _ in inodes(volumes.path("deep"))) == levels + 2
        await volumes.remove("deep")
        assert os.listdir(tmp_path / "volumes") == []
        (tmp_path / "volumes/.removed-x/_data/_data").mkdir(parents=True)
        deepen(tmp_path / "volumes/.removed-x/_data", levels)

    async def second(volumes: Volumes) -> None:
        assert os.listdir(tmp_path / "volumes") == []

    run(tmp_path, first)
    run(tmp_path, second)


def test_what_is_measured_is_not_left_through_a_link_that_comes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container puts links in the place of its directories, right after they were looked at: the race, won."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("x" * 5000)
    look = os.stat

    def and_then(name: str, **named: Any) -> os.stat_result:
        found = look(name, **named)
        if name == "a" and not (inside / "a").is_symlink():
            (inside / "a").rename(inside / "b")
            (inside / "a").symlink_to(outside)
        return found

    monkeypatch.setattr(os, "stat", and_then)
    assert 5000 not in [found.st_size for found in inodes(str(inside))]
    monkeypatch.undo()
    assert (inside / "a").is_symlink()
