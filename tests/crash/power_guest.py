"""The first half of `power_cut`: runs in the user-mode Linux, beside an engine whose data root is on the disk that loses what was not synced.

    python -m tests.crash.power_guest WORK measure OPERATION…    what each does undisturbed: states, and how many points it has
    python -m tests.crash.power_guest WORK cut OPERATION POINT    judges what the last cut has left, then goes on until the power is cut at that point

What it finds it writes below WORK, which the host sees. It ends only when there was no point of that number.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.crash.operations import OPERATIONS, State, World, write_layouts
from tests.crash.points import ENGINE, End, Points

PORT = 5000
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Registry(http.server.BaseHTTPRequestHandler):
    """Reads OCI layouts: what a pull needs, and no more."""

    protocol_version = "HTTP/1.1"
    layouts: dict[str, str]

    def do_GET(self) -> None:
        kind, name = self.path.split("/")[-2:]
        if kind == "manifests" and not name.startswith("sha256:"):
            index = json.loads(Path(self.layouts[name], "index.json").read_bytes())
            name = index["manifests"][0]["digest"]
        found = [Path(root, "blobs/sha256", name.removeprefix("sha256:")) for root in self.layouts.values()]
        data = next((path.read_bytes() for path in found if path.is_file()), b"{}")
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", MANIFEST if kind == "manifests" else "application/octet-stream")
        if kind == "manifests":
            self.send_header("Docker-Content-Digest", name)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[start:])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main(work: Path, verb: str, *words: str) -> None:
    data = work / "tmp/disk/root"
    _Registry.layouts = write_layouts(work / "tmp")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    world = World("/run/engine.sock", data, f"127.0.0.1:{PORT}")
    points = Points(str(data))
    _start_engine(world, points)
    notes = json.loads((work / "notes").read_bytes()) if verb == "cut" else {}
    if verb == "measure":
        for name in words:
            notes[name] = _measure(world, points, name)
        _write(work / "notes", notes)
        return
    name, point = words[0], int(words[1])
    operation = OPERATIONS[name]
    old, new = _state(notes[name]["old"]), _state(notes[name]["new"])
    if (work / "pending").exists():
        _write(work / "verdict", _judge(world, name, old, new))
    world.clear()
    operation.before(world)
    subprocess.run(["sync"], check=True)  # the old state is on disk: a container's files are synced by nobody else
    _write(work / "pending", name)
    points.arm(point, End.HALT)
    operation.act(world)
    (work / "pending").unlink()


def _start_engine(world: World, points: Points) -> None:
    arguments = [f"--data-root={world.data_root}", "--exec-root=/run/wherry"]
    arguments += [f"--host=unix://{world.socket_path}", "--pidfile=/run/engine.pid"]
    engine = points.launch([*ENGINE, *arguments], env=os.environ)
    while True:
        try:
            world.ask("GET", "/info")
            return
        except (OSError, http.client.HTTPException):
            assert engine.poll() is None, "the engine does not start"
            time.sleep(0.1)


def _measure(world: World, points: Points, name: str) -> dict[str, Any]:
    world.clear()
    OPERATIONS[name].before(world)
    old = world.state()
    points.arm()
    OPERATIONS[name].act(world)
    total = points.disarm()
    return {"old": sorted(old), "new": sorted(world.state()), "points": total, "problems": world.problems()}


def _judge(world: World, name: str, old: State, new: State) -> dict[str, Any]:
    operation, wrong = OPERATIONS[name], []
    found = world.state()
    if not operation.is_allowed(found, old, new):
        wrong.append(f"neither the old nor the new state: {sorted(found)}")
    wrong += world.problems()
    try:
        operation.act(world)
        if world.state() != operation.once_more(found, new):
            wrong.append(f"once more: {sorted(world.state())}")
        wrong += [f"once more: {problem}" for problem in world.problems()]
    except RuntimeError as error:
        wrong.append(f"once more: {error}")
    return {"state": "old" if found == old else "new" if found == new else "between", "wrong": wrong}


def _state(stored: Any) -> State:
    def frozen(value: Any) -> Any:
        return tuple(frozen(item) for item in value) if isinstance(value, list) else value

    return frozenset(frozen(stored))


def _write(path: Path, value: Any) -> None:
    with open(path, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
