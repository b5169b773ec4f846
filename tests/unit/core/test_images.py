"""Images by name and id, the package's own image, what is removed and what is kept."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.images import Images
from wherry.core.snapshots import Snapshots
from wherry.errors import InvalidArgument, NotFound
from wherry.spec.ids import Digest
from wherry.spec.reference import parse


def with_images(root: Path, use: Callable[[Images], Awaitable[None]]) -> None:
    """Opens the store in `root`, as the engine does at start-up, and closes it again."""

    async def run() -> None:
        db = Database(str(root / "db"))
        try:
            snapshots = Snapshots(str(root / "snapshots"), db)
            images = Images(Content(str(root / "content")), snapshots, db)
            await snapshots.open()
            await images.open()
            await use(images)
        finally:
            db.close()

    asyncio.run(run())


def test_hello_world_comes_from_the_package_when_it_is_to_be_run(tmp_path: Path) -> None:
    async def use(images: Images) -> None:
        with pytest.raises(NotFound, match=r"^No such image: hello-world:latest$"):
            images.get("hello-world")
        image = await images.resolve("hello-world")
        assert image.repo_tags == ("hello-world:latest",)
        assert image.run["Cmd"] == ["/hello"]
        [lower] = images.snapshots.lower(image.top)
        assert os.access(f"{lower}/hello", os.X_OK)

    with_images(tmp_path, use)


def test_several_who_want_the_packages_image_at_once_get_one_image(tmp_path: Path) -> None:
    async def use(images: Images) -> None:
        found = await asyncio.gather(*(images.resolve("docker.io/library/hello-world:latest") for _ in range(5)))
        assert len({image.id for image in found}) == len(images.list()) == len(images.snapshots.layers()) == 1

    with_images(tmp_path, use)


def test_an_image_is_found_by_name_id_and_unique_prefix_after_a_restart(tmp_path: Path) -> None:
    ids = []

    async def first(images: Images) -> None:
        ids.append((await images.resolve("hello-world")).id)

    async def second(images: Images) -> None:
        encoded = ids[0].removeprefix("sha256:")
        for ref in ("hello-world", "hello-world:latest", ids[0], encoded, encoded[:12], encoded[:1], ids[0][:15]):
            assert images.get(ref).id == ids[0]
        for ref in ("hello-world:1", "other", "f" * 64, "sha256"):
            with pytest.raises(NotFound):
                images.get(ref)
        with pytest.raises(InvalidArgument, match="invalid reference format"):
            images.get("hello:world:x")

    with_images(tmp_path, first)
    with_images(tmp_path, second)


def test_an_image_may_have_several_names_and_lose_them(tmp_path: Path) -> None:
    async def use(images: Images) -> None:
        image = await images.resolve("hello-world")
        await images.tag(image.id, parse("localhost:5000/a/b:1"))
        assert images.get("localhost:5000/a/b:1").repo_tags == ("hello-world:latest", "localhost:5000/a/b:1")
        await images.untag([parse("hello-world:latest")])
        assert images.get(image.id).repo_tags == ("localhost:5000/a/b:1",)

    with_images(tmp_path, use)


def test_deleting_an_image_leaves_no_file(tmp_path: Path) -> None:
    async def use(images: Images) -> None:
        image = await images.resolve("hello-world")
        assert await images.delete(image.id) == [image.top]
        assert list(images.content) == [] == images.snapshots.layers()
        await images.snapshots.trash.empty()
        assert os.listdir(tmp_path / "snapshots/layers") == os.listdir(tmp_path / "snapshots/trash") == []
        with pytest.raises(NotFound):
            images.get(image.id)

    with_images(tmp_path, use)


def test_layers_of_a_deleted_image_live_as_long_as_a_container_stands_on_them(tmp_path: Path) -> None:
    async def before(images: Images) -> None:
        image = await images.resolve("hello-world")
        await images.snapshots.prepare("c1", image.top)
        assert await images.delete(image.id) == []

    async def after(images: Images) -> None:
        [_, lower] = images.snapshots.mounts("c1").lower
        assert os.path.exists(f"{lower}/hello")
        await images.snapshots.remove("c1")
        assert images.snapshots.layers() == []

    with_images(tmp_path, before)
    with_images(tmp_path, after)


@pytest.mark.parametrize("part", ["config damaged", "config missing", "manifest", "layer's blob", "layer", "all of it"])
def test_an_image_that_lost_a_part_is_kept_and_mended_by_getting_it_again(tmp_path: Path, part: str) -> None:
    async def before(images: Images) -> None:
        image = await images.resolve("hello-world")
        await images.snapshots.prepare("c1", image.top)
        config = Path(images.content.path(Digest(image.id)))
        manifest = Path(images.content.path(image.target.digest))
        if part == "config damaged":
            config.write_bytes(b"{}")
        if part in ("config missing", "all of it"):
            config.unlink()
        if part in ("manifest", "all of it"):
            manifest.unlink()
        if part in ("layer's blob", "all of it"):
            [blob] = image.blobs - {image.id, image.target.digest}
            Path(images.content.path(blob)).unlink()
        if part in ("layer", "all of it"):
            shutil.rmtree(tmp_path / "snapshots/layers/1")

    async def after(images: Images) -> None:
        [image] = images.list()
        assert image.repo_tags == ("hello-world:latest",)
        assert bool(image.damage) == (part not in ("manifest", "layer's blob"))
        assert [layer.number for layer in images.snapshots.layers()] == [1]
        if image.damage:
            with pytest.raises(NotFound, match=r"image hello-world is damaged: .*fsck"):
                await images.resolve("hello-world", adopt=False)
        if part in ("layer", "all of it"):
            with pytest.raises(NotFound, match=r"layer .* does not exist"):
                images.snapshots.mounts("c1")
        image = await images.resolve("hello-world")
        assert image.damage == "" and image.size > 0 and image.repo_tags == ("hello-world:latest",)
        [_, lower] = images.snapshots.mounts("c1").lower
        assert os.path.exists(f"{lower}/hello")
        await images.snapshots.remove("c1")

    async def removed(images: Images) -> None:
        [image] = images.list()
        await images.delete(image.id)
        assert images.list() == [] == images.snapshots.layers()
        assert list(images.content) == []

    with_images(tmp_path, before)
    with_images(tmp_path, after)
    with_images(tmp_path, removed)


def test_a_damaged_image_can_be_removed(tmp_path: Path) -> None:
    async def before(images: Images) -> None:
        image = await images.resolve("hello-world")
        Path(images.content.path(Digest(image.id))).write_bytes(b"{}")

    async def after(images: Images) -> None:
        image = images.get("hello-world")
        assert len(await images.delete(image.id)) <= 1
        assert images.list() == [] == images.snapshots.layers()
        assert list(images.content) == []

    with_images(tmp_path, before)
    with_images(tmp_path, after)
