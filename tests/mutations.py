"""Strategies that spoil a JSON document: other types, numbers out of every range, nulls, deep nesting, long lists, strange
paths, lone surrogates, keys twice.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_TEXTS = (
    "",
    "/",
    ".",
    "..",
    "/../../etc",
    "a\0b",
    "\ud800",
    "/proc/self/fd/3",
    "/" + "x" * 5000,
    "line\nline",
    "-1",
    "🐚",
)
_NUMBERS = (
    0,
    -1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 63,
    1 << 64,
    -(1 << 63) - 1,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
)

values = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_TEXTS),
    st.sampled_from(_NUMBERS),
    st.just([]),
    st.just({}),
    st.lists(st.sampled_from((*_TEXTS, *_NUMBERS, None)), max_size=4),
    st.dictionaries(
        st.sampled_from(("type", "path", "", "\udfff")), st.sampled_from((*_TEXTS, *_NUMBERS, None)), max_size=3
    ),
    st.just(["x"] * 2_000),
    st.integers(30, 100).map(lambda depth: _nested(depth)),  # noqa: PLW0108 - it is defined below
)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


def _places(value: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted path, container, key) of everything in the document."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        name = f"{path}.{key}" if path else str(key)
        found.append((name, value, key))
        found += _places(item, name)
    return found


@st.composite
def mutated(draw: st.DrawFn, document: Any, keep: Sequence[str] = ()) -> bytes:
    """The document as JSON with up to three places spoilt; what `keep` names, and what is in it, stays."""
    spoilt = copy.deepcopy(document)
    twice = ""
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(spoilt) if not any(f"{place[0]}.".startswith(f"{name}.") for name in keep)]
        places = [place for place in places if not any(name.startswith(f"{place[0]}.") for name in keep)]
        _, container, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(("replace", "remove", "add", "twice")))
        if action == "remove":
            del container[key]
        elif action == "add" and isinstance(container, dict):
            container[draw(st.sampled_from(("", "unknown", "\ud83d", "path", "timeout", "unified")))] = copy.deepcopy(
                draw(values)
            )
        elif action == "twice" and isinstance(key, str):
            twice = json.dumps({key: draw(values)})[1:-1]
        else:
            container[key] = copy.deepcopy(draw(values))  # drawn lists are shared between examples
    text = json.dumps(spoilt)
    if twice:
        text = text[:-1] + f", {twice}}}"
    return text.encode("utf-8", "surrogatepass")
