"""What the project promises: each benchmark's name, what it measures, and the largest ratio to the peer's value that it may have.

docs/SPECIFICATION.md states these; a run of the benchmarks fails when one is broken.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    name: str
    what: str
    peer: str
    unit: str
    at_most: float
    """The largest value of wherry's median divided by the peer's."""


PROMISES = (
    Promise("run-none", "docker run --rm --network none busybox true", "dockerd", "ms", 1 / 4),
    Promise("run-bridge", "docker run --rm busybox true (default bridge)", "dockerd", "ms", 1 / 4),
    Promise("exec", "docker exec c true", "dockerd", "ms", 1 / 2),
    Promise(
        "api-none", "Engine API create + start + wait + delete, one connection, no network", "dockerd", "ms", 1 / 8
    ),
    Promise(
        "api-bridge",
        "Engine API create + start + wait + delete, one connection, default bridge",
        "dockerd",
        "ms",
        1 / 8,
    ),
    Promise("memory", "memory (PSS of the shims) that one more idle container costs", "dockerd", "MB", 1 / 2),
    Promise("registry-push", "a registry takes a blob of 500 MB", "docker-registry", "ms", 1.25),
    Promise("registry-pull", "a registry gives a blob of 500 MB", "docker-registry", "ms", 1.0),
    Promise("registry-push-small", "a registry takes 1000 blobs of 4 KB", "docker-registry", "ms", 0.5),
    Promise("registry-pull-small", "a registry gives 1000 blobs of 4 KB", "docker-registry", "ms", 0.5),
    Promise("runc", "wherry-runc run of a bundle (true)", "runc", "ms", 1),
    Promise("runc-steps", "wherry-runc create + start + delete of a bundle (true)", "runc", "ms", 1),
    Promise("runc-waiting", "memory (PSS) of the init that waits between create and start", "runc", "MB", 1),
    Promise("shim", "a whole container through a shim", "the same system calls in C", "ms", 2),
)
