"""Blobs on their way in: upload sessions, each a file that grows until a digest closes it.

A session outlives its connection and, as far as its bytes were written, the server: the file's name says which repository may go on with it.

**Invariants**: one request at a time writes to a session; what is written is hashed on the way, in threads, a piece at a time: memory is bounded by
two pieces a request, whatever is sent. No descriptor is held between two requests. Source: distribution-spec 1.1, "Pushing a blob in chunks".
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
import uuid
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

from wherry.registry.errors import Code, Refused
from wherry.registry.names import ALGORITHMS
from wherry.spec.ids import Digest

MAX_SESSIONS = 10_000
REREAD = 1 << 20
_FILE = re.compile(r"([0-9a-f-]{36})\.([0-9a-f]{32})\Z")


class Upload:
    """One session. `size` bytes are written so far, to `path`. Requests take `lock` first."""

    def __init__(self, directory: str, identifier: str, repository_key: str, algorithm: str, size: int = 0) -> None:
        self.id = identifier
        self.repository_key = repository_key
        self.path = os.path.join(directory, f"{identifier}.{repository_key}")
        self.size = size
        self.touched = time.time()
        self.lock = asyncio.Lock()
        self._hash: Any = hashlib.new(algorithm) if size == 0 else None
        self._fd = -1

    async def append(self, pieces: AsyncIterator[bytes | bytearray]) -> None:
        """Writes what comes. When the pieces end with an error, those before it are kept."""
        loop = asyncio.get_running_loop()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        writing: asyncio.Future[None] | None = None
        try:
            async for piece in pieces:
                if writing is not None:
                    await writing
                writing = loop.run_in_executor(None, self._write, piece)
        finally:
            try:
                if writing is not None:
                    await asyncio.shield(writing)
            finally:
                os.close(self._fd)
                self.touched = time.time()

    def cut(self, size: int) -> None:
        """Back to what it was: the first `size` bytes. Blocking."""
        if size < self.size:
            os.truncate(self.path, size)
            self.size, self._hash = size, None

    def _write(self, piece: bytes | bytearray) -> None:
        view = memoryview(piece)
        running, self._hash = self._hash, None  # if writing fails, what is on disk is hashed again
        if running is not None:
            running.update(view)
        while view:
            written = os.pwrite(self._fd, view, self.size)
            self.size += written
            view = view[written:]
        self._hash = running

    def verify(self, digest: Digest) -> None:
        """Refused (DIGEST_INVALID) unless all that was written has this digest. Blocking."""
        algorithm, _, encoded = digest.partition(":")
        if self._hash is None or self._hash.name != algorithm:
            self._hash = hashlib.new(algorithm)
            if self.size:
                with open(self.path, "rb", buffering=0) as file:
                    while piece := file.read(REREAD):
                        self._hash.update(piece)
        if self._hash.hexdigest() != encoded:
            raise Refused(Code.DIGEST_INVALID, "provided digest did not match uploaded content", detail=digest)
        if not self.size:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


class Uploads:
    """All sessions; `directory` holds their files. What a server left there before is taken up again."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory
        self._sessions: dict[str, Upload] = {}
        for entry in os.scandir(directory):
            matched = _FILE.match(entry.name)
            if matched is None:
                os.unlink(entry.path)
                continue
            status = entry.stat()
            upload = Upload(directory, matched[1], matched[2], ALGORITHMS[0], status.st_size)
            upload.touched = status.st_mtime
            self._sessions[upload.id] = upload

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, repository: str, algorithm: str) -> Upload:
        if len(self._sessions) >= MAX_SESSIONS:
            raise Refused(Code.TOOMANYREQUESTS, "too many uploads are under way", headers={"Retry-After": "60"})
        upload = Upload(self._directory, str(uuid.uuid4()), _key(repository), algorithm)
        self._sessions[upload.id] = upload
        return upload

    def find(self, repository: str, identifier: str) -> Upload:
        upload = self._sessions.get(identifier)
        if upload is None or upload.repository_key != _key(repository):
            raise Refused(Code.BLOB_UPLOAD_UNKNOWN, "blob upload unknown to registry", detail=identifier[:64])
        return upload

    def end(self, upload: Upload) -> None:
        """Forgets the session and removes its file, unless the storage has taken it."""
        self._sessions.pop(upload.id, None)
        try:
            os.unlink(upload.path)
        except FileNotFoundError:
            pass

    def expire(self, before: float) -> int:
        """Ends sessions that nobody has touched since; how many."""
        stale = [upload for upload in self._sessions.values() if upload.touched < before and not upload.lock.locked()]
        for upload in stale:
            self.end(upload)
        return len(stale)


def _key(repository: str) -> str:
    """The repository in a session's file name, where 255 bytes must do."""
    return sha256(repository.encode()).hexdigest()[:32]
