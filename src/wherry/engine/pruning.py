"""What all prunes share: the filters `until`, `label`, `label!`, and that of each kind there is one at a time.

Sources: the Engine API's description; dockerd for what it leaves open.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar, cast

from wherry.engine.times import parse_timestamp
from wherry.errors import Conflict, InvalidArgument
from wherry.spec.calls import Json, Names

Prune = TypeVar("Prune", bound=Callable[..., Awaitable[Json]])

FILTERS = frozenset(("until", "label", "label!"))


def one_at_a_time(prune: Prune) -> Prune:
    """For a method: Conflict, in dockerd's words, while it is at work for the same object."""
    at_work: set[object] = set()

    @functools.wraps(prune)
    async def alone(self: object, filters: Mapping[str, Names]) -> Json:
        if self in at_work:
            raise Conflict("a prune operation is already running")
        at_work.add(self)
        try:
            return await prune(self, filters)
        finally:
            at_work.discard(self)

    return cast(Prune, alone)


def check(filters: Mapping[str, Names], known: Collection[str] = FILTERS) -> None:
    """InvalidArgument for a filter that there is not."""
    for name in filters:
        if name not in known:
            raise InvalidArgument(f"invalid filter '{name}'")


def deadline(filters: Mapping[str, Names]) -> int | None:
    """What `until` says, in unix nanoseconds: what was made later stays. None: there is no such filter. InvalidArgument."""
    values = filters.get("until") or []
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    return parse_timestamp(values[0], now_ns=time.time_ns()) if values else None


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """`wanted`: "key" or "key=value"."""
    key, separator, value = wanted.partition("=")
    return key in labels and (not separator or labels[key] == value)


def has_all_labels(labels: Mapping[str, str], wanted: Names) -> bool:
    """What `label` lets through, and `label!` keeps out: several values count together, as in dockerd."""
    return all(has_label(labels, one) for one in wanted)


def fits_labels(labels: Mapping[str, str], filters: Mapping[str, Names]) -> bool:
    unwanted = filters.get("label!") or []
    return has_all_labels(labels, filters.get("label") or []) and not (unwanted and has_all_labels(labels, unwanted))
