"""The names that users give to images. Pure."""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.spec.reference import Reference, parse

_DIGEST_ALGORITHMS = ("sha256", "sha384", "sha512")


def new_name(repository: str, tag: str) -> Reference:
    """The name that `tag`, `import` and `commit` give: a repository and a tag ("latest" if neither says one)."""
    reference = parse(repository)
    if reference.digest is not None:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if reference.familiar_name in _DIGEST_ALGORITHMS:
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_tag(tag) if tag else reference.tagged()
