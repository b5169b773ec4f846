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
    Promise("image-pull", "docker pull of an image of 4 layers, 30,000 small files and 500 MB", "dockerd", "ms", 0.8),
    Promise("image-pull-again", "docker pull of the same image with one small layer changed", "dockerd", "ms", 0.5),
    Promise("image-push", "docker push of the pulled image to an empty registry", "dockerd", "ms", 0.8),
    Promise("image-save", "docker save of it", "dockerd", "ms", 0.8),
    Promise("image-load", "docker load of what dockerd saved of it", "dockerd", "ms", 0.8),
    Promise("image-remove", "docker rmi of it", "dockerd", "ms", 0.5),
    Promise("image-memory", "memory (PSS of engine and workers) of its pull beyond idle", "a bound of 150 MB", "MB", 1),
    Promise("registry-push", "a registry takes a blob of 500 MB", "docker-registry", "ms", 1.25),
    Promise("registry-pull", "a registry gives a blob of 500 MB", "docker-registry", "ms", 1.0),
    Promise("registry-push-small", "a registry takes 1000 blobs of 4 KB", "docker-registry", "ms", 0.5),
    Promise("registry-pull-small", "a registry gives 1000 blobs of 4 KB", "docker-registry", "ms", 0.5),
    Promise("runc", "wherry-runc run of a bundle (true)", "runc", "ms", 1),
    Promise("runc-steps", "wherry-runc create + start + delete of a bundle (true)", "runc", "ms", 1),
    Promise("runc-waiting", "memory (PSS) of the init that waits between create and start", "runc", "MB", 1),
    Promise("shim", "a whole container through a shim", "the same system calls in C", "ms", 2),
)
