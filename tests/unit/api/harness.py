"""A served API on a real socket, and a raw client: the tests speak HTTP byte by byte where bytes matter."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from tests.unit.api.fake_backends import Fakes

from wherry.api.routes import build_api


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Client:
    """One connection. `request` reads the whole answer; `send` and `head` take the steps singly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, method: str, target: str, body: bytes | None = None, **headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: docker"]
        if body is not None:
            headers.setdefault("Content_Type", "application/json")
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + (body or b""))
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in raw[1:] if line)
        return int(raw[0].split(" ")[1]), {name.lower(): value for name, value in headers.items()}

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; b"" at its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self, method: str = "GET") -> Answer:
        status, headers = await self.head()
        body = b""
        if method == "HEAD" or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                body += piece
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        await self.send(method, target, body, **headers)
        return await self.answer(method)

    def close(self) -> None:
        self.writer.close()


class Served:
    def __init__(self, fakes: Fakes, path: str) -> None:
        self.fakes = fakes
        self.path = path
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self._clients.append(client)
        return client

    async def request(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        return await (await self.connect()).request(method, target, body, **headers)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    fakes = Fakes()
    http = build_api(fakes.backends).server()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "api.sock")
        listener = await asyncio.get_running_loop().create_unix_server(http, path)
        serving = Served(fakes, path)
        try:
            yield serving
        finally:
            fakes.close()
            serving.close()
            listener.close()
            await http.shutdown(1)


def run(scenario: Callable[[Served], Awaitable[None]]) -> None:
    """Run the scenario against a served API, on the event loop that wherryd uses."""

    async def main() -> None:
        async with served() as serving:
            async with asyncio.timeout(300):
                await scenario(serving)

    uvloop.run(main())


async def settled(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until the condition holds (the test's own timeout ends a wait in vain)."""
    while not condition():
        await asyncio.sleep(0)


Scenario = Callable[[Served], Coroutine[Any, Any, None]]
