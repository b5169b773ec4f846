"""Routes of a container's streams: attach, logs, wait, stats.

**Invariant**: what these answer over time they stop producing when the client goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from aiohttp import web

from wherry.api.backend import ContainerBackend
from wherry.api.call import Call, encode_line
from wherry.api.detach import parse_keys
from wherry.api.hijack import hijack, stream_type
from wherry.api.router import Route
from wherry.errors import InvalidArgument, NotFound
from wherry.spec.calls import AttachOptions, Json, LogOptions

STATS_SECONDS = 1.0
"""Docker's period between two samples."""
CONDITIONS = frozenset({"", "not-running", "next-exit", "removed"})

_Item = TypeVar("_Item")


class ContainerStreamRoutes:
    def __init__(self, backend: ContainerBackend) -> None:
        self._backend = backend

    def table(self) -> list[Route]:
        return [
            Route("POST", "/containers/{id}/attach", self.attach),
            Route("GET", "/containers/{id}/logs", self.logs),
            Route("POST", "/containers/{id}/wait", self.wait),
            Route("GET", "/containers/{id}/stats", self.stats),
        ]

    async def attach(self, call: Call) -> web.StreamResponse:
        options = AttachOptions(
            stream=call.flag("stream"),
            logs=call.flag("logs"),
            stdin=call.flag("stdin"),
            stdout=call.flag("stdout"),
            stderr=call.flag("stderr"),
        )
        keys = call.text("detachKeys")
        parse_keys(keys)
        stream = await self._backend.attach(call.name, options)
        return await hijack(call, stream, stdin=options.stream and options.stdin, detach_keys=keys)

    async def logs(self, call: Call) -> web.StreamResponse:
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not stdout and not stderr:
            raise InvalidArgument("Bad parameters: you must choose at least one stream")
        options = LogOptions(
            stdout=stdout,
            stderr=stderr,
            follow=call.flag("follow"),
            timestamps=call.flag("timestamps"),
            tail=_tail(call.text("tail")),
            since_ns=call.timestamp("since"),
            until_ns=call.timestamp("until") or None,
            details=call.flag("details"),
        )
        stream = await self._backend.logs(call.name, options)
        async with closing(stream.chunks) as chunks:
            with call.cancelled_when_gone():
                response = await call.stream(stream_type(call, multiplexed=stream.multiplexed))
                async for chunk in chunks:
                    await response.write(chunk)
        return response

    async def wait(self, call: Call) -> web.StreamResponse:
        condition = call.text("condition")
        if condition not in CONDITIONS:
            raise InvalidArgument(f'invalid condition: "{condition[:128]}"')
        pending = await self._backend.wait(call.name, condition)
        with call.cancelled_when_gone():
            if call.version < (1, 30):
                result = await pending
                return call.answer({"StatusCode": result.status_code})
            response = await call.stream()
            result = await pending
        answer: Json = {"StatusCode": result.status_code}
        if result.error is not None:
            answer["Error"] = {"Message": result.error}
        await response.write_eof(encode_line(answer))
        return response

    async def stats(self, call: Call) -> web.StreamResponse:
        streaming = call.flag("stream", default=True)
        one_shot = call.version >= (1, 41) and call.flag("one-shot")
        if streaming and one_shot and "stream" in call.query:
            raise InvalidArgument("cannot have stream=true and one-shot=true")
        before = await self._backend.stats(call.name)
        if one_shot:
            return call.answer(with_previous(before, None))
        with call.cancelled_when_gone():
            if not streaming:
                await asyncio.sleep(STATS_SECONDS)
                return call.answer(with_previous(await self._backend.stats(call.name), before))
            response = await call.stream()
            await response.write(encode_line(with_previous(before, None)))
            while True:
                await asyncio.sleep(STATS_SECONDS)
                try:
                    sample = await self._backend.stats(call.name)
                except NotFound:  # removed meanwhile
                    return response
                await response.write(encode_line(with_previous(sample, before)))
                before = sample


def with_previous(sample: Json, before: Json | None) -> Json:
    """The sample with the processor times of the one before it, from which clients compute the share in between."""
    return {
        **sample,
        "preread": "0001-01-01T00:00:00Z" if before is None else before.get("read", "0001-01-01T00:00:00Z"),
        "precpu_stats": {} if before is None else before.get("cpu_stats", {}),
    }


def _tail(text: str) -> int | None:
    """As Docker: a number of lines; "all", and anything else, is everything."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


@asynccontextmanager
async def closing(items: AsyncIterator[_Item]) -> AsyncIterator[AsyncIterator[_Item]]:
    """The iterator; closed at the end if it can be."""
    try:
        yield items
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
