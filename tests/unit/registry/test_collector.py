import asyncio
import os
import time
from pathlib import Path

from tests.unit.registry.lab import EMPTY, OCI_INDEX, OCI_MANIFEST, descriptor, image, index, registry, run, sha

from wherry.registry.collector import Collector
from wherry.spec.ids import Digest

HOUR = 3600.0


def later(collector: Collector, seconds: float = 2 * HOUR) -> Collector:
    collector.clock = lambda: time.time() + seconds
    return collector


def test_a_blob_without_a_manifest_goes_after_the_grace_period(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            await client.push_image("a", "v1", b"used")
            loose = await client.push_blob("a", b"loose")
            collector = client.lab.collector(grace=HOUR)
            assert (await collector.collect()).links == 0
            collected = await later(collector).collect()
            assert (collected.links, collected.contents, collected.bytes) == (1, 1, 5)
            assert (await client.ask("HEAD", f"/v2/a/blobs/{loose}")).status == 404
            assert set(client.lab.repositories.storage) == {sha(EMPTY), sha(b"used")}
            assert (await client.ask("GET", f"/v2/a/blobs/{sha(b'used')}")).body == b"used"

    run(test)


def test_a_blob_that_a_client_was_told_about_is_spared(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            loose = await client.push_blob("a", b"loose")
            assert (await client.ask("HEAD", f"/v2/a/blobs/{loose}")).status == 200
            pair = ("a", Digest(loose))
            client.lab.repositories.touched[pair] = time.time() + 1.5 * HOUR
            assert (await later(client.lab.collector(grace=HOUR)).collect()).links == 0
            client.lab.repositories.touched[pair] = time.time()
            assert (await later(client.lab.collector(grace=HOUR)).collect()).links == 1

    run(test)


def test_content_stays_while_one_repository_shows_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_blob("a", b"shared")
            await client.push_image("b", "v1", b"shared")
            await client.ask("DELETE", f"/v2/a/blobs/{digest}")
            await later(client.lab.collector(grace=HOUR)).collect()
            assert (await client.ask("GET", f"/v2/b/blobs/{digest}")).body == b"shared"
            await client.ask("DELETE", "/v2/b/manifests/" + await client.push_image("b", "v1", b"shared"))
            await later(client.lab.collector(grace=HOUR)).collect()
            assert list(client.lab.repositories.storage) == []
            assert (await client.ask("GET", "/v2/_catalog")).json == {"repositories": []}

    run(test)


def test_a_blob_being_read_is_read_to_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            data = os.urandom(20_000_000)
            digest = await client.push_blob("a", data)
            async with client.session.get(f"{client.base}/v2/a/blobs/{digest}") as answer:
                await client.ask("DELETE", f"/v2/a/blobs/{digest}")
                assert (await client.lab.collector(grace=0).collect()).contents == 1
                assert await answer.read() == data

    run(test)


def test_untagged_manifests_go_if_asked_unless_something_tagged_leads_to_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            child = await client.push_image("a", "", b"child")
            entry = descriptor(b"", OCI_MANIFEST) | {"digest": child}
            tagged = await client.push_manifest("a", "v1", index(entry), OCI_INDEX)
            about = await client.push_manifest("a", "", image(subject=entry, artifactType="x/y"))
            stray = await client.push_image("a", "", b"stray")
            lost = await client.push_manifest("a", "", image(subject=descriptor(b"gone", OCI_MANIFEST)))
            assert (await later(client.lab.collector(grace=HOUR)).collect()).manifests == 0
            assert (await later(client.lab.collector(grace=HOUR, untagged=True)).collect()).manifests == 2
            for digest, status in ((child, 200), (tagged, 200), (about, 200), (stray, 404), (lost, 404)):
                assert (await client.ask("HEAD", f"/v2/a/manifests/{digest}")).status == status
            assert (await client.ask("HEAD", f"/v2/a/blobs/{sha(b'child')}")).status == 200

    run(test)


def test_abandoned_uploads_go(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            location = (await client.ask("POST", "/v2/a/blobs/uploads/")).headers["Location"]
            await client.ask("PATCH", location, data=b"data")
            assert (await client.lab.collector(grace=HOUR).collect()).uploads == 0
            assert (await later(client.lab.collector(grace=HOUR)).collect()).uploads == 1
            assert os.listdir(tmp_path / "uploads") == []

    run(test)


def test_contents_that_a_crash_left_go_at_the_next_start(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            kept = await client.push_blob("a", b"kept")
            orphan = tmp_path / "orphan"
            orphan.write_bytes(b"orphan")
            client.lab.repositories.storage.keep(str(orphan), Digest(sha(b"orphan")))
            assert (await client.lab.collector(grace=HOUR).collect()).contents == 1
            assert list(client.lab.repositories.storage) == [kept]

    run(test)


def test_collecting_all_the_time_loses_nothing_that_is_pushed(tmp_path: Path) -> None:
    """With no grace at all: a manifest is then either refused, because its blob went, or whole."""

    async def test() -> None:
        async with registry(tmp_path) as client:
            ended = asyncio.Event()

            async def collect() -> None:
                while not ended.is_set():
                    await client.lab.collector(grace=0, untagged=True).collect()
                    await asyncio.sleep(0)

            async def push(number: int) -> bool:
                repository, layer = f"r{number % 3}", f"layer {number % 7}".encode()
                await client.push_blob(repository, EMPTY)
                await client.push_blob(repository, layer)
                document = image(layer, annotations={"n": str(number)})
                answer = await client.ask("PUT", f"/v2/{repository}/manifests/t{number}", json=document)
                assert answer.status == 201 or answer.code == "MANIFEST_BLOB_UNKNOWN"
                return answer.status == 201

            async with asyncio.TaskGroup() as tasks:
                collecting = tasks.create_task(collect())
                pushed = await asyncio.gather(*map(push, range(60)))
                ended.set()
                await collecting
            for number in (number for number, done in enumerate(pushed) if done):
                manifest = (await client.ask("GET", f"/v2/r{number % 3}/manifests/t{number}")).json
                for item in (manifest["config"], *manifest["layers"]):
                    answer = await client.ask("GET", f"/v2/r{number % 3}/blobs/{item['digest']}")
                    assert sha(answer.body) == item["digest"]

    run(test)
