"""The filters that all prunes share: `until`, `label`, `label!`. Pure. Sources: the Engine API's description; dockerd for what it leaves open."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from wherry.engine.times import parse_timestamp
from wherry.errors import InvalidArgument
from wherry.spec.calls import Names

FILTERS = frozenset(("until", "label", "label!"))


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
