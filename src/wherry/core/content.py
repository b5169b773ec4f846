"""The content store: blobs by digest, as an OCI image layout (`content/blobs/sha256/…`), and files on their way to become blobs.

In wherryd. Blocking: call from threads, except for look-ups. Source: OCI image-spec image-layout.md.

**Invariants**: a file below `blobs/` has the content that its name says, whole: it is written below `ingest/` and hashed on the way before it gets
that name, which it never takes from another. Blobs are never changed. `sync` brings them to disk, all at once, before a row names them; after a
crash those that no row names are removed, whatever they hold (`images`), and so is all that is in `ingest/`; what can be resumed is below
`partial/` (`partials`). Of a blob that the disk has damaged whoever finds out tells (`suspect`): it counts as missing until it is stored again, which
puts the right one in its place in one step; that one, which a row names already, is synced before.
Deliberately absent: which blobs are needed (`images` knows), and index.json (the database is the index).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType

from wherry.core.partials import Partials
from wherry.errors import DataLoss, InvalidArgument, NotFound
from wherry.linux.remove import remove_tree
from wherry.spec.ids import Digest, is_digest

_PIECE = 1 << 20
EARLY = 1 << 20
"""Bytes from which on a blob is synced as soon as it is written, beside other work: whoever syncs it in the end has less to wait for."""


class Content:
    """`Content(root)`: `root` is the engine's `content` directory."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.partials = Partials(os.path.join(root, "partial"))
        self._ingest = os.path.join(root, "ingest")
        self.is_recorded: Callable[[Digest], bool] = lambda digest: False
        """Whether a row names a blob; `images` knows. Asked in any thread."""
        self._suspects: set[Digest] = set()
        self._unsynced: set[Digest] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Makes the layout and removes what a crash has left in `ingest`."""
        remove_tree(self._ingest)
        for directory in (
            self._ingest,
            os.path.join(self.root, "blobs/sha256"),
            os.path.join(self.root, "blobs/sha512"),
        ):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self.partials.open()
        layout = os.path.join(self.root, "oci-layout")
        if not os.path.exists(layout):
            with self.ingest() as file:
                file.write(b'{"imageLayoutVersion": "1.0.0"}')
                file.keep_as(layout)

    def path(self, digest: Digest) -> str:
        if not is_digest(digest):
            raise InvalidArgument(f"{digest!r} is not a digest")
        algorithm, _, encoded = digest.partition(":")
        return f"{self.root}/blobs/{algorithm}/{encoded}"

    def has(self, digest: Digest) -> bool:
        return digest not in self._suspects and os.path.exists(self.path(digest))

    def suspect(self, digest: Digest) -> None:
        """Its content is not what its name says."""
        self._suspects.add(digest)

    def trust(self, digest: Digest) -> None:
        """Its content has been verified."""
        self._suspects.discard(digest)

    def size(self, digest: Digest) -> int:
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def read(self, digest: Digest, limit: int) -> bytes:
        """A whole small blob, verified. InvalidArgument when it is larger than `limit`, DataLoss when it is damaged."""
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None
        if len(data) > limit:
            raise InvalidArgument(f"content {digest}: larger than {limit} bytes")
        if hash_of(digest, data) != digest:
            raise DataLoss(f"content {digest}: the stored blob is damaged")
        return data

    def measure(self, digest: Digest) -> Digest:
        """The digest that a blob's content really has, by the algorithm of its name. OSError when it cannot be read."""
        with open(self.path(digest), "rb", buffering=0) as file:
            algorithm = digest.partition(":")[0]
            return Digest(f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}")

    def add(self, data: bytes, expected: Digest | None = None) -> Digest:
        """Stores a small blob."""
        with self.ingest(expected) as file:
            file.write(data)
            return file.commit()

    def ingest(self, expected: Digest | None = None) -> Ingest:
        """A new file, removed at the end of the `with` block unless it was committed."""
        return Ingest(self, os.path.join(self._ingest, secrets.token_hex(8)), expected)

    @contextmanager
    def resume(self, expected: Digest) -> Iterator[Resumed]:
        """The file of the blob that an earlier attempt may have begun; what was written is there for the next attempt, unless it was committed."""
        with self.partials.writer(expected) as (path, fd), Resumed(self, path, expected, fd) as file:
            yield file

    def ingest_directory(self) -> str:
        """A new directory below `ingest/`, for archives that are taken apart. The caller removes it."""
        path = os.path.join(self._ingest, secrets.token_hex(8))
        os.mkdir(path, 0o700)
        return path

    def adopt(self, path: str, digest: Digest) -> None:
        """Makes a file below `ingest/`, whose digest was computed while it was written, a blob as well. It is not to be changed any more."""
        if os.stat(path).st_size >= EARLY:
            sync_file(path)
        self.name(path, digest)

    def name(self, path: str, digest: Digest) -> None:
        """The file gets the blob's name as well, unless another has it."""
        if not self.has(digest) and self.is_recorded(digest):
            sync_file(path)  # it was lost
        with self._lock:
            self._unsynced.add(digest)  # before anybody sees it
        try:
            os.link(path, self.path(digest))
        except FileExistsError:
            if digest in self._suspects:
                twin = os.path.join(self._ingest, secrets.token_hex(8))
                os.link(path, twin)
                os.rename(twin, self.path(digest))
        self.trust(digest)

    def unsynced(self, digests: Iterable[Digest]) -> set[Digest]:
        """Those of the digests that may not be on disk yet."""
        with self._lock:
            return self._unsynced & set(digests)

    def sync(self, digests: Collection[Digest], *, done: bool = False) -> None:
        """Brings blobs to disk. `done`: a sync of the whole file system has, which began when they were there."""
        if not done:
            paths = [self.path(digest) for digest in digests]
            for path in [*paths, *sorted({os.path.dirname(path) for path in paths})]:
                sync_file(path)
        with self._lock:
            self._unsynced -= set(digests)

    def discard(self, digests: Iterable[Digest]) -> list[str]:
        """Takes blobs out of the store, at once; the names that are returned are then to be unlinked (in a thread: large files take time)."""
        moved = []
        for digest in digests:
            with self._lock:
                self._unsynced.discard(digest)
            path = os.path.join(self._ingest, secrets.token_hex(8))
            try:
                os.rename(self.path(digest), path)
            except FileNotFoundError:
                continue
            self.trust(digest)
            moved.append(path)
        return moved

    def __iter__(self) -> Iterator[Digest]:
        for algorithm in ("sha256", "sha512"):
            for name in os.listdir(os.path.join(self.root, "blobs", algorithm)):
                if is_digest(f"{algorithm}:{name}"):
                    yield Digest(f"{algorithm}:{name}")


class Ingest:
    """A blob that is being written. `size` bytes so far, at `path`."""

    def __init__(self, content: Content, path: str, expected: Digest | None) -> None:
        self.path = path
        self.size = 0
        self._content = content
        self._expected = expected
        self._hash = _new_hash(expected)
        self._fd = -1
        self._is_kept = False

    def __enter__(self) -> Ingest:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if not self._is_kept:
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                os.unlink(self.path)

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return Digest(f"{self._hash.name}:{self._hash.hexdigest()}")

    def check(self) -> Digest:
        """DataLoss unless what was written has the expected digest."""
        if self._expected is not None and self.digest != self._expected:
            raise DataLoss(f"filesystem layer verification failed for digest {self._expected}")
        return self.digest

    def sync(self) -> None:
        """Brings to disk what was written so far; who syncs the blob in the end has less to wait for."""
        os.fsync(self._fd)

    def commit(self) -> Digest:
        """Makes it a blob."""
        digest = self.check()
        self._content.name(self.path, digest)
        os.unlink(self.path)
        self._is_kept = True
        return digest

    def keep_as(self, path: str) -> None:
        os.fsync(self._fd)
        os.rename(self.path, path)
        self._is_kept = True
        sync_file(os.path.dirname(path))


class Resumed(Ingest):
    """An `Ingest` that begins with the `found` bytes of an earlier attempt. They count in `size` and in the digest as `take_in` reads them, and all
    of them are to be taken in before anything is written."""

    def __init__(self, content: Content, path: str, expected: Digest, fd: int) -> None:
        super().__init__(content, path, expected)
        self._fd = fd
        self.found = os.fstat(fd).st_size

    def __enter__(self) -> Resumed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.size or self.found:
            os.close(self._fd)  # to be resumed, unless it was committed
        else:
            super().__exit__(kind, error, trace)

    def take_in(self) -> bool:
        """Reads and hashes the next piece of what was found. → whether there was any."""
        piece = os.read(self._fd, min(_PIECE, self.found - self.size)) if self.size < self.found else b""
        self._hash.update(piece)
        self.size += len(piece)
        return bool(piece)

    def restart(self) -> None:
        """Throws away what is there: it is of no use."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = _new_hash(self._expected)
        self.size = self.found = 0


def hash_of(like: Digest, data: bytes) -> Digest:
    """The digest of `data` by the algorithm of `like`."""
    hashed = _new_hash(like)
    hashed.update(data)
    return Digest(f"{hashed.name}:{hashed.hexdigest()}")


def _new_hash(like: Digest | None) -> hashlib._Hash:
    return hashlib.sha512() if like is not None and like.startswith("sha512:") else hashlib.sha256()


def sync_file(path: str) -> None:
    """Of a file or directory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
