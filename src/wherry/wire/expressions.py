"""Regular expressions that come with a request: Go's, which are RE2's, matched in linear time whatever they are.

In wherryd. Python's own would try some expressions for hours, on the event loop. Source: dockerd's filters (`name`, `id`) and log options
(`labels-regex`, `env-regex`); github.com/google/re2/wiki/Syntax. RE2 is loaded with the first expression: it costs 1 MB and some milliseconds.

An expression may take 256 KiB to compile; dockerd's bound is a repeat count of 1000.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from wherry.errors import InvalidArgument

_MAX_MEMORY = 1 << 18
_GO_WORDS = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "bad repetition operator": "invalid nested repetition operator",
    "no argument for repetition operator": "missing argument to repetition operator",
    "invalid repetition size": "invalid repeat count",
    "invalid named capture group": "invalid named capture",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "pattern too large - compile failed": "expression too large",
}

Search = Callable[[str], bool]


def compile(expression: str) -> Search:
    """Whether a text holds what `expression` describes. InvalidArgument, in the words of Go's regexp, for one that is wrong."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # to find groups, it would be many times slower
    options.max_mem = _MAX_MEMORY
    try:
        compiled = re2.compile(expression, options=options)
    except re2.error as error:
        said, _, place = error.args[0].decode("utf-8", "replace").partition(": ")
        if said.startswith("trailing \\"):
            said, place = "trailing backslash at end of expression", ""
        raise InvalidArgument(f"error parsing regexp: {_GO_WORDS.get(said, said)}: `{place}`") from None
    except UnicodeEncodeError:
        raise InvalidArgument("error parsing regexp: invalid UTF-8") from None
    return lambda text: compiled.search(text) is not None


def any_of(values: Iterable[str]) -> Search:
    """Whether a text is one of `values`, or matches one: as a filter means them. A value that is no expression is only itself, as in dockerd."""
    exact, searches = set(values), []
    for value in sorted(exact):
        try:
            searches.append(compile(value))
        except InvalidArgument:
            continue
    return lambda text: text in exact or any(search(text) for search in searches)
