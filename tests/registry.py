"""Registries for tests: a scripted one in the test's own event loop; Debian's docker-registry and our own as processes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bcrypt
from aiohttp import web

from tests.images import ImageSpec, image_config

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers a request in place of the registry; None: the registry answers."""


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ScriptedRegistry:
    """Serves what `put_*` gave it, on 127.0.0.1; `behave` may answer first. `requests` remembers (method, path, Authorization)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.behave: Behaviour | None = None
        self.port = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ScriptedRegistry]:
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        [listening] = runner.addresses
        self.port = listening[1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, request.headers.get("Authorization", "")))
        if self.behave is not None and (answer := await self.behave(request)) is not None:
            return answer
        if request.path == "/v2/":
            return web.json_response({})
        if "/manifests/" in request.path:
            return self._manifest(request.path.rpartition("/")[2])
        if "/blobs/" in request.path:
            return self._blob(request)
        return error(404, "NAME_UNKNOWN", "repository name not known to registry")

    def _manifest(self, reference: str) -> web.Response:
        if reference not in self.manifests:
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        data, media_type = self.manifests[reference]
        return web.Response(body=data, headers={"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)})

    def _blob(self, request: web.Request) -> web.Response:
        data = self.blobs.get(request.path.rpartition("/")[2])
        if data is None:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            return web.Response(
                status=206, body=data[start:], headers={"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            )
        return web.Response(body=data)

    # --- content

    def put_blob(self, data: bytes) -> dict[str, Any]:
        self.blobs[digest_of(data)] = data
        return {"mediaType": "application/octet-stream", "digest": digest_of(data), "size": len(data)}

    def put_manifest(self, document: object, *tags: str, media_type: str = OCI_MANIFEST) -> dict[str, Any]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        for name in (digest_of(data), *tags):
            self.manifests[name] = (data, media_type)
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    def put_image(
        self, spec: ImageSpec, *tags: str, compress: Callable[[bytes], bytes] | None = None
    ) -> dict[str, Any]:
        """→ the manifest's descriptor. Layers are gzip unless `compress` does otherwise."""
        pack = compress or (lambda data: gzip.compress(data, 1, mtime=0))
        config = self.put_blob(image_config(spec)) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
        media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
        layers = [self.put_blob(pack(data)) | {"mediaType": media_type} for data in spec.layers]
        return self.put_manifest({"schemaVersion": 2, "config": config, "layers": layers}, *tags)


def error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": message}]}, status=status, headers=headers)


# --- Debian's docker-registry ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def docker_registry(root: Path, *, extra: str = "", prefix: str = "/", data: Path | None = None) -> Iterator[str]:
    """Runs docker-registry with its data below `root`, or in `data`. → "127.0.0.1:PORT". `extra`: more lines of its configuration; `prefix`: of all
    its paths."""
    root.mkdir(parents=True, exist_ok=True)
    configuration = root / "config.yml"
    configuration.write_text(
        f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {data or root / 'data'}}}}}\n"
        f'http: {{addr: "127.0.0.1:0", secret: tests, prefix: {prefix}}}\n{extra}'
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(configuration)], stdout=log, stderr=log, env=environment
        )
    try:
        yield _where_it_listens(root / "log", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(300)


def _where_it_listens(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Its address: the kernel has chosen the port, so nobody else can have it."""
    while not (found := re.search(r'msg="listening on (127\.0\.0\.1:\d+)"', log.read_text())):
        assert process.poll() is None, f"docker-registry did not start: {log.read_text()}"
        time.sleep(0.02)
    return found[1]


def skopeo_copy(source: str, target: str, *options: str) -> None:
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--src-tls-verify=false", *options, source, target],
        check=True,
        capture_output=True,
    )


# --- our own as a process --------------------------------------------------------------------------------------------------------------

METRICS = ("--metrics-addr", "127.0.0.1:0")
WHERRY = str(Path(sys.executable).parent / "wherry")


class Served:
    """A `wherry registry serve` that has said where it listens. `metrics`: their URL, if METRICS asked for one.
    `stop` ends it by SIGTERM, and checks that it ended cleanly."""

    def __init__(self, root: Path, *flags: str) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.log = root / "access.log"
        command = [WHERRY, "registry", "serve", "--root", str(root / "registry"), *flags]
        command += [] if "--addr" in flags else ["--addr", "127.0.0.1:0"]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        self.said = ""
        while " on http" not in self.said:
            assert self.process.stderr is not None
            line = self.process.stderr.readline()
            assert line, f"the registry did not start: {self.said}"
            self.said += line
        self.url = self.said.split()[-1]
        self.metrics = next((line.split()[-1] for line in self.said.splitlines() if "metrics at" in line), "")
        self.host = self.url.partition("://")[2]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, rest
        assert "Traceback" not in rest, rest

    def kill9(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def wherry_registry(root: Path, *flags: str) -> Iterator[Served]:
    served = Served(root, *flags)
    try:
        yield served
        served.stop()
    finally:
        if served.process.poll() is None:
            served.kill9()


# --- who is let in, and how it is spoken to


def certificates(folder: Path, address: str = "127.0.0.1") -> None:
    """ca.pem; server.pem and client.pem that it has signed, with .key each."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2")
    (folder / "ext").write_text(f"subjectAltName=IP:{address},DNS:localhost\n")
    for name in ("server", "client"):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")


def htpasswd(path: Path, **users: str) -> str:
    """Writes a file of users and their passwords. → its path."""
    path.write_text(
        "".join(f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n" for name, word in users.items())
    )
    return str(path)


ADDRESS = "192.0.2.1"
"""One that is not of 127.0.0.0/8, where Docker's clients do not verify."""


@contextlib.contextmanager
def loopback_address() -> Iterator[str]:
    """ADDRESS is this machine's meanwhile."""
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    try:
        yield ADDRESS
    finally:
        subprocess.run(["ip", "address", "del", f"{ADDRESS}/32", "dev", "lo"], check=True)


@contextlib.contextmanager
def certs_directory(parent: str, host: str) -> Iterator[Path]:
    """The directory of what an engine is told of one registry; afterwards everything that was made for it is gone."""
    place = Path(parent) / host
    new = [path for path in (place, *place.parents) if not path.exists()]
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(new[-1])


def tls_flags(folder: Path, *, clients: bool = False) -> list[str]:
    """Of `wherry registry serve`, with what `certificates` wrote; `clients`: they need a certificate, too."""
    flags = ["--tls-cert", f"{folder}/server.pem", "--tls-key", f"{folder}/server.key"]
    return [*flags, "--tls-client-ca", f"{folder}/ca.pem"] if clients else flags
