"""A registry in the test's own event loop, on loopback, and what tests say to it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from wherry.registry.cache import Cache
from wherry.registry.collector import Collector, Policy
from wherry.registry.gate import Gate, OpenGate
from wherry.registry.repositories import Repositories
from wherry.registry.server import ROUTES, RegistryServer
from wherry.registry.storage import FileStorage, Storage
from wherry.registry.upstream import Upstream

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = b"{}"


def sha(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


class Client:
    """Says things to the registry at `base`, and remembers nothing."""

    def __init__(self, session: aiohttp.ClientSession, base: str, lab: Lab) -> None:
        self.session = session
        self.base = base
        self.lab = lab

    async def ask(self, method: str, path: str, **more: Any) -> Answer:
        async with self.session.request(method, self.base + path, allow_redirects=False, **more) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def push_blob(self, repository: str, data: bytes, algorithm: str = "sha256") -> str:
        digest = sha(data, algorithm)
        answer = await self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data=data)
        assert answer.status == 201, answer.body
        return digest

    async def push_manifest(
        self, repository: str, reference: str, document: dict[str, Any], media_type: str = OCI_MANIFEST
    ) -> str:
        data = json.dumps(document).encode()
        reference = reference or sha(data)
        path = f"/v2/{repository}/manifests/{reference}"
        answer = await self.ask("PUT", path, data=data, headers={"Content-Type": media_type})
        assert answer.status == 201, answer.body
        return answer.headers["Docker-Content-Digest"]

    async def push_image(self, repository: str, tag: str, *layers: bytes, **more: Any) -> str:
        for data in (EMPTY, *layers):
            await self.push_blob(repository, data)
        return await self.push_manifest(repository, tag, image(*layers, **more))


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["errors"][0]["code"])


class Lab:
    """What stands behind the server, for tests that look there."""

    def __init__(self, root: Path, storage: Storage | None) -> None:
        self.root = root
        self.repositories = Repositories(str(root), storage or FileStorage(str(root / "blobs")))
        self.log = io.StringIO()

    def collector(self, **policy: Any) -> Collector:
        return Collector(self.repositories, Policy(**policy))


@asynccontextmanager
async def registry(
    root: Path,
    *,
    gate: Gate | None = None,
    proxy: str = "",
    proxy_user: tuple[str, str] = ("", ""),
    storage: Storage | None = None,
    port: int = 0,
    **options: Any,
) -> AsyncIterator[Client]:
    root.mkdir(exist_ok=True)
    lab = Lab(root, storage)
    async with asyncio.TaskGroup() as tasks:
        cache = None
        if proxy:
            upstream = Upstream(proxy, *proxy_user)
            cache = Cache(lab.repositories, upstream, tasks)
            options |= {"routes": cache.routes, "source": upstream.host}
        options.setdefault("routes", ROUTES)
        server = RegistryServer(lab.repositories, gate or OpenGate(), access_log=lab.log, **options)
        runner = web.ServerRunner(server.http(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                yield Client(session, f"http://127.0.0.1:{runner.addresses[0][1]}", lab)
        finally:
            await runner.cleanup()
            if cache is not None:
                cache.stop()
                await upstream.close()
            lab.repositories.close()


def descriptor(data: bytes, media_type: str = "application/octet-stream", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha(data), "size": len(data), **more}


def image(*layers: bytes, config: bytes = EMPTY, **more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
        **more,
    }


def index(*manifests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **more}
