from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.registry_storage_suite import StorageSuite
from tests.unit.registry.lab import registry, run
from wherry.errors import InvalidArgument
from wherry.registry.object_storage import ObjectStorage
from wherry.registry.storage import FileStorage, Storage


class TestFileStorage(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return FileStorage(str(tmp_path / "blobs"))


class TestObjectStorageInMemory(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return ObjectStorage(f"memory://{uuid4()}/blobs")


class TestObjectStorageInFiles(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return ObjectStorage(f"file://{tmp_path}/blobs")


def test_a_registry_on_an_object_store(tmp_path: Path) -> None:
    async def test() -> None:
        storage = ObjectStorage(f"memory://{uuid4()}")
        data = b"x" * 3_000_000
        async with registry(tmp_path, storage=storage) as client:
            digest = await client.push_blob("a", data)
            assert (await client.ask("GET", f"/v2/a/blobs/{digest}")).body == data
            answer = await client.ask("GET", f"/v2/a/blobs/{digest}", headers={"Range": "bytes=5-"})
            assert answer.body == data[5:]
            await client.ask("DELETE", f"/v2/a/blobs/{digest}")
            await client.lab.collector(grace=0).collect()
            assert list(storage) == []

    run(test)


def test_a_store_that_fsspec_does_not_know_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="nonsense"):
        ObjectStorage("nonsense://x")
