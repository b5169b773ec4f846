"""`docker logs`: reads what the shims write (json-file), past and growing. Runs in wherryd; never writes.

Lines are read in order through rotated files (`.N` … `.1`, then the current one). Following waits for inotify, not for time. A file that is
rotated away while it is read stays readable through its descriptor, so that no line is lost or doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from urllib.parse import quote_plus

import msgspec

from wherry.core.cancellation import thread_to_the_end
from wherry.engine.times import parse_rfc3339_nano
from wherry.errors import DataLoss
from wherry.linux import inotify
from wherry.spec.calls import LogOptions
from wherry.wire import stdcopy

_BLOCK = 256 * 1024
_TRIES = 100
_LINE_BOUND = 1024 * 1024  # the shim cuts at 16 KiB; JSON escapes it to at most six times that


class _Line(msgspec.Struct):
    log: str
    stream: str
    time: str
    attrs: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(_Line)


async def read(path: str, options: LogOptions, *, multiplexed: bool, ended: asyncio.Event) -> AsyncIterator[bytes]:
    """Encoded chunks for the client. `ended` is set while no process writes: a follow stops there, after the last line."""
    watch = (
        inotify.watch(os.path.dirname(path), inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO)
        if options.follow
        else None
    )
    files: list[_File] = []
    try:
        await thread_to_the_end(_open_all, path, files)
        async with aclosing(_past(files, options, multiplexed)) as past:
            async for chunk in past:
                yield chunk
        if watch is None:
            return
        *rotated, current = files
        for file in rotated:
            file.close()
        async with aclosing(_follow(path, current, watch, options, multiplexed, ended)) as news:
            async for chunk in news:
                yield chunk
    finally:
        for file in files:
            file.close()
        if watch is not None:
            os.close(watch)


class _File:
    """A log file read line by line; an unfinished last line is left for later."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def identity(self) -> tuple[int, int]:
        info = os.fstat(self.fd)
        return info.st_dev, info.st_ino

    def lines(self) -> Iterator[bytes]:
        """Complete lines up to the present end of the file."""
        while block := os.read(self.fd, _BLOCK):
            data = self._rest + block
            complete, newline, self._rest = data.rpartition(b"\n")
            if len(self._rest) > _LINE_BOUND:
                raise DataLoss("a line of the container's log has no end")
            if newline:
                yield from complete.split(b"\n")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _open_all(path: str, files: list[_File]) -> None:
    """Into `files`: the rotated ones, oldest first, and the current one. An absent log is an empty one. When files are rotated meanwhile it is begun
    anew: none is missed."""
    for _ in range(_TRIES):
        names, identities = _look(path)
        _open_those(names, files)
        if [file.identity() for file in files] == identities and _look(path) == (names, identities):
            break
        while files:
            files.pop().close()
    else:  # it is rotated faster than it can be read
        _open_those(names, files)
    if not files:
        files.append(_File(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))


def _look(path: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The files that there are now, oldest first: paths, identities."""
    folder, name = os.path.split(path)
    numbers = [0]
    for entry in os.listdir(folder):
        suffix = entry.removeprefix(name + ".")
        if entry != suffix and suffix.isdecimal():
            numbers.append(int(suffix))
    names, identities = [], []
    for number in sorted(numbers, reverse=True):
        place = f"{path}.{number}" if number else path
        with contextlib.suppress(FileNotFoundError):
            info = os.stat(place)
            names.append(place)
            identities.append((info.st_dev, info.st_ino))
    return names, identities


def _open_those(names: list[str], files: list[_File]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            files.append(_File(os.open(name, os.O_RDONLY | os.O_CLOEXEC)))


async def _past(files: list[_File], options: LogOptions, multiplexed: bool) -> AsyncGenerator[bytes]:
    """Read in threads; when this is cancelled, the thread has ended before the files are closed."""
    lines = (line for file in files for line in file.lines())
    source: Iterator[bytes] = (encoded for line in lines if (encoded := _encode(line, options, multiplexed)))
    if options.tail is not None:  # a line cut at 16 KiB counts as the pieces it is stored in, as in dockerd
        source = iter(await thread_to_the_end(deque, source, options.tail))
    while chunk := await thread_to_the_end(_gather, source):
        yield chunk


def _gather(source: Iterator[bytes]) -> bytes:
    """The next `_BLOCK` bytes or a little more; empty at the end."""
    parts, size = [], 0
    for part in source:
        parts.append(part)
        size += len(part)
        if size >= _BLOCK:
            break
    return b"".join(parts)


async def _follow(
    path: str, current: _File, watch: int, options: LogOptions, multiplexed: bool, ended: asyncio.Event
) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    loop.add_reader(watch, changed.set)
    try:
        while True:
            is_last = ended.is_set()
            inotify.drain(watch)
            changed.clear()
            for chunk in _new_lines(current, options, multiplexed):
                yield chunk
            while (following := _next_file(path, current)) is not None:
                for chunk in _new_lines(current, options, multiplexed):  # written between reading and rotating
                    yield chunk
                current.close()
                current = following
                for chunk in _new_lines(current, options, multiplexed):
                    yield chunk
            if is_last:
                return
            waiting = [loop.create_task(changed.wait()), loop.create_task(ended.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
    finally:
        loop.remove_reader(watch)
        current.close()


def _new_lines(file: _File, options: LogOptions, multiplexed: bool) -> Iterator[bytes]:
    source = (encoded for line in file.lines() if (encoded := _encode(line, options, multiplexed)))
    while chunk := _gather(source):
        yield chunk


def _next_file(path: str, current: _File) -> _File | None:
    """The file that has taken the current one's place: after a rotation, or at the first write."""
    folder, name = os.path.split(path)
    mine = current.identity()
    candidates = []
    for entry in [name, *(f"{name}.{number}" for number in range(1, 1000))]:
        try:
            fd = os.open(os.path.join(folder, entry), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            break
        file = _File(fd)
        if file.identity() == mine:
            file.close()
            break
        candidates.append(file)
    for file in candidates[:-1]:
        file.close()
    return candidates[-1] if candidates else None


def _encode(line: bytes, options: LogOptions, multiplexed: bool) -> bytes:
    """One stored line as the client wants it, or nothing when it is filtered out."""
    if not line:
        return b""
    try:
        parsed = _decoder.decode(line)
    except msgspec.MsgspecError:
        return b""  # a line torn by a power cut
    if parsed.stream == "stdout":
        if not options.stdout:
            return b""
        stream = stdcopy.STDOUT
    else:
        if not options.stderr:
            return b""
        stream = stdcopy.STDERR
    if options.since_ns is not None or options.until_ns is not None:
        at = parse_rfc3339_nano(parsed.time)
        if (options.since_ns is not None and at < options.since_ns) or (
            options.until_ns is not None and at > options.until_ns
        ):
            return b""
    text = f"{_details(parsed.attrs or {})} {parsed.log}" if options.details else parsed.log
    if options.timestamps:
        text = f"{_padded(parsed.time)} {text}"
    data = text.encode("utf-8", "surrogatepass")
    return stdcopy.frame(stream, data) if multiplexed else data


def _details(attrs: dict[str, str]) -> str:
    """As dockerd: query-escaped pairs, sorted."""
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(attrs.items()))


def _padded(time: str) -> str:
    """With nine digits of fraction, so that columns line up."""
    base, _, fraction = time.removesuffix("Z").partition(".")
    return f"{base}.{fraction.ljust(9, '0')}Z"
