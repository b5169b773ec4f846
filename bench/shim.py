"""A whole container through a shim, beside the same system calls made by a C program (container.c, built here with cc).

Ours is measured from the start request to "released": the shim has been forked before, as the engine does it, and no engine stands between.
The container is what `runc spec` describes, on an overlay, with Docker's filter and in the caller's network namespace.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import bundle
from bench.measure import Sample
from wherry.linux import cgroups, seccomp
from wherry.shim import launch
from wherry.spec import seccomp as profiles
from wherry.wire import shim as wire

PROGRAM = "/bin/true"
SOURCE = Path(__file__).parent / "container.c"
MOUNT_POINTS = ("proc", "dev", "sys")


@contextmanager
def pair(root: Path) -> Iterator[tuple[Sample, Sample]]:
    """(through a shim, by the C program), each in milliseconds."""
    directory = Path(bundle.make(root / "shim-bundle"))
    for name in MOUNT_POINTS:
        (directory / "rootfs" / name).mkdir(exist_ok=True)
    config = json.loads((directory / "config.json").read_text())
    program = seccomp.compile(
        profiles.section(profiles.default_profile(), capabilities=config["process"]["capabilities"]["bounding"])
    )
    parent = f"/wherry-bench-{os.getpid()}"
    group = cgroups.open_group(parent)
    group.create()
    try:
        with (
            _through_shims(root, directory, config, program, parent) as ours,
            _by_c(root, directory, program, group) as theirs,
        ):
            yield ours, theirs
    finally:
        group.delete()


@contextmanager
def _through_shims(
    root: Path, directory: Path, config: dict[str, Any], program: bytes, parent: str
) -> Iterator[Sample]:
    namespaces = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "network"]
    config["linux"] |= {"namespaces": namespaces, "cgroupsPath": f"{parent}/in-shim"}
    config["process"] |= {"args": [PROGRAM], "terminal": False, "rlimits": []}
    overlay = _overlay(root / "ours", directory)
    zygote, control = launch.start_zygote()

    def sample() -> float:
        state_dir = root / "ours" / f"task-{secrets.token_hex(4)}"
        state_dir.mkdir()
        shim = _spawn(control)
        request = {
            "id": 1, "op": "start", "container": "in-shim", "state_dir": str(state_dir), "config": config, "rootfs": overlay,
            "stdio": {"stdin": False, "stdin_once": False}, "log": None, "seccomp": base64.b64encode(program).decode(),
        }  # fmt: skip
        time.sleep(0.02)  # until the shim waits for its request
        begin = time.perf_counter()
        shim.sendall(wire.encode(request))
        decoder = wire.Decoder()
        while (message := _next(shim, decoder)).get("event") != "released":
            if "error" in message or message.get("status"):
                raise RuntimeError(f"the container did not run: {message}")
        taken = (time.perf_counter() - begin) * 1000
        shim.close()
        shutil.rmtree(state_dir)
        return taken

    try:
        yield sample
    finally:
        control.close()
        zygote.wait(30)


def _spawn(control: socket.socket) -> socket.socket:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(control, [wire.encode({"id": 1, "op": "spawn", "fds": 1})], [theirs.fileno()])
        _next(control, wire.Decoder())
    return ours


def _next(connection: socket.socket, decoder: wire.Decoder) -> wire.Message:
    while (frame := decoder.next_frame()) is None:
        data = connection.recv(65536)
        if not data:
            raise RuntimeError("the shim has ended without a word")
        decoder.receive(data)
    return frame[0]


@contextmanager
def _by_c(root: Path, directory: Path, program: bytes, group: cgroups.Cgroup) -> Iterator[Sample]:
    executable, filter_file = root / "container", root / "filter"
    subprocess.run(["cc", "-O2", "-o", executable, SOURCE], check=True)
    filter_file.write_bytes(program)
    _overlay(root / "theirs", directory)
    parents = dict.fromkeys(group.paths.values())
    command = [str(executable), str(directory / "rootfs"), str(root / "theirs"), str(filter_file), PROGRAM, *parents]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None

        def sample() -> float:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"container.c has ended: {process.wait()}")
            return int(answer) / 1000

        yield sample
        process.stdin.close()


def _overlay(directory: Path, bundle_directory: Path) -> dict[str, Any]:
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    return {
        "type": "overlay", "lower": [str(bundle_directory / "rootfs")], "upper": str(directory / "upper"), "work": str(directory / "work"),
    }  # fmt: skip
