"""Docker's progress stream: one JSON object a line, from work that must never wait for the client that watches it.

**Invariants**: the status line is sent with the first report that reaches the client, so an error until then has a status of its own, and one
after it is the stream's last object (`errorDetail`). What waits for a slow client is bounded: beyond `BUFFER_LIMIT` the bars' movements are
dropped, the words never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from wherry.api.call import Call, encode_line
from wherry.api.errors import message_of, status_of
from wherry.spec.calls import Json, ProgressSink

BUFFER_LIMIT = 256 << 10


class _Reports:
    """What is reported and not yet sent."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0
        self.ready = asyncio.Event()

    def add(self, report: Json) -> None:
        if self._size > BUFFER_LIMIT and report.get("progressDetail"):
            return
        line = encode_line(report)
        self._lines.append(line)
        self._size += len(line)
        self.ready.set()

    def take(self) -> bytes:
        taken = b"".join(self._lines)
        self._lines.clear()
        self._size = 0
        self.ready.clear()
        return taken


async def stream_progress(call: Call, work: Callable[[ProgressSink], Awaitable[None]]) -> web.StreamResponse:
    """Run `work` and send what it reports. The work is cancelled when the client goes away."""
    reports = _Reports()
    response: web.StreamResponse | None = None
    failure: Exception | None = None
    done = gone = False

    async def attempt() -> None:
        nonlocal done, failure
        try:
            await work(reports.add)
        except Exception as error:
            failure = error
        finally:
            done = True
            reports.ready.set()

    with call.cancelled_when_gone():
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(attempt())
                while not done:
                    await reports.ready.wait()
                    lines = reports.take()
                    if failure is not None and response is None:
                        break
                    if lines:
                        response = response or await call.stream()
                        await response.write(lines)
        except* ConnectionError:
            gone = True  # raised here, it would be wrapped in a group, which nobody takes for what it is
    if gone:
        raise ConnectionResetError("the client is gone")
    lines = reports.take()
    if failure is not None and response is None:
        raise failure
    response = response or await call.stream()
    if failure is not None:
        lines += encode_line(_last_words(failure))
    await response.write_eof(lines)
    return response


def _last_words(failure: Exception) -> Json:
    message, status = message_of(failure), status_of(failure)
    detail: Json = {"message": message} if status == 500 else {"code": status, "message": message}
    return {"errorDetail": detail, "error": message}
