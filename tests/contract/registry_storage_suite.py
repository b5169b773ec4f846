"""What every place for a registry's blobs must do (`wherry.registry.storage.Storage`); a driver's test class inherits it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from wherry.errors import NotFound
from wherry.registry.storage import Storage
from wherry.spec.ids import Digest


class StorageSuite:
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        raise NotImplementedError

    def keep(self, storage: Storage, tmp_path: Path, data: bytes) -> Digest:
        digest = Digest("sha256:" + sha256(data).hexdigest())
        path = tmp_path / "new"
        path.write_bytes(data)
        storage.keep(str(path), digest)
        assert not path.exists()
        return digest

    def test_what_was_kept_is_read_back(self, storage: Storage, tmp_path: Path) -> None:
        data = bytes(range(256)) * 1000
        digest = self.keep(storage, tmp_path, data)
        assert storage.size(digest) == len(data)
        blob = storage.open(digest)
        assert blob.size == len(data)
        assert blob.read(0, len(data)) == data
        assert blob.read(1000, 10) == data[1000:1010]
        assert blob.read(len(data) - 1, 10) == data[-1:]
        assert blob.read(len(data), 10) == b""
        blob.close()

    def test_an_empty_blob_is_a_blob(self, storage: Storage, tmp_path: Path) -> None:
        digest = self.keep(storage, tmp_path, b"")
        assert storage.size(digest) == 0
        assert list(storage) == [digest]

    def test_keeping_again_replaces(self, storage: Storage, tmp_path: Path) -> None:
        digest = self.keep(storage, tmp_path, b"data")
        assert self.keep(storage, tmp_path, b"data") == digest
        assert list(storage) == [digest]

    def test_what_is_not_there(self, storage: Storage) -> None:
        digest = Digest("sha512:" + "0" * 128)
        assert storage.size(digest) is None
        with pytest.raises(NotFound):
            storage.open(digest)
        storage.remove(digest)
        assert list(storage) == []

    def test_what_is_removed_is_gone(self, storage: Storage, tmp_path: Path) -> None:
        first = self.keep(storage, tmp_path, b"first")
        second = self.keep(storage, tmp_path, b"second")
        assert set(storage) == {first, second}
        storage.remove(first)
        assert storage.size(first) is None
        assert list(storage) == [second]
