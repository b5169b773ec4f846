"""Image references as a user writes them: taken apart without judging them (the engine does), and written the way Docker shows them."""

from __future__ import annotations

_DEFAULT_DOMAIN = "docker.io"


def split(ref: str) -> tuple[str, str]:
    """(name, tag or digest or ""): "a:5000/b:c" → ("a:5000/b", "c"); "a@sha256:…" → ("a", "sha256:…")."""
    name, at, digest = ref.partition("@")
    if at:
        return split(name)[0], digest
    head, slash, last = name.rpartition("/")
    last_name, _, tag = last.partition(":")
    return head + slash + last_name, tag


def familiar_name(name: str) -> str:
    """A repository's name without what everybody assumes: "docker.io/library/busybox" → "busybox"."""
    for prefix in (
        f"{_DEFAULT_DOMAIN}/library/",
        f"{_DEFAULT_DOMAIN}/",
        "index.docker.io/library/",
        "index.docker.io/",
    ):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def familiar(ref: str) -> str:
    """The short form with its tag: "docker.io/library/busybox" → "busybox:latest"."""
    name, tag = split(ref)
    name = familiar_name(name)
    if ":" in tag:
        return f"{name}@{tag}"
    return f"{name}:{tag or 'latest'}"


def domain(ref: str) -> str:
    """The registry that a reference names: "docker.io" when it names none."""
    first, slash, _ = split(ref)[0].partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return _DEFAULT_DOMAIN if first == "index.docker.io" else first
    return _DEFAULT_DOMAIN


def canonical(ref: str) -> str:
    """The whole name: "busybox" → "docker.io/library/busybox:latest"."""
    name, tag = split(ref)
    name, where = familiar_name(name), domain(ref)
    if where == _DEFAULT_DOMAIN:
        name = f"{where}/{name}" if "/" in name else f"{where}/library/{name}"
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag or 'latest'}"
