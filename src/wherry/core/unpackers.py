"""wherryd's side of the unpack workers: a few processes, started when there is something to unpack, gone when there has been nothing for a while.

Layers are unpacked at the same time, each by one worker, also while they are still being downloaded (`Growing`); small ones by a thread
(`small_layers`).
**Invariant**: `unpack` returns when nobody touches the target directory any more, also when it is cancelled (the worker is killed then).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from wherry import errors
from wherry.core.cancellation import thread_to_the_end, to_the_end
from wherry.core.layer_form import LayerForm
from wherry.core.small_layers import MAX_BLOB, unpack_if_small
from wherry.core.unpack import Unpacked
from wherry.errors import Internal, WherryError
from wherry.spec.ids import Digest
from wherry.wire.fastjson import dumps, loads

IDLE_SECONDS = 1.0
_MAX_LINE = 16 << 20
_START = "import sys; sys.path[:] = sys.argv[1:]; from wherry.core.unpack_worker import main; main()"


class Growing:
    """How much of a blob's file is there, of the `size` bytes that are to come; told by who downloads it, awaited by who unpacks it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.available = 0
        self.complete = False
        self.failed = False
        self._changed = asyncio.Event()
        self._begun = asyncio.Event()

    async def begun(self) -> None:
        """Until there is something to unpack, or an end."""
        await self._begun.wait()

    async def ended(self) -> None:
        while not (self.complete or self.failed):
            await self.changed()

    def advance(self, available: int) -> None:
        self.available = available
        self._notify()

    def finish(self) -> None:
        self.complete = True
        self._notify()

    def fail(self) -> None:
        """What was downloaded is not to be used."""
        self.failed = True
        self._notify()

    def _notify(self) -> None:
        self._begun.set()
        self._changed.set()

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()


class Unpackers:
    """`limit` workers at most work at the same time; further layers wait."""

    def __init__(self, limit: int | None = None, form: LayerForm = LayerForm.TREE) -> None:
        self._form = form
        self._slots = asyncio.Semaphore(limit or min(max(os.cpu_count() or 1, 2), 4))
        self._idle: list[_Worker] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._warming = False

    async def _warm_up(self) -> None:
        """Starts a worker while the first bytes are awaited, unless there is an idle one, or as many as may work."""
        if self._idle or self._warming or self._slots.locked():
            return
        self._warming = True
        try:
            self._idle.append(await _Worker.start())
        finally:
            self._warming = False
        self._expire_later()

    async def unpack(
        self,
        blob: str,
        target: str,
        diff_id: Digest,
        *,
        growing: Growing | None = None,
        on_consumed: Callable[[int], None] | None = None,
    ) -> Unpacked:
        """Unpacks the file `blob` into the directory `target`. Errors as `unpack.unpack_layer`; Internal when `growing` has failed.

        `on_consumed` is told how many bytes of the blob have been unpacked so far.
        """
        if (growing.size if growing else os.stat(blob).st_size) <= MAX_BLOB:
            if growing:
                await growing.ended()
                if growing.failed:
                    raise Internal("aborted")
            small = await thread_to_the_end(unpack_if_small, self._form, blob, target, diff_id)
            if small is not None:
                return small
        elif growing:
            await self._warm_up()
            await growing.begun()
        async with self._slots:
            worker = self._idle.pop() if self._idle else await _Worker.start()
            try:
                answer = await worker.run(blob, target, self._form, diff_id, growing, on_consumed or (lambda _: None))
            except BaseException:
                await worker.kill()
                raise
            self._idle.append(worker)
            self._expire_later()
        if "ok" in answer:
            found = answer["ok"]
            return Unpacked(found["size"], found["entries"], [os.fsencode(path) for path in found["implied"]])
        raise _error(answer["error"])

    def _expire_later(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        while self._idle:
            self._idle.pop().dismiss()

    async def close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        while self._idle:
            await self._idle.pop().kill()


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    @classmethod
    async def start(cls) -> _Worker:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            _START,
            *(path for path in sys.path if os.path.isabs(path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            start_new_session=True,
        )
        return cls(process)

    async def run(
        self,
        blob: str,
        target: str,
        form: LayerForm,
        diff_id: Digest,
        growing: Growing | None,
        on_consumed: Callable[[int], None],
    ) -> dict[str, Any]:
        job = {
            "blob": blob,
            "target": target,
            "form": form,
            "diff_id": diff_id,
            "available": growing.available if growing else os.stat(blob).st_size,
            "complete": growing.complete if growing else True,
        }
        self._send(job)
        if growing is None or job["complete"]:
            return await self._receive(on_consumed)
        failure: WherryError | None = None
        answer: dict[str, Any] = {}
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._feed(growing))
            try:
                answer = await self._receive(on_consumed)
            except WherryError as error:
                failure = error  # outside of the group, which would wrap it
            if not feeding.done():
                feeding.cancel()
                self._send({"abort": True})  # answered before it had everything: an error
        if failure is not None:
            raise failure
        return answer

    async def _feed(self, growing: Growing) -> None:
        while True:
            if growing.failed:
                self._send({"abort": True})
                return
            self._send({"available": growing.available, "complete": growing.complete})
            if growing.complete:
                return
            with contextlib.suppress(ConnectionError):  # it has died: `_receive` notices
                await self._stdin.drain()
            await growing.changed()

    def _send(self, message: dict[str, Any]) -> None:
        self._stdin.write(dumps(message) + b"\n")

    async def _receive(self, on_consumed: Callable[[int], None]) -> dict[str, Any]:
        while True:
            line = await self._stdout.readline()
            if not line:
                status = await self._process.wait()
                raise Internal(f"the process that unpacks layers ended (status {status})")
            message = loads(line)
            assert isinstance(message, dict)
            if "consumed" not in message:
                return message
            on_consumed(message["consumed"])

    def dismiss(self) -> None:
        """It ends by itself at the end of its input; the loop's child watcher reaps it."""
        self._stdin.close()

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await to_the_end(self._process.wait())


def _error(answer: dict[str, Any]) -> WherryError:
    kind = getattr(errors, answer["kind"], Internal)
    if not (isinstance(kind, type) and issubclass(kind, WherryError)) or kind in (
        errors.SyscallError,
        errors.StartError,
    ):
        kind = Internal
    return kind(answer["message"])
