"""Where the zygote's memory is written to, so that few of its pages become a shim's own.

Every object that is used is written to, since it holds its reference count; the kernel copies the page for the process that writes. So what a
shim uses should lie together, and away from what only its workers use. Runs in the zygote, once. What it relies on (sizes of pools, where the
C library takes memory from) is no more than likely: where it does not hold, a shim is larger, and nothing else.
"""

from __future__ import annotations

import gc

from wherry.linux.syscalls import Long, function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

_SMALLEST, _LARGEST_POOLED, _LARGEST = 48, 512, 64 * 1024
"""Sizes in bytes: the interpreter takes blocks up to 512 from pools of one size each, larger ones from the C library."""
_BYTES_HEADER = 33
_POOL, _POOL_HEADER = 16 * 1024, 48
_MOST = 4096
"""Of one size."""
_ENOUGH = 64
"""So many of the largest do not fit into gaps: the last lies at the heap's end."""

_malloc_trim = function("malloc_trim", Long)


def fill_gaps() -> list[bytes]:
    """Objects that take up whatever is free between the others, to be kept. What is made next lies together, on new pages."""
    kept = []
    for size in range(_SMALLEST, _LARGEST_POOLED + 1, 16):
        for _ in range(_MOST):
            block = bytes(size - _BYTES_HEADER)
            if id(block) % _POOL == _POOL_HEADER:  # the first of a new pool, which is given back
                break
            kept.append(block)
    largest = [bytes(_LARGEST) for _ in range(_ENOUGH)]
    end = max(map(id, largest))
    for size in (*range(_LARGEST - 4096, 8 * 1024, -4096), *range(8 * 1024, _LARGEST_POOLED, -16)):
        for _ in range(_MOST):
            block = bytes(size)
            if id(block) > end:
                break
            kept.append(block)
    largest.clear()
    _malloc_trim(0)
    return kept


def gather(played: dict[int, int]) -> None:
    """Moves the code of functions together, in the order of `played`: {id of a code object: place}."""
    functions = [item for item in gc.get_objects() if type(item) is type(gather) and id(item.__code__) in played]
    functions.sort(key=lambda item: played[id(item.__code__)])
    old = [item.__code__ for item in functions]  # what is freed now would be taken for the next
    for each, code in zip(functions, old, strict=True):
        each.__code__ = _copy(code)


def _copy(code: CodeType) -> CodeType:
    return code.replace(co_consts=tuple(_copy(item) if type(item) is type(code) else item for item in code.co_consts))
