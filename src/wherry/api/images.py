"""Routes of images: list, pull, push, import, load, inspect, tag, remove, prune."""

from __future__ import annotations

from aiohttp import web

from wherry.api import compat
from wherry.api.auth import HEADER, HEADER_OF_SEVERAL, parse_auth, parse_auths
from wherry.api.backend import ImageBackend
from wherry.api.call import Call
from wherry.api.downloads import send_archive
from wherry.api.platforms import as_platform
from wherry.api.progress import stream_progress
from wherry.api.router import Route
from wherry.errors import InvalidArgument
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import is_digest
from wherry.spec.image import Platform


class ImageRoutes:
    def __init__(self, backend: ImageBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("GET", "/images/json", self.list),
            Route("POST", "/images/create", self.create),
            Route("POST", "/images/load", self.load),
            Route("POST", "/images/prune", self.prune),
            Route("GET", "/images/get", self.save),
            Route("GET", "/images/{name}/get", self.save),
            Route("GET", "/images/{name}/attestations", self.attestations),
            Route("GET", "/images/{name}/json", self.inspect),
            Route("GET", "/images/{name}/history", self.history),
            Route("POST", "/images/{name}/tag", self.tag),
            Route("POST", "/images/{name}/push", self.push),
            Route("DELETE", "/images/{name}", self.remove),
            Route("GET", "/wherry/trust", self.trust),
            Route("POST", "/wherry/fsck", self.fsck),
        ]

    async def list(self, call: Call) -> web.StreamResponse:
        filters = call.filters()
        if call.version < (1, 25) and call.text("filter") and "reference" not in filters:
            filters["reference"] = [call.text("filter")]
        manifests = call.version >= (1, 47) and call.flag("manifests")
        identity = call.version >= (1, 54) and call.flag("identity")
        if identity and not manifests:
            raise InvalidArgument("conflicting options: identity requires manifests=1")
        images = await self._backend.list(
            all=call.flag("all"),
            filters=filters,
            manifests=manifests,
            identity=identity,
            shared_size=call.version >= (1, 42) and call.flag("shared-size"),
        )
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
        if not source:
            raise InvalidArgument("one of fromImage and fromSrc must be given")
        archive = call.stream_body() if source == "-" else source

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
        """`referrers` is wherry's own parameter."""
        auth = parse_auth(call.http.headers.get(HEADER, ""))
        platform, referrers = _platform(call, since=(1, 46)), call.flag("referrers")

        async def push(progress: ProgressSink) -> None:
            await self._backend.push(
                call.name,
                call.text("tag"),
                platform=str(platform) if platform else None,
                referrers=referrers,
                auth=auth,
                progress=progress,
            )

        return await stream_progress(call, push)

    async def load(self, call: Call) -> web.StreamResponse:
        archive, quiet, platforms = call.stream_body(), call.flag("quiet", default=True), _platforms(call)

        async def load(progress: ProgressSink) -> None:
            await self._backend.load(archive, quiet=quiet, platforms=platforms, progress=progress)

        return await stream_progress(call, load)

    async def save(self, call: Call) -> web.StreamResponse:
        names = [call.name] if call.name else call.texts("names")
        return await send_archive(call, await self._backend.save(names, platforms=_platforms(call)))

    async def inspect(self, call: Call) -> web.StreamResponse:
        image = await self._backend.inspect(
            call.name,
            platform=_platform(call, since=(1, 49)),
            manifests=call.version >= (1, 48) and call.flag("manifests"),
        )
        return call.answer(compat.image_inspect(image, call.version))

    async def history(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.history(call.name, platform=_platform(call, since=(1, 48))))

    async def attestations(self, call: Call) -> web.StreamResponse:
        found = await self._backend.attestations(
            call.name,
            platform=_platform(call, since=(1, 24)),
            types=call.texts("type"),
            statement=call.flag("statement"),
        )
        return call.answer(found)

    async def trust(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.trust(call.text("image")))

    async def fsck(self, call: Call) -> web.StreamResponse:
        repair = call.flag("repair")
        auths = parse_auths(call.http.headers.get(HEADER_OF_SEVERAL, ""))
        return await stream_progress(
            call, lambda progress: self._backend.fsck(repair=repair, auths=auths, progress=progress)
        )

    async def tag(self, call: Call) -> web.StreamResponse:
        repository = call.text("repo")
        if not repository:
            raise InvalidArgument("repo must be given")
        await self._backend.tag(call.name, repository, call.text("tag"))
        return call.empty(201)

    async def remove(self, call: Call) -> web.StreamResponse:
        if not call.name.strip():
            raise InvalidArgument("image name cannot be blank")
        removed = await self._backend.remove(
            call.name,
            force=call.flag("force"),
            prune_parents=not call.flag("noprune"),
            platforms=[as_platform(text) for text in call.texts("platforms")] if call.version >= (1, 50) else [],
        )
        return call.answer(removed)

    async def prune(self, call: Call) -> web.StreamResponse:
        return call.answer(await self._backend.prune(call.filters()))


def _platform(call: Call, *, since: tuple[int, int]) -> Platform | None:
    """The one platform that the request names, in a version of the API that knows the parameter."""
    texts = [text for text in call.texts("platform") if text] if call.version >= since else []
    if len(texts) > 1:
        raise InvalidArgument("only one platform can be given")
    return as_platform(texts[0]) if texts else None


def _platforms(call: Call) -> list[Platform]:
    return [as_platform(text) for text in call.texts("platform") if text] if call.version >= (1, 48) else []


def with_tag(name: str, tag: str) -> str:
    """The reference that `fromImage` and `tag` mean together; the tag may be a digest. Its form is the backend's to check."""
    if not tag:
        return name
    return f"{name}@{tag}" if is_digest(tag) else f"{name}:{tag}"
