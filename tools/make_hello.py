#!/usr/bin/env python3
"""Writes the embedded image hello-world: an OCI layout for linux/amd64 and linux/arm64, whose only file is a static ELF that prints a text.

    tools/make_hello.py [DIRECTORY]     default: src/wherry/core/embedded/hello-world

The machine code is put together here, instruction by instruction, so that the package contains no binary that nobody can read.
The result depends on this file alone (no clock, no compressor): a test makes it again and compares byte by byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import sys
import tarfile
from pathlib import Path

CREATED = "2026-01-01T00:00:00Z"
BASE = 0x400000
TARGET = Path(__file__).resolve().parent.parent / "src/wherry/core/embedded/hello-world"

TEXT = """\

Hello from wherry: a container has just run on this machine.

What happened, step by step:
 1. The client sent your request to the engine, wherryd, over its socket.
 2. The engine looked for the image "hello-world". wherry's own package
    contains it, so no registry was needed.
 3. The engine unpacked the image's layer ({architecture}) and made a snapshot:
    a writable directory on top of it, for this container alone.
 4. The zygote, a small process that is always ready, forked a shim to look
    after the container.
 5. The shim made namespaces and a cgroup, mounted the snapshot as the root
    file system, dropped the privileges that containers do not get, and
    started the program that prints this text: the only process in here,
    with PID 1.
 6. The text went through a pipe to the shim, which wrote it to the
    container's log and sent it through the engine to your terminal.

Try next:
    wherry run -it --rm debian bash      a shell in a Debian container
    wherry run -d -p 8080:80 nginx       a web server on port 8080
    wherry ps -a                         all containers, stopped ones too
    wherry doctor                        what this machine can do

"""


def amd64(text_length: int) -> bytes:
    """write(1, text, length); exit(0). The text follows the code."""
    tail = (
        b"\xba" + struct.pack("<I", text_length)  # mov edx, length
        + b"\x0f\x05"  # syscall
        + b"\xb8" + struct.pack("<I", 60)  # mov eax, 60 (exit)
        + b"\x31\xff"  # xor edi, edi
        + b"\x0f\x05"  # syscall
    )  # fmt: skip
    return (
        b"\xb8" + struct.pack("<I", 1)  # mov eax, 1 (write)
        + b"\xbf" + struct.pack("<I", 1)  # mov edi, 1
        + b"\x48\x8d\x35" + struct.pack("<i", len(tail))  # lea rsi, [rip + tail]: what follows the code
        + tail
    )  # fmt: skip


def arm64(text_length: int) -> bytes:
    """As `amd64`."""
    count = 8  # instructions
    code = [
        _movz(8, 64),  # mov x8, #64 (write)
        _movz(0, 1),  # mov x0, #1
        _adr(1, 4 * (count - 2)),  # adr x1, text
        _movz(2, text_length),  # mov x2, #length
        0xD4000001,  # svc #0
        _movz(8, 93),  # mov x8, #93 (exit)
        _movz(0, 0),  # mov x0, #0
        0xD4000001,  # svc #0
    ]
    assert len(code) == count
    return struct.pack(f"<{count}I", *code)


def _movz(register: int, value: int) -> int:
    assert 0 <= value < 1 << 16
    return 0xD2800000 | value << 5 | register


def _adr(register: int, distance: int) -> int:
    return 0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | register


def elf(machine: int, align: int, code: bytes, text: bytes) -> bytes:
    """A statically linked ELF64 executable with one segment, readable and executable: headers, code, text."""
    size = 64 + 56 + len(code) + len(text)
    ident = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, BASE + 64 + 56, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, align)
    return header + segment + code + text


def hello(architecture: str) -> bytes:
    text = TEXT.format(architecture=architecture).encode()
    if architecture == "amd64":
        return elf(62, 0x1000, amd64(len(text)), text)
    return elf(183, 0x10000, arm64(len(text)), text)


def layer(binary: bytes) -> bytes:
    """A tar with the one file /hello."""
    info = tarfile.TarInfo("hello")
    info.size = len(binary)
    info.mode = 0o755
    info.mtime = 1767225600
    out = io.BytesIO()
    out.write(info.tobuf(tarfile.USTAR_FORMAT))
    out.write(binary + bytes(-len(binary) % 512) + bytes(1024))
    return out.getvalue()


class Layout:
    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, media_type: str, data: bytes) -> dict[str, object]:
        encoded = hashlib.sha256(data).hexdigest()
        path = self.root / "blobs/sha256" / encoded
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(data)}


def encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def image(layout: Layout, architecture: str, variant: str) -> dict[str, object]:
    """Writes one platform's image. → its manifest's descriptor."""
    tar = layer(hello(architecture))
    described = layout.put("application/vnd.oci.image.layer.v1.tar", tar)
    platform = {"architecture": architecture, "os": "linux"} | ({"variant": variant} if variant else {})
    config = {
        **platform,
        "created": CREATED,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["/hello"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
        "history": [{"created": CREATED, "created_by": "tools/make_hello.py", "comment": "embedded in wherry"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layout.put("application/vnd.oci.image.config.v1+json", encode(config)),
        "layers": [described],
    }
    return layout.put("application/vnd.oci.image.manifest.v1+json", encode(manifest)) | {"platform": platform}


def write(root: Path) -> None:
    layout = Layout(root)
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [image(layout, "amd64", ""), image(layout, "arm64", "v8")],
    }
    (root / "index.json").write_bytes(encode(index))
    (root / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    write(root)
    print(f"wrote {root}")


if __name__ == "__main__":
    main()
