"""Routes of images: list, pull, push, import, load, inspect, tag, remove, prune."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from wherry import errors
from wherry.api import compat
from wherry.api.auth import HEADER, parse_auth
from wherry.api.backend import ImageBackend
from wherry.api.call import Call
from wherry.api.progress import stream_progress
from wherry.api.router import Route
from wherry.errors import InvalidArgument
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import is_digest
from wherry.spec.image import platform_from_json


class ImageRoutes:
    def __init__(self, backend: ImageBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/images/json", self.list),
            Route("POST", "/images/create", self.create),
            Route("POST", "/images/load", self.load),
            Route("POST", "/images/prune", self.prune),
            Route("GET", "/images/{name}/json", self.inspect),
            Route("GET", "/images/{name}/history", self.history),
            Route("POST", "/images/{name}/tag", self.tag),
            Route("POST", "/images/{name}/push", self.push),
            Route("DELETE", "/images/{name}", self.remove),
        ]

    async def list(self, call: Call) -> web.StreamResponse:
        if call.version >= (1, 47) and call.flag("manifests"):
            raise compat.unsupported_parameter("manifests")
        filters = call.filters()
        if call.version < (1, 25) and call.text("filter") and "reference" not in filters:
            filters["reference"] = [call.text("filter")]
        images = await self._backend.list(all=call.flag("all"), digests=call.flag("digests"), filters=filters)
        return call.answer(compat.image_list(images, call.version))

    async def create(self, call: Call) -> web.StreamResponse:
        """Pull with `fromImage`, import with `fromSrc`."""
        platform = (call.text("platform") or None) if call.version >= (1, 32) else None
        name = call.text("fromImage").removesuffix(":")
        if not name:
            return await self._import(call, platform)
        reference = with_tag(name, call.text("tag"))
        auth = parse_auth(call.http.headers.get(HEADER, ""))

        async def pull(progress: ProgressSink) -> None:
            await self._backend.pull(reference, platform=platform, auth=auth, progress=progress)

        return await stream_progress(call, pull)

    async def _import(self, call: Call, platform: str | None) -> web.StreamResponse:
        source = call.text("fromSrc")
        if source != "-":
            if not source:
                raise InvalidArgument("one of fromImage and fromSrc must be given")
            raise errors.NotImplemented(
                "wherry does not support import from a URL yet; send the archive itself (fromSrc=-)"
            )
        archive = call.stream_body()

        async def import_(progress: ProgressSink) -> None:
            await self._backend.import_(
                archive,
                repository=call.text("repo"),
                tag=call.text("tag"),
                message=call.text("message") or f"Imported from {source}",
                changes=call.texts("changes"),
                platform=platform,
                progress=progress,
            )

        return await stream_progress(call, import_)

    async def push(self, call: Call) -> web.StreamResponse:
        auth = parse_auth(call.http.headers.get(HEADER, ""))
        platform = _platform_text(call.text("platform")) if call.version >= (1, 46) else None

        async def push(progress: ProgressSink) -> None:
            await self._backend.push(call.name, call.text("tag"), platform=platform, auth=auth, progress=progress)

        return await stream_progress(call, push)

    async def load(self, call: Call) -> web.StreamResponse:
        if call.version >= (1, 48) and call.text("platform"):
            raise compat.unsupported_parameter("platform")
        archive, quiet = call.stream_body(), call.flag("quiet", default=True)

        async def load(progress: ProgressSink) -> None:
            await self._backend.load(archive, quiet=quiet, progress=progress)

        return await stream_progress(call, load)

    async def inspect(self, call: Call) -> web.StreamResponse:
        if call.version >= (1, 48) and call.flag("manifests"):
            raise compat.unsupported_parameter("manifests")
        if call.version >= (1, 49) and call.text("platform"):
            raise compat.unsupported_parameter("platform")
        return call.answer(compat.image_inspect(await self._backend.inspect(call.name), call.version))

    async def history(self, call: Call) -> web.StreamResponse:
        if call.version >= (1, 48) and call.text("platform"):
            raise compat.unsupported_parameter("platform")
        return call.answer(await self._backend.history(call.name))

    async def tag(self, call: Call) -> web.StreamResponse:
        repository = call.text("repo")
        if not repository:
            raise InvalidArgument("repo must be given")
        await self._backend.tag(call.name, repository, call.text("tag"))
        return call.empty(201)

    async def remove(self, call: Call) -> web.StreamResponse:
        if not call.name.strip():
            raise InvalidArgument("image name cannot be blank")
        if call.version >= (1, 50) and call.texts("platforms"):
            raise compat.unsupported_parameter("platforms")
        removed = await self._backend.remove(
            call.name, force=call.flag("force"), prune_parents=not call.flag("noprune")
        )
        return call.answer(removed)

    async def prune(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.prune(call.filters()))


def _platform_text(encoded: str) -> str | None:
    """A platform in the API's JSON form, {"os": …, "architecture": …, "variant": …}, as "os/architecture/variant"."""
    if not encoded:
        return None
    try:
        value = msgspec.json.decode(encoded.encode(), type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        raise InvalidArgument("failed to parse platform: it must be a JSON object") from None
    return str(platform_from_json(value, "platform"))


def with_tag(name: str, tag: str) -> str:
    """The reference that `fromImage` and `tag` mean together; the tag may be a digest. Its form is the backend's to check."""
    if not tag:
        return name
    return f"{name}@{tag}" if is_digest(tag) else f"{name}:{tag}"
