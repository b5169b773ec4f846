"""Images for tests, made from this machine's static busybox: no registry, no network.

`busybox_archive` writes what `docker save` writes (the format that `docker load` reads), `busybox_layout` an OCI image layout (what skopeo
and a registry take), `rootfs_tar` a bare root file system (for `docker import`). All are reproducible: the same input gives the same digest.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BUSYBOX = "/bin/busybox"
MACHINE_TO_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\napp:x:1000:1000:app:/home/app:/bin/sh\n"
)
GROUP = "root:x:0:\ndaemon:x:1:\nwheel:x:10:app\napp:x:1000:\nextra:x:2000:app\n"


@dataclass(frozen=True)
class Entry:
    """One member of a layer. `target` makes it a link: a symbolic one, or with `hard` a hard one."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    target: str | None = None
    hard: bool = False
    directory: bool = False


@dataclass(frozen=True)
class ImageSpec:
    """What an image is made of: its layers (lowest first) and its configuration as Docker's keys (Cmd, Env, User, …)."""

    layers: Sequence[bytes]
    config: Mapping[str, object] = field(default_factory=dict)
    architecture: str = MACHINE_TO_ARCHITECTURE.get(platform.machine(), platform.machine())


def layer(entries: Sequence[Entry]) -> bytes:
    """An uncompressed layer tar with the members in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.path)
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
            if entry.directory:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif entry.target is not None:
                info.type = tarfile.LNKTYPE if entry.hard else tarfile.SYMTYPE
                info.linkname = entry.target
                archive.addfile(info)
            else:
                info.size = len(entry.content)
                archive.addfile(info, io.BytesIO(entry.content))
    return buffer.getvalue()


@functools.cache
def applets() -> tuple[str, ...]:
    """The names that this machine's busybox answers to."""
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return tuple(name for name in listed.stdout.split() if name != "busybox")


@functools.cache
def busybox_layer() -> bytes:
    """A root file system: busybox with a link for each applet, the usual directories, three users."""
    with open(BUSYBOX, "rb") as source:
        binary = source.read()
    directories = ("bin", "dev", "etc", "proc", "sys", "root", "usr", "usr/sbin", "var", "home")
    entries = [Entry(path, mode=0o755, directory=True) for path in directories]
    entries += [
        Entry("tmp", mode=0o1777, directory=True),
        Entry("home/app", mode=0o755, uid=1000, gid=1000, directory=True),
        Entry("bin/busybox", binary, 0o755),
        *(Entry(f"bin/{name}", target="busybox", hard=False, mode=0o777) for name in applets()),
        Entry("etc/passwd", PASSWD.encode()),
        Entry("etc/group", GROUP.encode()),
        Entry("etc/not-executable", b"text\n", 0o644),
    ]
    return layer(entries)


def busybox_spec(**config: object) -> ImageSpec:
    """The test image; keywords are keys of its configuration and override the defaults (Cmd, Env)."""
    defaults: dict[str, object] = {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/sbin"]}
    return ImageSpec(layers=(busybox_layer(),), config={**defaults, **config})


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def image_config(spec: ImageSpec) -> bytes:
    """The image configuration (OCI image-spec, config.md) as JSON; its digest is the image's id."""
    return json.dumps(
        {
            "created": "2026-01-02T03:04:05Z",
            "architecture": spec.architecture,
            "os": "linux",
            "config": dict(spec.config),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(data)}" for data in spec.layers]},
            "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "tests/images.py"} for _ in spec.layers],
        },
        sort_keys=True,
    ).encode()


def image_id(spec: ImageSpec) -> str:
    return f"sha256:{_sha256(image_config(spec))}"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def docker_archive(spec: ImageSpec, tags: Sequence[str]) -> bytes:
    """What `docker save` writes: manifest.json, the configuration and one tar per layer."""
    config = image_config(spec)
    config_name = f"{_sha256(config)}.json"
    layer_names = [f"{_sha256(data)}/layer.tar" for data in spec.layers]
    manifest = [{"Config": config_name, "RepoTags": list(tags), "Layers": layer_names}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, config_name, config)
        for name, data in zip(layer_names, spec.layers, strict=True):
            _add(archive, name, data)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return buffer.getvalue()


def write_docker_archive(path: str, spec: ImageSpec, *tags: str) -> str:
    """Write `docker_archive` to a file; → its path."""
    with open(path, "wb") as out:
        out.write(docker_archive(spec, tags))
    return path


def write_oci_layout(directory: str, spec: ImageSpec, tag: str = "latest") -> str:
    """Write an OCI image layout with gzip layers; → the digest of its manifest."""
    blobs = os.path.join(directory, "blobs", "sha256")
    os.makedirs(blobs, exist_ok=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = _sha256(data)
        with open(os.path.join(blobs, digest), "wb") as out:
            out.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(image_config(spec), "application/vnd.oci.image.config.v1+json"),
        "layers": [
            put(gzip.compress(data, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip") for data in spec.layers
        ],
    }
    described = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "manifests": [described]}
    with open(os.path.join(directory, "oci-layout"), "w") as out:
        json.dump({"imageLayoutVersion": "1.0.0"}, out)
    with open(os.path.join(directory, "index.json"), "w") as out:
        json.dump(index, out)
    return str(described["digest"])


def unpack_busybox(directory: str) -> str:
    """The test image's root file system as a plain directory (for bundles of the OCI runtime); → the directory."""
    os.makedirs(directory, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(busybox_layer())) as archive:
        archive.extractall(directory)
    return directory
