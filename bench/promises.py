"""The table of promises: which work, against whom, and the ratio that may not be exceeded. The numbers of docs/SPECIFICATION.md."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import work
from bench.engines import Engine

PAUSE_SECONDS = 0.05
"""Between two starts in the second half of the samples: an idle machine shows costs that back-to-back runs hide."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Promise:
    name: str
    work: str
    peer: str
    at_most: float
    unit: str = "ms"


PROMISES = (
    Promise("run-none", "docker run --rm --network none busybox true", "dockerd", 1 / 4),
    Promise("run-bridge", "docker run --rm busybox true (default bridge)", "dockerd", 1 / 4),
    Promise("exec", "docker exec c true", "dockerd", 1 / 2),
    Promise("api-none", "API create+start+wait+delete, kept connection (none)", "dockerd", 1 / 8),
    Promise("api-bridge", "API create+start+wait+delete, kept connection (bridge)", "dockerd", 1 / 8),
    Promise("memory", "memory (PSS of its shim) that one more idle container costs", "dockerd", 1 / 2, "MB"),
    Promise("runc-run", "wherry-runc run of a bundle", "runc", 1.3),
)


@dataclass
class Result:
    promise: Promise
    peer: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.peer), statistics.median(self.ours)

    @property
    def ratio(self) -> float:
        peer, ours = self.medians
        return ours / peer

    @property
    def is_kept(self) -> bool:
        return self.ratio <= self.promise.at_most


def alternate(
    result: Result, count: int, peer: Callable[[], float], ours: Callable[[], float], progress: Progress
) -> None:
    """`count` pairs after one warm-up of each: half of them back to back, half with pauses."""
    peer()
    ours()
    for index in range(count):
        progress(f"{result.promise.name} {index + 1}/{count}")
        for sink, once in ((result.peer, peer), (result.ours, ours)):
            if index >= count // 2:
                time.sleep(PAUSE_SECONDS)
            sink.append(once())


def measure(promise: Promise, engines: tuple[Engine, Engine] | None, count: int, progress: Progress) -> Result:
    result = Result(promise)
    if promise.name == "runc-run":
        bundle = work.Bundle()
        try:
            alternate(result, count, lambda: bundle.once("runc"), lambda: bundle.once("wherry-runc"), progress)
        finally:
            bundle.close()
        return result
    assert engines is not None
    peer, ours = engines
    match promise.name:
        case "run-none":
            alternate(result, count, lambda: work.run_isolated(peer), lambda: work.run_isolated(ours), progress)
        case "run-bridge":
            alternate(result, count, lambda: work.run_bridged(peer), lambda: work.run_bridged(ours), progress)
        case "exec":
            _with(work.Exec(*engines), result, count, engines, progress)
        case "api-none" | "api-bridge":
            _with(work.Api(promise.name.removeprefix("api-"), *engines), result, count, engines, progress)
        case "memory":
            progress("memory")
            result.peer.append(work.idle_memory(peer))
            result.ours.append(work.idle_memory(ours))
    return result


def _with(job: Any, result: Result, count: int, engines: tuple[Engine, Engine], progress: Progress) -> None:
    try:
        alternate(result, count, lambda: job.once(engines[0]), lambda: job.once(engines[1]), progress)
    finally:
        job.close()
