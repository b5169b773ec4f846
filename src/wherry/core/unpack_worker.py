"""The process that unpacks layers for wherryd, so that neither its event loop nor its memory depend on what a tar holds.

Started by `unpackers` with its standard input and output as a channel of JSON lines; one job at a time:

    ← {"blob": path, "target": directory, "form": how the layer is to lie there, "diff_id": digest, "available": bytes, "complete": bool}
    ← {"available": bytes} …            the blob's file has grown (it is being downloaded)
    ← {"complete": true} | {"abort": true}   exactly one ends the job, if "complete" was not said at once
    → {"consumed": bytes} …             how much of the blob has been read
    → {"ok": {"size", "entries", "implied"}} | {"error": {"kind", "message"}}   exactly one answers it

**Invariants**: ends when its standard input does, so it does not outlive the engine; what it has begun it leaves for the engine to remove.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from wherry.core.layer_form import LayerForm, unpack_as
from wherry.core.unpack import Unpacked
from wherry.errors import Internal, InvalidArgument, WherryError
from wherry.spec.ids import Digest
from wherry.wire.fastjson import dumps, loads

_REPORT_EVERY = 512 << 10
_MAX_IMPLIED = 4 << 20


class _Aborted(Exception):
    pass


def main() -> None:
    channel = _Channel()
    while (job := channel.receive()) is not None:
        blob = _Blob(channel, job)
        answer = _answer(blob, job)
        with contextlib.suppress(BrokenPipeError):
            channel.send(answer)
        blob.close()


def _answer(blob: _Blob, job: dict[str, Any]) -> dict[str, Any]:
    try:
        blob.open(job["blob"])
        target = os.open(job["target"], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return {"ok": _result(unpack_as(LayerForm(job["form"]), blob, target, Digest(job["diff_id"])))}
        finally:
            os.close(target)
    except WherryError as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}
    except _Aborted:
        return {"error": {"kind": Internal.__name__, "message": "aborted"}}
    except (OSError, MemoryError) as error:
        return {"error": {"kind": Internal.__name__, "message": str(error) or type(error).__name__}}


def _result(unpacked: Unpacked) -> dict[str, object]:
    if sum(len(path) + 8 for path in unpacked.implied) > _MAX_IMPLIED:
        raise InvalidArgument("tar: too many files whose directories it does not mention")
    implied = [os.fsdecode(path) for path in unpacked.implied]
    return {"size": unpacked.size, "entries": unpacked.entries, "implied": implied}


class _Channel:
    def __init__(self) -> None:
        self._buffer = b""

    def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        while b"\n" not in self._buffer:
            more = os.read(0, 65536)
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = loads(line)
        assert isinstance(message, dict)
        return message

    def send(self, message: dict[str, Any]) -> None:
        data = dumps(message) + b"\n"
        while data:
            data = data[os.write(1, data) :]


class _Blob:
    """The job's blob as a stream that waits for what has not arrived yet."""

    def __init__(self, channel: _Channel, job: dict[str, Any]) -> None:
        self._channel = channel
        self._available: int = job["available"]
        self._complete: bool = job["complete"]
        self._position = 0
        self._reported = 0
        self._fd = -1

    def open(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, size: int) -> bytes:
        while self._position >= self._available and not self._complete:
            self._wait()
        data = os.read(self._fd, min(size, self._available - self._position))
        self._position += len(data)
        if self._position - self._reported >= _REPORT_EVERY:
            self._reported = self._position
            self._channel.send({"consumed": self._position})
        return data

    def _wait(self) -> None:
        message = self._channel.receive()
        if message is None:
            sys.exit(0)
        if message.get("abort"):
            self._complete = True
            raise _Aborted
        self._available = message.get("available", self._available)
        self._complete = message.get("complete", False)

    def close(self) -> None:
        """Reads on to the message that ends the job."""
        if self._fd >= 0:
            os.close(self._fd)
        while not self._complete:
            with contextlib.suppress(_Aborted):
                self._wait()
