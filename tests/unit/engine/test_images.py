"""What Docker's image commands do to a store: listing, removing, pruning, shapes. The store is real, the containers are a list."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.images import Entry, ImageSpec, docker_archive, image_id, layer

from wherry.core.admission import Admission
from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.images import Images
from wherry.core.snapshots import Snapshots
from wherry.distribution.hosts import RegistryHosts
from wherry.engine.background import Background
from wherry.engine.events import Events
from wherry.engine.images import ImageObjects
from wherry.errors import Conflict, InvalidArgument, NotFound
from wherry.linux.usage import disk_usage
from wherry.spec.ids import Digest
from wherry.spec.reference import parse

BASE = layer([Entry("base", b"b" * 1000)])
ONE = ImageSpec((BASE,), {"Cmd": ["/one"], "Labels": {"team": "a", "x": "1"}})
TWO = ImageSpec((BASE, layer([Entry("two", b"22")])), {"Cmd": ["/two"]})
DIGEST = Digest("sha256:" + "d" * 64)


@dataclass
class Engine:
    objects: ImageObjects
    images: Images
    containers: list[Any]
    events: list[str] = field(default_factory=list)

    async def load(self, spec: ImageSpec, *tags: str) -> str:
        async def archive() -> AsyncIterator[bytes]:
            yield docker_archive(spec, tags)

        await self.objects.load(archive(), quiet=True, progress=lambda _: None)
        return image_id(spec)

    def container(self, spec: ImageSpec, *, running: bool = False) -> Any:
        record = SimpleNamespace(image=image_id(spec))
        made = SimpleNamespace(id=f"{len(self.containers):064d}", is_running=running, record=record)
        self.containers.append(made)
        return made

    async def remove(self, ref: str, *, force: bool = False) -> list[str]:
        """ "-x" for untagged, the rest deleted."""
        answer = await self.objects.remove(ref, force=force, prune_parents=True)
        return [f"-{entry['Untagged']}" if "Untagged" in entry else entry["Deleted"] for entry in answer]

    async def names(self, *, all: bool = False, **filters: list[str]) -> list[str]:
        listed = await self.objects.list(all=all, filters={key.replace("_", "!"): v for key, v in filters.items()})
        return sorted(entry["RepoTags"][0] if entry["RepoTags"] else entry["Id"][:19] for entry in listed)


def with_engine(root: Path, use: Callable[[Engine], Awaitable[None]]) -> None:
    async def run() -> None:
        db = Database(str(root / "db"))
        snapshots = Snapshots(str(root / "snapshots"), db)
        images = Images(Content(str(root / "content")), snapshots, db)
        await snapshots.open()
        await images.open()
        containers: list[Any] = []
        services: Any = SimpleNamespace(
            images=images,
            admission=Admission(images),
            snapshots=snapshots,
            events=Events(),
            background=Background(),
            settings=SimpleNamespace(data_root=str(root)),
            containers=SimpleNamespace(all=lambda: containers),
        )
        objects = ImageObjects(services, RegistryHosts())
        try:
            await use(Engine(objects, images, containers))
        finally:
            await objects.close()
            db.close()

    asyncio.run(run())


# --- removing


def test_removing_the_last_name_removes_the_image_and_its_layers(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(TWO, "two:1", "two:2")
        chain = engine.images.get("two:1").layers
        assert await engine.remove("two:1") == ["-two:1"]
        assert await engine.remove("two:2") == ["-two:2", id, chain[1], chain[0]]

    with_engine(tmp_path, use)


def test_layers_that_another_image_has_stay(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        await engine.load(ONE, "one:1")
        id = await engine.load(TWO, "two:1")
        assert await engine.remove("two:1") == ["-two:1", id, engine.images.get("one:1") and _chain(TWO)[1]]
        assert len(engine.images.snapshots.layers()) == 1

    with_engine(tmp_path, use)


def _chain(spec: ImageSpec) -> list[str]:
    from tests.registry import digest_of

    from wherry.spec.image import chain_ids

    return [*chain_ids([Digest(digest_of(data)) for data in spec.layers])]


def test_the_last_tag_of_a_repository_takes_its_digests_with_it(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(ONE, "one:1", "other:1")
        image = engine.images.get(id)
        await engine.images.tag(image.id, parse("one:1").with_digest(DIGEST))
        assert await engine.remove("one:1") == ["-one:1", f"-one@{DIGEST}"]
        assert engine.images.get(id).repo_tags == ("other:1",)

    with_engine(tmp_path, use)


def test_by_id_an_image_with_one_name_goes_and_one_with_several_must_be_forced(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(ONE, "one:1")
        await engine.images.tag(engine.images.get(id).id, parse("one:1").with_digest(DIGEST))
        removed = await engine.remove(id[7:19])
        assert removed == ["-one:1", f"-one@{DIGEST}", id, _chain(ONE)[0]]
        await engine.load(ONE, "one:1", "two:2")
        with pytest.raises(Conflict) as conflict:
            await engine.remove(id)
        assert str(conflict.value) == (
            f"conflict: unable to delete {id[7:19]} (must be forced) - image is referenced in multiple repositories"
        )
        assert await engine.remove(id, force=True) == ["-one:1", "-two:2", id, _chain(ONE)[0]]

    with_engine(tmp_path, use)


def test_an_image_that_a_container_uses_is_kept_unless_forced(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(ONE, "one:1")
        user = engine.container(ONE)
        with pytest.raises(Conflict) as conflict:
            await engine.remove("one:1")
        assert str(conflict.value) == (
            'conflict: unable to remove repository reference "one:1" (must force) - '
            f"container {user.id[:12]} is using its referenced image {id[7:19]}"
        )
        with pytest.raises(Conflict) as conflict:
            await engine.remove(id)
        assert str(conflict.value) == (
            f"conflict: unable to delete {id[7:19]} (must be forced) - image is being used by stopped container {user.id[:12]}"
        )
        assert engine.images.get("one:1").repo_tags == ("one:1",)
        assert id in await engine.remove("one:1", force=True)

    with_engine(tmp_path, use)


def test_an_image_that_runs_cannot_be_removed_at_all(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(ONE, "one:1")
        user = engine.container(ONE, running=True)
        for force in (False, True):
            with pytest.raises(Conflict) as conflict:
                await engine.remove(id, force=force)
            assert str(conflict.value) == (
                f"conflict: unable to delete {id[7:19]} (cannot be forced) - image is being used by running container {user.id[:12]}"
            )

    with_engine(tmp_path, use)


def test_an_unknown_image_is_said_in_dockers_words(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        for call in (engine.remove("no/such"), engine.objects.inspect("no/such"), engine.objects.history("no/such")):
            with pytest.raises(NotFound, match=r"^No such image: no/such:latest$"):
                await call

    with_engine(tmp_path, use)


# --- tagging


@pytest.mark.parametrize(
    ("repository", "tag", "message"),
    [
        (f"a@{DIGEST}", "", "refusing to create a tag with a digest reference"),
        ("sha256", "x", "refusing to create an ambiguous tag using digest algorithm as name"),
        ("A", "x", "invalid reference format: repository name (library/A) must be lowercase"),
        ("a", "x y", "invalid tag format"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused(tmp_path: Path, repository: str, tag: str, message: str) -> None:
    async def use(engine: Engine) -> None:
        await engine.load(ONE, "one:1")
        with pytest.raises(InvalidArgument) as refusal:
            await engine.objects.tag("one:1", repository, tag)
        assert str(refusal.value) == message

    with_engine(tmp_path, use)


def test_a_new_name_is_shown_and_dated(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        await engine.load(ONE, "one:1")
        await engine.objects.tag("one:1", "localhost:5000/x", "")
        shown = await engine.objects.inspect("one:1")
        assert shown["RepoTags"] == ["one:1", "localhost:5000/x:latest"] or shown["RepoTags"] == [
            "localhost:5000/x:latest",
            "one:1",
        ]
        assert shown["Metadata"]["LastTagTime"].startswith(time.strftime("%Y-", time.gmtime()))

    with_engine(tmp_path, use)


# --- listing


def test_filters_of_the_list(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        await engine.load(ONE, "one:1", "reg.example/team/one:2")
        await engine.load(TWO, "two:1")
        await engine.objects.remove("two:1", force=False, prune_parents=True)
        dangling = await engine.load(TWO)
        hidden = dangling[:19]
        assert await engine.names() == ["one:1", hidden]
        assert await engine.names(dangling=["true"]) == [hidden]
        assert await engine.names(dangling=["false"]) == ["one:1"]
        assert await engine.names(label=["team"]) == await engine.names(label=["team=a", "x=1"]) == ["one:1"]
        assert await engine.names(label=["team=b"]) == []
        assert await engine.names(until=[], label=[]) == await engine.names()
        assert await engine.names(reference=["one"]) == await engine.names(reference=["o*:?"]) == ["one:1"]
        assert await engine.names(reference=["reg.example/*/one"]) == ["reg.example/team/one:2"]
        assert await engine.names(reference=["*/one"]) == []
        assert await engine.names(until=["2026-01-01T00:00:00"]) == []
        assert await engine.names(until=["2026-06-01T00:00:00"]) == ["one:1", hidden]
        assert await engine.names(before=["one:1"]) == await engine.names(since=["one:1"]) == []
        for filters in ({"nope": ["1"]}, {"dangling": ["maybe"]}, {"until": ["x"]}, {"reference": ["[a"]}):
            with pytest.raises(InvalidArgument):
                await engine.names(**filters)

    with_engine(tmp_path, use)


def test_the_shapes_of_list_inspect_and_history(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(TWO, "two:1")
        [listed] = await engine.objects.list(all=False, filters={})
        assert listed.pop("Descriptor")["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        assert listed == {
            "Id": id, "ParentId": "", "RepoTags": ["two:1"], "RepoDigests": [], "Created": 1767323045, "Size": 1002,
            "SharedSize": -1, "Labels": None, "Containers": 0,
        }  # fmt: skip
        shown = await engine.objects.inspect("two:1")
        assert {key: shown[key] for key in ("Id", "RepoTags", "Size", "Os", "Created", "Config")} == {
            "Id": id, "RepoTags": ["two:1"], "Size": 1002, "Os": "linux", "Created": "2026-01-02T03:04:05Z", "Config": {"Cmd": ["/two"]},
        }  # fmt: skip
        assert len(shown["RootFS"]["Layers"]) == 2
        assert shown["GraphDriver"]["Data"]["UpperDir"].endswith("/fs")
        history = await engine.objects.history("two:1")
        assert [(step["Id"], step["Size"], step["Tags"]) for step in history] == [
            (id, 2, ["two:1"]),
            ("<missing>", 1000, None),
        ]

    with_engine(tmp_path, use)


# --- pruning


def test_prune_takes_what_has_no_tag_and_no_container(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        used = ImageSpec((layer([Entry("u", b"u")]),), {})
        await engine.load(used)
        engine.container(used)
        await engine.load(ONE, "one:1")
        dangling = await engine.load(TWO)
        before = disk_usage(str(tmp_path))
        answer = await engine.objects.prune({})
        assert answer["ImagesDeleted"] == [{"Deleted": dangling}, {"Deleted": _chain(TWO)[1]}]
        assert 0 < answer["SpaceReclaimed"] == before - disk_usage(str(tmp_path))
        assert await engine.objects.prune({}) == {"ImagesDeleted": None, "SpaceReclaimed": 0}
        assert len(engine.images.list()) == 2

    with_engine(tmp_path, use)


def test_prune_of_all_takes_every_unused_image_with_all_its_names(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        id = await engine.load(ONE, "one:1", "one:2", "other:3")
        await engine.load(TWO, "two:1")
        engine.container(TWO, running=True)
        answer = await engine.objects.prune({"dangling": ["false"], "label!": ["nope"]})
        assert answer["ImagesDeleted"][-1] == {"Deleted": id}
        assert {entry.get("Untagged") for entry in answer["ImagesDeleted"]} == {"one:1", "one:2", "other:3", None}
        assert [image.repo_tags for image in engine.images.list()] == [("two:1",)]
        with pytest.raises(InvalidArgument, match="invalid filter"):
            await engine.objects.prune({"reference": ["x"]})

    with_engine(tmp_path, use)


# --- importing


def test_import_applies_changes_and_reports_the_id(tmp_path: Path) -> None:
    async def archive() -> AsyncIterator[bytes]:
        yield BASE

    messages: list[dict[str, Any]] = []

    async def use(engine: Engine) -> None:
        await engine.objects.import_(
            archive(), repository="imp", tag="1", message="from a test", changes=['CMD ["x"]', "ENV A=1"], platform="linux/arm64",
            progress=messages.append,
        )  # fmt: skip
        shown = await engine.objects.inspect("imp:1")
        assert messages == [{"status": shown["Id"]}]
        assert (shown["Comment"], shown["Architecture"], shown["Variant"]) == ("from a test", "arm64", "v8")
        assert shown["Config"] == {"Cmd": ["x"], "Env": ["A=1"]}
        with pytest.raises(InvalidArgument, match="only http"):
            await engine.objects.import_(
                "file:///etc/passwd",
                repository="",
                tag="",
                message="",
                changes=[],
                platform=None,
                progress=messages.append,
            )
        with pytest.raises(InvalidArgument):
            await engine.objects.import_(
                archive(), repository="", tag="", message="", changes=["RUN x"], platform=None, progress=messages.append
            )

    with_engine(tmp_path, use)


def test_images_have_events(tmp_path: Path) -> None:
    async def use(engine: Engine) -> None:
        services: Any = engine.objects._services
        id = await engine.load(ONE, "one:1")
        await engine.objects.tag("one:1", "two", "2")
        await engine.remove("two:2")
        await engine.remove("one:1")
        seen = [
            (event["Action"], event["Actor"]["ID"], event["Actor"]["Attributes"]["name"])
            async for event in services.events.listen(since_ns=0, until_ns=time.time_ns(), filters={})
        ]
        assert seen == [
            ("load", id, id),
            ("tag", id, "two:2"),
            ("untag", id, id),
            ("untag", id, id),
            ("delete", id, id),
        ]

    with_engine(tmp_path, use)
