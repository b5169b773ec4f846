"""Image references as users write them."""

from __future__ import annotations

import pytest

from wherry.client import reference


@pytest.mark.parametrize(
    ("ref", "name", "tag", "domain", "familiar", "canonical"),
    [
        ("busybox", "busybox", "", "docker.io", "busybox:latest", "docker.io/library/busybox:latest"),
        ("busybox:1", "busybox", "1", "docker.io", "busybox:1", "docker.io/library/busybox:1"),
        ("me/app", "me/app", "", "docker.io", "me/app:latest", "docker.io/me/app:latest"),
        ("docker.io/library/a:1", "docker.io/library/a", "1", "docker.io", "a:1", "docker.io/library/a:1"),
        ("index.docker.io/me/a", "index.docker.io/me/a", "", "docker.io", "me/a:latest", "docker.io/me/a:latest"),
        ("localhost/a", "localhost/a", "", "localhost", "localhost/a:latest", "localhost/a:latest"),
        ("a:5000/b", "a:5000/b", "", "a:5000", "a:5000/b:latest", "a:5000/b:latest"),
        ("a:5000/b:c", "a:5000/b", "c", "a:5000", "a:5000/b:c", "a:5000/b:c"),
        (
            "ghcr.io/a/b@sha256:12",
            "ghcr.io/a/b",
            "sha256:12",
            "ghcr.io",
            "ghcr.io/a/b@sha256:12",
            "ghcr.io/a/b@sha256:12",
        ),
        ("a:t@sha256:12", "a", "sha256:12", "docker.io", "a@sha256:12", "docker.io/library/a@sha256:12"),
    ],
)
def test_a_reference_is_taken_apart(ref: str, name: str, tag: str, domain: str, familiar: str, canonical: str) -> None:
    assert reference.split(ref) == (name, tag)
    assert reference.domain(ref) == domain
    assert reference.familiar(ref) == familiar
    assert reference.canonical(ref) == canonical
