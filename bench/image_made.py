"""The image that pulls, pushes, saves and loads are measured with, made of what every Debian has and of seeded random numbers, put into a registry.

Four layers, gzip at zlib's usual level: the files of Debian's essential packages as they are installed here; 30,000 small files; 500 MB in files of
50 MB, half of it random; and a small one that differs between the tags "1" and "2".
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import random
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "bench/app"
SMALL_FILES = 30_000
LARGE_FILES, LARGE_BYTES = 10, 50 << 20
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CONFIG = "application/vnd.docker.container.image.v1+json"


@dataclass(frozen=True)
class Layer:
    """A blob, and the digest of what it decompresses to."""

    path: Path
    digest: str
    diff_id: str
    size: int


class _Gzip(io.RawIOBase):
    """Writes a gzip file, and computes the digests of what goes in and what comes out."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._path = path
        self._pack = zlib.compressobj(wbits=31)
        self._inner, self._outer = hashlib.sha256(), hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._inner.update(view)
        self._put(self._pack.compress(view))
        return len(view)

    def _put(self, packed: bytes) -> None:
        self._outer.update(packed)
        self._file.write(packed)

    def finish(self) -> Layer:
        self._put(self._pack.flush())
        self._file.close()
        size = self._path.stat().st_size
        return Layer(self._path, f"sha256:{self._outer.hexdigest()}", f"sha256:{self._inner.hexdigest()}", size)


def put(host: str, root: Path) -> None:
    """Makes the image below `root` (about 400 MB) and puts it into the registry at `host`, as REPOSITORY:1 and :2."""
    root.mkdir()
    shared = [_layer(root / name, fill) for name, fill in (("base", _base), ("small", _small), ("large", _large))]
    for tag in ("1", "2"):
        _push(host, tag, [*shared, _layer(root / tag, lambda archive, tag=tag: _changed(archive, tag))])  # type: ignore[misc]


def _layer(path: Path, fill: Callable[[tarfile.TarFile], None]) -> Layer:
    out = _Gzip(path)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
        fill(archive)
    return out.finish()


def _base(archive: tarfile.TarFile) -> None:
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Essential} ${Package}\n"], capture_output=True, text=True, check=True
    )
    packages = [line.split()[1] for line in listed.stdout.splitlines() if line.startswith("yes ")]
    files = subprocess.run(["dpkg", "-L", *packages, "libc6"], capture_output=True, text=True, check=True)
    for name in sorted({line for line in files.stdout.splitlines() if line.startswith("/usr/")}):
        if Path(name).exists() or Path(name).is_symlink():
            archive.add(name, recursive=False)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), 1_700_000_000, 0o644
    archive.addfile(member, io.BytesIO(data))


def _half(source: random.Random, size: int) -> bytes:
    """Half random, half text that repeats."""
    text = b"the quick brown fox jumps over the lazy dog; " * 12
    pieces = [source.randbytes(512) + text[:512] for _ in range(size // 1024 + 1)]
    return b"".join(pieces)[:size]


def _small(archive: tarfile.TarFile) -> None:
    source = random.Random(1)
    for n in range(SMALL_FILES):
        _add(archive, f"srv/small/{n // 100:03}/{n:05}", _half(source, source.randrange(4096)))


def _large(archive: tarfile.TarFile) -> None:
    source = random.Random(2)
    for n in range(LARGE_FILES):
        _add(archive, f"srv/large/{n}", _half(source, LARGE_BYTES))


def _changed(archive: tarfile.TarFile, tag: str) -> None:
    source = random.Random(tag)
    for n in range(100):
        _add(archive, f"srv/app/{n}", _half(source, 2048))


def _push(host: str, tag: str, layers: list[Layer]) -> None:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/usr/bin/true"], "Labels": {"tag": tag}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    ).encode()
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    connection = http.client.HTTPConnection(host)
    _put_blob(connection, digest, config)
    for layer in layers:
        _put_blob(connection, layer.digest, layer.path.read_bytes())
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": digest, "size": len(config)},
        "layers": [{"mediaType": _LAYER, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    _call(connection, "PUT", f"/v2/{REPOSITORY}/manifests/{tag}", json.dumps(manifest).encode(), _MANIFEST)


def _put_blob(connection: http.client.HTTPConnection, digest: str, data: bytes) -> None:
    location = _call(connection, "POST", f"/v2/{REPOSITORY}/blobs/uploads/", b"", "application/octet-stream")
    separator = "&" if "?" in location else "?"
    _call(connection, "PUT", f"{location}{separator}digest={digest}", data, "application/octet-stream")


def _call(connection: http.client.HTTPConnection, method: str, url: str, body: bytes, kind: str) -> str:
    """→ the answer's Location, without the host."""
    connection.request(method, url, body, {"Content-Type": kind})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {url}: {answer.status} {text.decode(errors='replace')}")
    return answer.headers.get("Location", "").removeprefix(f"http://{connection.host}:{connection.port}")
