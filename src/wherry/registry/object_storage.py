"""Blobs in an object store, through fsspec: whatever it has a driver for (S3, GCS, Azure, SFTP …; each is a package of its own to install).

**Invariant**: a blob's name appears in the store only through one `put` of the whole file, which object stores do at once or not at all; should
another store leave a part, its size is wrong, and the index has not recorded it: it is written again, or collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from wherry.errors import FailedPrecondition, InvalidArgument, NotFound
from wherry.registry.storage import OpenBlob
from wherry.spec.ids import Digest, is_digest


class ObjectStorage:
    """`url`: s3://bucket/prefix and the like; `options` go to fsspec's driver, which finds credentials as it documents."""

    is_local = False

    def __init__(self, url: str, **options: Any) -> None:
        try:
            import fsspec
        except ImportError:
            raise FailedPrecondition(
                "--storage needs the package fsspec: pip install 'wherry[object-storage]'"
            ) from None
        try:
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise InvalidArgument(f"--storage {url}: {error}") from None
        self._root = root.rstrip("/")

    def _path(self, digest: Digest) -> str:
        algorithm, _, encoded = digest.partition(":")
        return f"{self._root}/{algorithm}/{encoded[:2]}/{encoded}"

    def size(self, digest: Digest) -> int | None:
        try:
            return int(self._files.info(self._path(digest))["size"])
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> OpenBlob:
        size = self.size(digest)
        if size is None:
            raise NotFound(f"blob {digest}: not found")
        return ObjectBlob(self._files, self._path(digest), size)

    def keep(self, path: str, digest: Digest) -> None:
        target = self._path(digest)
        self._files.makedirs(os.path.dirname(target), exist_ok=True)
        self._files.put_file(path, target)
        os.unlink(path)

    def remove(self, digest: Digest) -> None:
        try:
            self._files.rm_file(self._path(digest))
        except FileNotFoundError:
            pass

    def __iter__(self) -> Iterator[Digest]:
        try:
            paths = self._files.find(self._root)
        except FileNotFoundError:
            return
        for path in paths:
            algorithm, _, encoded = path.removeprefix(self._root).strip("/").rpartition("/")
            digest = f"{algorithm.partition('/')[0]}:{encoded}"
            if is_digest(digest):
                yield Digest(digest)


class ObjectBlob:
    """Read by ranges; each is a request to the store."""

    fd: int | None = None

    def __init__(self, files: Any, path: str, size: int) -> None:
        self._files = files
        self._path = path
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._files.cat_file(self._path, start=offset, end=min(offset + count, self.size)))

    def close(self) -> None:
        return None
