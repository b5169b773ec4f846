"""Pulls, runs, commits, tags, removals and prunes at the same time: nothing that is in use goes, nothing that is not stays.

`WHERRY_STRESS_SECONDS` says for how long (a few seconds unless said otherwise), `WHERRY_STRESS_WORKERS` by how many clients; `make stress` is the
long one.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, UnixConnection, differs_on_dockerd, wait_until
from tests.images import Entry, ImageSpec, busybox_layer
from tests.registry import docker_registry, skopeo_copy
from wherry.core.verify import Kind, Verdict, check_idle

pytestmark = [pytest.mark.requires("registry", "skopeo"), differs_on_dockerd("looks into wherry's store")]

SECONDS = float(os.environ.get("WHERRY_STRESS_SECONDS", "6"))
WORKERS = int(os.environ.get("WHERRY_STRESS_WORKERS", "8"))
COMMON = images.layer([Entry(f"common/{n}", bytes([n])) for n in range(50)])
SPECS = {
    f"app{n}": ImageSpec(
        (busybox_layer(), COMMON, images.layer([Entry(f"own/{n}", random.Random(n).randbytes(200_000))])),
        {"Cmd": ["true"], "Env": [f"N={n}"]},
    )
    for n in range(6)
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("registry")
    with docker_registry(root) as host:
        for name, spec in SPECS.items():
            images.write_oci_layout(str(root / name), spec)
            skopeo_copy(f"oci:{root}/{name}:latest", f"docker://{host}/{name}:1")
        yield host


class Worker(threading.Thread):
    """Does one thing after the other until the time is over. `problems`: answers that no client may ever get."""

    def __init__(self, engine: Engine, registry: str, number: int, deadline: float) -> None:
        super().__init__()
        self.random = random.Random(number)
        self.number = number
        self.done: Counter[str] = Counter()
        self.problems: list[str] = []
        self._engine = engine
        self._registry = registry
        self._deadline = deadline

    def run(self) -> None:
        jobs: list[tuple[Callable[[], None], int]] = [
            (self.pull, 5),
            (self.pull_halfway, 2),
            (self.run_container, 5),
            (self.commit, 3),
            (self.tag, 2),
            (self.remove, 4),
            (self.prune, 3),
            (self.save, 1),
        ]
        names, weights = [job for job, _ in jobs], [weight for _, weight in jobs]
        while time.monotonic() < self._deadline and not self.problems:
            job = self.random.choices(names, weights)[0]
            try:
                job()
            except Exception as error:  # whatever it is, it is to be shown
                self.problems.append(f"{job.__name__}: {error!r}")
            self.done[job.__name__] += 1

    def ask(self, method: str, path: str, *allowed: int, body: object = None) -> object:
        status, answer = self._engine.api(method, path, body)
        if status not in allowed:
            self.problems.append(f"{method} {path}: {status} {answer}")
        return answer

    def name(self) -> str:
        return f"{self._registry}/{self.random.choice(sorted(SPECS))}:1"

    def pull(self) -> None:
        answer = self.ask("POST", f"/images/create?fromImage={quote(self.name())}", 200)
        if "errorDetail" in str(answer):
            self.problems.append(f"pull: {answer}")

    def pull_halfway(self) -> None:
        """The client goes away."""
        connection = UnixConnection(self._engine.socket_path)
        connection.request("POST", f"/images/create?fromImage={quote(self.name())}")
        time.sleep(self.random.random() * 0.1)
        connection.close()

    def run_container(self) -> None:
        name = self.name()
        command = ["sh", "-c", "cat /common/* /own/* > /copy; test $(ls /common | wc -l) = 50 && test -s /copy"]
        body = {"Image": name, "Cmd": command, "HostConfig": {"NetworkMode": "none"}}
        created = self.ask("POST", "/containers/create", 201, 404, body=body)
        assert isinstance(created, dict)
        if "Id" not in created:
            return
        self.ask("POST", f"/containers/{created['Id']}/start", 204, 404, 409)
        waited = self.ask("POST", f"/containers/{created['Id']}/wait", 200, 404)  # 404: see `commit`
        if not isinstance(waited, dict) or waited.get("StatusCode", 0) != 0:
            self.problems.append(f"a container of {name} does not see its files: {waited}")
        if self.random.random() < 0.8:
            self.ask("DELETE", f"/containers/{created['Id']}?force=1", 204, 404, 409)

    def commit(self) -> None:
        listed = self.ask("GET", "/containers/json?all=1", 200)
        assert isinstance(listed, list)
        if listed:
            container = self.random.choice(listed)["Id"]
            name = f"repo=made{self.number}&tag={self.random.randrange(4)}"
            self.ask("POST", f"/commit?container={container}&{name}", 201, 404, 409)
            if len(listed) > 5:  # only one that has ended: others are at work in theirs
                self.ask("DELETE", f"/containers/{container}", 204, 404, 409)

    def tag(self) -> None:
        self.ask("POST", f"/images/{quote(self.name(), safe='')}/tag?repo=tag{self.number}", 201, 404)

    def remove(self) -> None:
        listed = self.ask("GET", "/images/json?all=1", 200)
        assert isinstance(listed, list)
        candidates = [image for image in listed if BUSYBOX not in image["RepoTags"]]
        if candidates:
            image = self.random.choice(candidates)
            ref = self.random.choice([image["Id"], *image["RepoTags"]])
            force = self.random.choice(["", "?force=1"])
            self.ask("DELETE", f"/images/{quote(ref, safe='')}{force}", 200, 404, 409)

    def prune(self) -> None:
        filters = self.random.choice(['{"dangling":["true"]}', '{"dangling":["false"],"label!":["keep"]}'])
        self.ask("POST", f"/images/prune?filters={quote(filters)}", 200, 409)  # 409: another one is at work

    def save(self) -> None:
        connection = UnixConnection(self._engine.socket_path)
        connection.request("GET", f"/images/{quote(self.name(), safe='')}/get")
        response = connection.getresponse()
        try:
            data = response.read()
        except http.client.IncompleteRead as error:
            self.problems.append(f"save: cut short: {error}")
            return
        finally:
            connection.close()
        if response.status not in (200, 404) or (response.status == 200 and not data.endswith(bytes(1024))):
            self.problems.append(f"save: {response.status} {data[:200]!r}")


def _settled(engine: Engine, tmp_path: Path) -> Verdict:
    """Once what clients have left behind that went away in the middle is gone."""
    found: list[Verdict] = []

    def nothing_left_over() -> bool:
        found.append(check_idle(str(engine.data_root), str(tmp_path / "scratch")))
        return not any(problem.kind is Kind.LEFTOVER for problem in found[-1].problems)

    wait_until("nothing is left over", nothing_left_over)
    return found[-1]


@pytest.mark.timeout(SECONDS + 600)
def test_nothing_in_use_goes_and_nothing_unused_stays(
    own_engine: Callable[..., Engine], registry: str, tmp_path: Path
) -> None:
    engine = own_engine()
    deadline = time.monotonic() + SECONDS
    workers = [Worker(engine, registry, number, deadline) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    problems = [problem for worker in workers for problem in worker.problems]
    done = sum((worker.done for worker in workers), Counter[str]())
    print(dict(done))
    assert not problems, "\n".join(problems[:10]) + engine.log()[-3000:]
    engine.api("POST", "/images/prune")
    verdict = _settled(engine, tmp_path)
    print(verdict.blobs, "blobs,", verdict.layers, "layers,", verdict.entries, "files verified")
    assert verdict.problems == [] and verdict.layers
    for container in engine.api("GET", "/containers/json?all=1")[1]:
        engine.api("DELETE", f"/containers/{container['Id']}?force=1")
    engine.api("POST", '/images/prune?filters={"dangling":["false"]}')
    assert engine.api("GET", "/images/json?all=1")[1] == []
    assert list((engine.data_root / "content/blobs/sha256").iterdir()) == []
    assert list((engine.data_root / "snapshots/layers").iterdir()) == []
    assert [path.name for path in (engine.data_root / "snapshots/init").iterdir()] in ([], ["0"])
    assert check_idle(str(engine.data_root), str(tmp_path / "scratch")).problems == []
