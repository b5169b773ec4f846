"""Images as far as core has them, until the engine's image objects are here: load, list, look. The rest refuses by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from wherry import errors
from wherry.core.archive import Archives
from wherry.core.images import Image, Images
from wherry.core.layers import LayerWork
from wherry.core.unpackers import Unpackers
from wherry.spec.calls import Filters, Json, JsonList, Names, ProgressSink, RegistryAuth


class InterimImages:
    def __init__(self, images: Images) -> None:
        self._images = images
        self._unpackers = Unpackers()
        self._archives = Archives(images, self._unpackers, LayerWork(images.snapshots))

    async def close(self) -> None:
        await self._unpackers.close()

    async def list(self, *, all: bool, digests: bool, filters: Filters) -> JsonList:
        return [_summary(image) for image in self._images.list()]

    async def inspect(self, ref: str) -> Json:
        image = self._images.get(ref)
        return {
            **_summary(image),
            "Config": dict(image.run),
            "Os": "linux",
            "Architecture": image.platform.architecture,
        }

    async def history(self, ref: str) -> JsonList:
        raise errors.NotImplemented("wherry does not support image history yet")

    async def tag(self, ref: str, repository: str, tag: str) -> None:
        raise errors.NotImplemented("wherry does not support tag yet")

    async def remove(self, ref: str, *, force: bool, prune_parents: bool) -> JsonList:
        raise errors.NotImplemented("wherry does not support the removal of images yet")

    async def prune(self, filters: Filters) -> Json:
        raise errors.NotImplemented("wherry does not support the pruning of images yet")

    async def pull(self, reference: str, *, platform: str | None, auth: RegistryAuth, progress: ProgressSink) -> None:
        raise errors.NotImplemented("wherry does not support pull yet")

    async def load(self, archive: AsyncIterator[bytes], *, quiet: bool, progress: ProgressSink) -> None:
        await self._archives.load(archive, progress, quiet=quiet)

    async def import_(
        self,
        archive: AsyncIterator[bytes] | str,
        *,
        repository: str,
        tag: str,
        message: str,
        changes: Names,
        platform: str | None,
        progress: ProgressSink,
    ) -> None:
        raise errors.NotImplemented("wherry does not support import yet")


def _summary(image: Image) -> dict[str, Any]:
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": 0,
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.run.get("Labels"),
        "Containers": -1,
    }
