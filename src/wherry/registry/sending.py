"""A blob to a client: ranges, conditions, and the bytes by sendfile(2) where a file goes out in the clear.

sendfile runs in threads in bursts that end when the socket is full, so that neither a cold disk nor a slow client stops the loop or holds a thread.
Source: RFC 9110 §13 (conditions), §14 (ranges). Deliberately absent: several ranges in one answer (the whole is sent then, as §14.2 allows).
"""

from __future__ import annotations

import asyncio
import os
import re

from aiohttp import web

from wherry.errors import DataLoss, DeadlineExceeded
from wherry.registry.call import IDLE_SECONDS, PIECE, Call
from wherry.registry.storage import OpenBlob
from wherry.spec.ids import Digest

BURST = 16 << 20
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*\Z", re.IGNORECASE)


class Unsatisfiable(Exception):
    """A range that the blob does not have."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(first byte, byte after the last) that a Range header means; None for the whole blob. Unsatisfiable."""
    matched = _RANGE.match(header) if header else None
    if matched is None or not (matched[1] or matched[2]):
        return None
    if not matched[1]:
        count = int(matched[2])
        if not count or not size:
            raise Unsatisfiable
        return max(size - count, 0), size
    start, end = int(matched[1]), min(int(matched[2]) + 1 if matched[2] else size, size)
    if start >= end:
        raise Unsatisfiable
    return start, end


def is_unchanged(header: str | None, digest: Digest) -> bool:
    """Whether If-None-Match names this content."""
    if not header:
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")}
    return digest in tags or "*" in tags


async def send_blob(call: Call, blob: OpenBlob, digest: Digest) -> web.StreamResponse:
    """The answer to a GET, sent. The caller closes the blob."""
    asked = call.http.headers
    headers = blob_headers(call, digest)
    if is_unchanged(asked.get("If-None-Match"), digest):
        return web.Response(status=304, headers=headers)
    wanted = asked.get("Range") if asked.get("If-Range", f'"{digest}"') == f'"{digest}"' else None
    try:
        part = parse_range(wanted, blob.size)
    except Unsatisfiable:
        return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{blob.size}"})
    start, end = part or (0, blob.size)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    response = web.StreamResponse(status=206 if part is not None else 200, headers=headers)
    response.content_length = end - start
    await send(call, response, blob, start, end)
    return response


def blob_headers(call: Call, digest: Digest) -> dict[str, str]:
    return call.headers(
        Content_Type="application/octet-stream",
        Docker_Content_Digest=digest,
        Etag=f'"{digest}"',
        Accept_Ranges="bytes",
        Cache_Control="max-age=31536000",
    )


async def send(call: Call, response: web.StreamResponse, blob: OpenBlob, start: int, end: int) -> None:
    """The headers, and the blob's bytes from `start` to before `end`."""
    transport = call.http.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    if blob.fd is None or transport.get_extra_info("sslcontext") is not None:
        await response.prepare(call.http)
        await _copy(response, blob, start, end)
    else:
        transport.set_write_buffer_limits(0)  # so that draining means that the headers are in the socket
        await response.prepare(call.http)
        await _taken(call.http)
        await _sendfile(transport.get_extra_info("socket").fileno(), blob.fd, start, end)
        if not transport.is_closing():  # a client that has gone by now took all it asked for
            transport.set_write_buffer_limits()
    await response.write_eof()


async def _copy(response: web.StreamResponse, blob: OpenBlob, start: int, end: int) -> None:
    while start < end:
        piece = await asyncio.to_thread(blob.read, start, min(PIECE, end - start))
        if not piece:
            raise DataLoss("a blob is shorter than it was")
        await write(response, piece)
        start += len(piece)


async def write(response: web.StreamResponse, piece: bytes) -> None:
    """DeadlineExceeded when the client takes nothing for too long."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            await response.write(piece)
    except TimeoutError:
        raise DeadlineExceeded("the client has stopped reading") from None


async def _taken(http: web.BaseRequest) -> None:
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            await http.protocol._drain_helper()
    except TimeoutError:
        raise DeadlineExceeded("the client has stopped reading") from None


async def _sendfile(socket: int, file: int, start: int, end: int) -> None:
    loop = asyncio.get_running_loop()
    socket = os.dup(socket)  # its own number, so that the loop takes a second watcher, and nobody closes it meanwhile
    try:
        while True:
            start = await loop.run_in_executor(None, _burst, socket, file, start, end)
            if start >= end:
                return
            await _writable(loop, socket)
    finally:
        os.close(socket)


def _burst(socket: int, file: int, start: int, end: int) -> int:
    """Sends until the socket is full; → where it stopped."""
    stop = min(end, start + BURST)
    while start < stop:
        try:
            sent = os.sendfile(socket, file, start, stop - start)
        except BlockingIOError:
            break
        if sent == 0:
            raise DataLoss("a blob is shorter than it was")
        start += sent
    return start


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _writable(loop: asyncio.AbstractEventLoop, socket: int) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(socket, _resolve, ready)
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            await ready
    except TimeoutError:
        raise DeadlineExceeded("the client has stopped reading") from None
    finally:
        loop.remove_writer(socket)
