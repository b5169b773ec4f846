"""`docker images`: which images, in which order; and which of them `prune` takes. Pure but for look-ups of the images that filters name."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from wherry.core.images import Image, Images
from wherry.engine import pruning
from wherry.engine.image_json import created_ns, labels
from wherry.engine.times import parse_timestamp
from wherry.errors import InvalidArgument
from wherry.spec.calls import Names
from wherry.spec.reference import Reference
from wherry.wire import expressions

FILTERS = frozenset(("dangling", "label", "label!", "before", "since", "reference", "until"))
PRUNE_FILTERS = pruning.FILTERS | {"dangling"}


def select(images: Images, *, all: bool, filters: Mapping[str, Names]) -> list[Image]:
    """Newest first. Without `all`, images that only lie below others here are left out. InvalidArgument for a filter that there is not."""
    pruning.check(filters, FILTERS)
    found = sorted(images.list(), key=created_ns, reverse=True)
    if not all:
        parents = {image.parent for image in found}
        found = [image for image in found if image.references or image.id not in parents]
    if filters.get("dangling"):
        wanted = flag(filters["dangling"], "dangling")
        found = [image for image in found if wanted != bool(image.repo_tags)]
    tests = [test for name, values in filters.items() if (test := _test(images, name, values)) is not None]
    return [image for image in found if _passes(image, tests)]


def flag(values: Names, name: str) -> bool:
    lowered = {value.lower() for value in values}
    if lowered <= {"1", "true"}:
        return True
    if lowered <= {"0", "false"}:
        return False
    raise InvalidArgument(f"invalid filter '{name}=[{' '.join(values)}]'")


Test = Callable[[Image], bool]


def _passes(image: Image, tests: list[Test]) -> bool:
    return all_true(test(image) for test in tests)


all_true = all
"""`all` itself, where a parameter has its name."""


def _test(images: Images, name: str, values: Names) -> Test | None:
    match name:
        case "label" | "label!":
            return lambda image: pruning.fits_labels(labels(image), {name: values})
        case "before" | "since":
            pivots = [created_ns(images.get(value)) for value in values]
            if name == "before":
                return lambda image: all_true(created_ns(image) < pivot for pivot in pivots)
            return lambda image: all_true(created_ns(image) > pivot for pivot in pivots)
        case "until":
            if not values:
                return None
            deadline = min(parse_timestamp(value, now_ns=time.time_ns()) for value in values)
            return lambda image: created_ns(image) < deadline
        case "reference":
            return lambda image: any(matches(reference, values) for reference in image.references)
    return None


def matches(reference: Reference, patterns: Names) -> bool:
    """Docker's `reference` filter: a shell pattern for the whole familiar name, or for it without tag and digest."""
    return any(fits(text) for fits in map(_glob, patterns) for text in (reference.familiar, reference.familiar_name))


def _glob(pattern: str) -> expressions.Search:
    """Go's path.Match: "*" and "?" stop at "/". InvalidArgument for an unfinished class."""
    out, position = r"\A", 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            out = out.removesuffix("[^/]*") + "[^/]*"
        elif character == "?":
            out += "[^/]"
        elif character == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern")
            inside = pattern[position:end].replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{inside}]"
            position = end + 1
        elif character == "\\" and position < len(pattern):
            out += re.escape(pattern[position])
            position += 1
        else:
            out += re.escape(character)
    try:
        return expressions.compile(out + r"\z")
    except InvalidArgument:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern") from None
