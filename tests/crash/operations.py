"""What is interrupted, as requests of the API: each brings a store from an old state to a new one, and can be asked for the old one again.

`World` is an engine that answers on its socket, with its data root; a registry that has the image `app:1` and `app:2`. The states are compared by
what people see: names, digests, the number of layers, containers.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.images import Entry, ImageSpec, docker_archive, layer, write_oci_layout
from wherry.core.verify import Kind, check_idle

State = frozenset[tuple[Any, ...]]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass
class World:
    socket_path: str
    data_root: Path
    registry: str

    def ask(self, method: str, path: str, body: bytes | None = None, *, ok: tuple[int, ...] = ()) -> Any:
        """→ the answer's JSON, or the last line of a stream. OSError or HTTPException when the engine goes away; RuntimeError when it refuses."""
        connection = _Connection(self.socket_path)
        try:
            kind = "application/x-tar" if body and body[:1] != b"{" else "application/json"
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status >= 400 and response.status not in ok:
            raise RuntimeError(f"{method} {path}: {response.status} {text}")
        lines = text.strip().splitlines()
        last = json.loads(lines[-1]) if lines and lines[-1][:1] in "[{" else None
        if isinstance(last, dict) and "errorDetail" in last:
            raise RuntimeError(f"{method} {path}: {last['errorDetail']}")
        return last

    def state(self) -> State:
        found: set[tuple[Any, ...]] = set()
        for image in self.ask("GET", "/images/json?all=1"):
            detail = self.ask("GET", f"/images/{image['Id']}/json")
            names = (tuple(sorted(image["RepoTags"])), tuple(sorted(image["RepoDigests"])))
            found.add(("image", *names, len(detail["RootFS"]["Layers"])))
        for container in self.ask("GET", "/containers/json?all=1"):
            found.add(("container", *container["Names"]))
        return frozenset(found)

    def problems(self, *, leftovers: bool = False) -> list[str]:
        """Of the store. Files of what was removed go soon after the answer, so what is left over must stay so; `leftovers`: there may be some."""
        for _ in range(600):
            found = check_idle(str(self.data_root), f"{self.data_root}-scratch").problems
            if leftovers:
                found = [problem for problem in found if problem.kind is not Kind.LEFTOVER]
            if not any(problem.kind is Kind.LEFTOVER for problem in found):
                break
            time.sleep(0.1)
        return [str(problem) for problem in found]

    # --- the steps that operations are made of

    def clear(self) -> None:
        for container in self.ask("GET", "/containers/json?all=1"):
            self.ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        self.ask("POST", "/images/prune?filters=" + '{"dangling":["false"]}')

    def pull(self, tag: str = "1") -> None:
        self.ask("POST", f"/images/create?fromImage={self.registry}/app&tag={tag}")

    def load(self) -> None:
        self.ask("POST", "/images/load", LOADED)

    def make(self, name: str, image: str) -> str:
        body = json.dumps({"Image": image, "Cmd": ["/x"], "HostConfig": {"NetworkMode": "none"}}).encode()
        made: str = self.ask("POST", f"/containers/create?name={name}", body)["Id"]
        return made


@dataclass(frozen=True)
class Operation:
    """`before` makes the old state of an empty store. `stepwise`: it changes several objects, each for itself."""

    name: str
    before: Callable[[World], object]
    act: Callable[[World], object]
    stepwise: bool = False
    makes_anew: bool = False
    """Done once more it makes another image, which takes the name from the first."""

    def is_allowed(self, state: State, old: State, new: State) -> bool:
        return new <= state <= old if self.stepwise else state in (old, new)

    def once_more(self, state: State, new: State) -> State:
        """What it makes of `state`, which it has left."""
        if not self.makes_anew or state != new:
            return new
        [made] = [entry for entry in new if entry[0] == "image" and entry[1] in (("imp:1",), ("made:1",))]
        return new | {("image", (), (), made[3])}


BASE = layer(
    [
        Entry("bin", mode=0o755, directory=True),
        Entry("bin/tool", b"#!tool\n" * 200_000, 0o4755),  # not `core.small_layers`: a worker unpacks it
        Entry("bin/link", target="tool"),
        Entry("etc", mode=0o750, uid=3, gid=4, directory=True),
        Entry("etc/conf", b"base\n", uid=3),
    ]
)
ONE = layer([Entry("etc/conf", b"one\n"), Entry("etc/more", b"m" * 70000), Entry("same", target="etc/more", hard=True)])
TWO = layer([Entry("etc/.wh.conf", b""), Entry("var/lib/two", b"2" * 40000)])
LOADED = docker_archive(ImageSpec((layer([Entry("first", b"1" * 50000)]), ONE), {}), ["loaded:1"])
ROOTFS = layer([Entry("a", mode=0o755, directory=True), Entry("a/file", b"f" * 60000), Entry("b", target="a/file")])


def write_layouts(directory: Path) -> dict[str, str]:
    """tag → an OCI layout for the registry."""
    found = {}
    for tag, top in (("1", ONE), ("2", TWO)):
        found[tag] = str(directory / f"layout-{tag}")
        write_oci_layout(found[tag], ImageSpec((BASE, top), {"Cmd": ["/bin/tool"]}))
    return found


def _changed_container(world: World) -> None:
    world.pull()
    made = world.make("box", f"{world.registry}/app:1")
    upper = world.data_root / "snapshots/active" / made / "fs"
    (upper / "written").write_bytes(b"w" * 30000)
    (upper / "etc").mkdir(mode=0o750, exist_ok=True)  # with some storage drivers the whole tree is there
    (upper / "etc/new").write_bytes(b"n")


def _two_containers(world: World) -> None:
    world.pull()
    world.load()
    world.make("one", f"{world.registry}/app:1")
    world.make("two", "loaded:1")


def _prune_images(world: World) -> None:
    world.ask("POST", "/images/prune?filters=" + '{"dangling":["false"]}')


def _prune_containers(world: World) -> None:
    world.ask("POST", "/containers/prune")


def _prune_system(world: World) -> None:
    _prune_containers(world)
    _prune_images(world)


OPERATIONS = {
    one.name: one
    for one in (
        Operation("pull", lambda world: None, lambda world: world.pull()),
        Operation("pull-update", lambda world: world.pull("1"), lambda world: world.pull("2")),
        Operation("load", lambda world: None, lambda world: world.load()),
        Operation(
            "import",
            lambda world: None,
            lambda w: w.ask("POST", "/images/create?fromSrc=-&repo=imp&tag=1", ROOTFS),
            makes_anew=True,
        ),
        Operation(
            "commit",
            _changed_container,
            lambda w: w.ask("POST", "/commit?container=box&repo=made&tag=1", b"{}"),
            makes_anew=True,
        ),
        Operation(
            "tag", lambda w: w.pull(), lambda w: w.ask("POST", f"/images/{w.registry}/app:1/tag?repo=other&tag=1")
        ),
        Operation("rmi", lambda w: w.pull(), lambda w: w.ask("DELETE", f"/images/{w.registry}/app:1", ok=(404,))),
        Operation("image-prune", lambda w: (w.pull(), w.load()), _prune_images, stepwise=True),
        Operation("container-prune", _two_containers, _prune_containers, stepwise=True),
        Operation("system-prune", _two_containers, _prune_system, stepwise=True),
    )
}
