"""The filters of volume lists and of prune. Pure; Docker's names: `dangling`, `driver`, `label`, `label!`, `name`, `all`."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from wherry.errors import InvalidArgument
from wherry.volumes.model import Volume
from wherry.wire import expressions

Filters = Mapping[str, Sequence[str]]
_TRUE, _FALSE = ("1", "true", "True", "TRUE", "t", "T"), ("0", "false", "False", "FALSE", "f", "F")


def check(filters: Filters, allowed: Sequence[str]) -> None:
    """InvalidArgument for a filter that is not among `allowed`."""
    for key in filters:
        if key not in allowed:
            raise InvalidArgument(f"invalid filter '{key}'")


def boolean(filters: Filters, key: str) -> bool | None:
    """None when the filter is not given. InvalidArgument when it is no truth value, or both."""
    values = filters.get(key) or ()
    if not values:
        return None
    if all(value in _TRUE for value in values):
        return True
    if all(value in _FALSE for value in values):
        return False
    raise InvalidArgument(f"invalid filter '{key}=[{' '.join(values)}]'")


def test(filters: Filters, in_use: Container[str]) -> Callable[[Volume], bool]:
    """Whether a volume passes every filter given; `name` is a regular expression, several values of a filter are alternatives (labels count
    together)."""
    dangling = boolean(filters, "dangling")
    unwanted = filters.get("label!") or ()
    names, drivers = filters.get("name") or (), filters.get("driver") or ()
    has_name = expressions.any_of(names)
    return lambda volume: (
        (dangling is None or dangling is not (volume.name in in_use))
        and (not names or has_name(volume.name))
        and (not drivers or "local" in drivers)
        and all(_has_label(volume, wanted) for wanted in filters.get("label") or ())
        and not (unwanted and all(_has_label(volume, label) for label in unwanted))
    )


def _has_label(volume: Volume, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    labels = dict(volume.labels)
    return key in labels and (not equals or labels[key] == value)
