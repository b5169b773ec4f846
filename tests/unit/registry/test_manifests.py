import json
import os
import time
from pathlib import Path

import pytest
from tests.unit.registry.lab import EMPTY, OCI_INDEX, OCI_MANIFEST, descriptor, image, index, registry, run, sha


def test_a_manifest_comes_back_byte_for_byte(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            await client.push_blob("a", EMPTY)
            data = json.dumps(image(), indent=3).encode() + b"\n"
            answer = await client.ask("PUT", "/v2/a/manifests/v1", data=data, headers={"Content-Type": OCI_MANIFEST})
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, sha(data))
            for reference in ("v1", sha(data)):
                answer = await client.ask("GET", f"/v2/a/manifests/{reference}")
                assert (answer.body, answer.headers["Content-Type"]) == (data, OCI_MANIFEST)
                head = await client.ask("HEAD", f"/v2/a/manifests/{reference}")
                assert head.headers["Content-Length"] == str(len(data))
                assert head.headers["Docker-Content-Digest"] == sha(data)
            unchanged = await client.ask("GET", "/v2/a/manifests/v1", headers={"If-None-Match": f'"{sha(data)}"'})
            assert unchanged.status == 304

    run(test)


def test_sha512_is_a_digest_as_well(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            await client.push_blob("a", EMPTY)
            data = json.dumps(image()).encode()
            digest = sha(data, "sha512")
            assert await client.push_manifest("a", digest, image()) == digest
            assert (await client.ask("GET", f"/v2/a/manifests/{digest}")).body == data

    run(test)


def test_a_manifest_whose_blobs_are_missing_is_refused_and_names_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            await client.push_blob("elsewhere", b"layer")
            await client.push_blob("a", EMPTY)
            answer = await client.ask("PUT", "/v2/a/manifests/v1", data=json.dumps(image(b"layer")))
            assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
            assert answer.json["errors"][0]["detail"]["digests"] == [sha(b"layer")]
            document = index(descriptor(b"nothing", OCI_MANIFEST))
            answer = await client.ask("PUT", "/v2/a/manifests/v1", data=json.dumps(document))
            assert answer.code == "MANIFEST_BLOB_UNKNOWN"
            assert (await client.ask("GET", "/v2/a/tags/list")).json["tags"] == []

    run(test)


def test_an_index_may_list_blobs_as_buildkits_caches_do_and_keeps_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            cache = index(descriptor(b"layer", "application/vnd.oci.image.layer.v1.tar+gzip"), descriptor(b"x", "a/b"))
            answer = await client.ask("PUT", "/v2/a/manifests/v1", data=json.dumps(cache))
            assert answer.json["errors"][0]["detail"]["digests"] == [sha(b"layer"), sha(b"x")]
            for data in (b"layer", b"x"):
                await client.push_blob("a", data)
            await client.push_manifest("a", "v1", cache, OCI_INDEX)
            collector = client.lab.collector(grace=1.0)
            collector.clock = lambda: time.time() + 100
            assert (await collector.collect()).links == 0
            assert (await client.ask("GET", f"/v2/a/blobs/{sha(b'layer')}")).body == b"layer"

    run(test)


def test_refused_manifests(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            await client.push_blob("a", EMPTY)
            data = json.dumps(image())
            for reference, body, status, code in (
                ("v1", "{", 400, "MANIFEST_INVALID"),
                ("v1", b"x" * (5 << 20), 413, "SIZE_INVALID"),
                (sha(b"other"), data, 400, "DIGEST_INVALID"),
                ("sha256:bad", data, 400, "DIGEST_INVALID"),
                ("a" * 129, data, 400, "DIGEST_INVALID"),
                (f"{sha(data.encode())}?tag=-x", data, 400, "MANIFEST_INVALID"),
                (f"{sha(data.encode())}?{'&'.join(f'tag=t{n}' for n in range(60))}", data, 414, "UNSUPPORTED"),
            ):
                answer = await client.ask("PUT", f"/v2/a/manifests/{reference}", data=body)
                assert (answer.status, answer.code) == (status, code)

    run(test)


def test_unknown_manifests_tags_and_repositories(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            assert (await client.ask("GET", "/v2/a/manifests/v1")).code == "NAME_UNKNOWN"
            assert (await client.ask("GET", "/v2/a/tags/list")).code == "NAME_UNKNOWN"
            await client.push_image("a", "v1")
            for method in ("GET", "DELETE"):
                answer = await client.ask(method, "/v2/a/manifests/v2")
                assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
                answer = await client.ask(method, f"/v2/a/manifests/{sha(b'x')}")
                assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")

    run(test)


def test_several_tags_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_image("a", "")
            data = json.dumps(image())
            answer = await client.ask("PUT", f"/v2/a/manifests/{digest}?tag=1&tag=1.2&tag=latest", data=data)
            assert answer.headers.getall("OCI-Tag") == ["1", "1.2", "latest"]
            assert (await client.ask("GET", "/v2/a/tags/list")).json["tags"] == ["1", "1.2", "latest"]

    run(test)


def test_deleting_a_tag_leaves_the_manifest_and_deleting_the_manifest_takes_all_tags(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            digest = await client.push_image("a", "one")
            await client.push_image("a", "two")
            await client.push_image("a", "three")
            assert (await client.ask("DELETE", "/v2/a/manifests/one")).status == 202
            assert (await client.ask("GET", "/v2/a/manifests/one")).status == 404
            assert (await client.ask("GET", f"/v2/a/manifests/{digest}")).status == 200
            assert (await client.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202
            assert (await client.ask("GET", "/v2/a/manifests/two")).status == 404
            assert (await client.ask("GET", "/v2/a/tags/list")).json == {"name": "a", "tags": []}

    run(test)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_tags_in_pages(tmp_path: Path, size: int) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            names = sorted(["b", "B", "_x", "a.1", "a-1", "10", "9"])
            for name in names:
                await client.push_image("a", name)
            found: list[str] = []
            path = f"/v2/a/tags/list?n={size}"
            while path:
                answer = await client.ask("GET", path)
                found += answer.json["tags"]
                link = answer.headers.get("Link", "")
                assert not link or link.endswith('>; rel="next"')
                path = link.partition(">")[0].removeprefix("<")
            assert found == names
            assert (await client.ask("GET", "/v2/a/tags/list?last=_x")).json["tags"] == names[names.index("_x") + 1 :]
            none = await client.ask("GET", "/v2/a/tags/list?n=0")
            assert none.json["tags"] == [] and "Link" not in none.headers
            for wrong in ("-1", "x", "1e3", "9" * 30):
                assert (await client.ask("GET", f"/v2/a/tags/list?n={wrong}")).status == 400

    run(test)


def test_the_catalog_in_pages(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            for name in ("c", "a/b", "b"):
                await client.push_blob(name, b"x")
            answer = await client.ask("GET", "/v2/_catalog?n=2")
            assert answer.json == {"repositories": ["a/b", "b"]}
            following = answer.headers["Link"].partition(">")[0].removeprefix("<")
            assert (await client.ask("GET", following)).json == {"repositories": ["c"]}

    run(test)


def test_referrers_filtered_and_in_pages(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            subject = descriptor(b"not here yet", OCI_MANIFEST)
            url = f"/v2/a/referrers/{subject['digest']}"
            answer = await client.ask("GET", url)
            assert (answer.status, answer.json["manifests"]) == (200, [])
            await client.push_blob("a", EMPTY)
            for kind in ("x/sbom", "x/signature", "x/signature"):
                document = image(subject=subject, artifactType=kind, annotations={"n": os.urandom(4).hex()})
                data = json.dumps(document)
                put = await client.ask("PUT", f"/v2/a/manifests/{sha(data.encode())}", data=data)
                assert put.headers["OCI-Subject"] == subject["digest"]
            pushed = await client.push_manifest("a", "i", index(subject=subject), OCI_INDEX)
            answer = await client.ask("GET", url)
            assert answer.headers["Content-Type"] == OCI_INDEX
            assert len(answer.json["manifests"]) == 4
            [listed] = [item for item in answer.json["manifests"] if item["digest"] == pushed]
            assert listed["mediaType"] == OCI_INDEX and "artifactType" not in listed
            path, found = f"{url}?n=1&artifactType=x/signature", []
            while path:
                answer = await client.ask("GET", path)
                assert answer.headers["OCI-Filters-Applied"] == "artifactType"
                found += answer.json["manifests"]
                path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
            assert [item["artifactType"] for item in found] == ["x/signature"] * 2
            assert all(item["annotations"]["n"] for item in found)
            assert (await client.ask("GET", "/v2/a/referrers/sha256:x")).status == 400

    run(test)


def test_a_page_of_referrers_is_no_larger_than_a_manifest_may_be(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path) as client:
            subject = descriptor(b"subject", OCI_MANIFEST)
            await client.push_blob("a", EMPTY)
            for number in range(3):
                await client.push_manifest(
                    "a", "", image(subject=subject, annotations={"n": str(number), "big": "x" * 1_900_000})
                )
            path, count = f"/v2/a/referrers/{subject['digest']}", 0
            while path:
                answer = await client.ask("GET", path)
                assert len(answer.body) <= 4 << 20
                count += len(answer.json["manifests"])
                path = answer.headers.get("Link", "").partition(">")[0].removeprefix("<")
            assert count == 3

    run(test)
