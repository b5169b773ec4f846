"""This process's memory: having its pages before they are written to.

Runs in forks of the zygote that wait for work. After a fork the first write to each page costs a fault and a copy (1 to 2 µs here, some hundred
of them per container); a process that waits has the time to take them ahead. Sources: madvise(2) MADV_POPULATE_WRITE (Linux 5.14),
proc_pid_maps(5),
proc_pid_pagemap(5).
"""

from __future__ import annotations

import os

from wherry.linux.syscalls import Long, function

_POPULATE_WRITE = 23
_PAGE = os.sysconf("SC_PAGESIZE")
_ENTRY, _PRESENT = 8, b"\x80"  # /proc/PID/pagemap: the highest of 64 bits, on a machine whose lowest byte comes first

_madvise = function("madvise", Long, Long, Long)
_ranges: list[tuple[int, int]] = []


def note_ranges() -> None:
    """Finds the private writable memory that this process uses, for `copy_ahead` in its forks."""
    _ranges.clear()
    with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pages:
        for line in maps.read().splitlines():
            addresses, permissions = line.split(b" ", 2)[:2]
            if permissions == b"rw-p":
                start, end = (int(address, 16) for address in addresses.split(b"-"))
                _note_present(start, os.pread(pages.fileno(), (end - start) // _PAGE * _ENTRY, start // _PAGE * _ENTRY))


def _note_present(start: int, entries: bytes) -> None:
    """The runs of pages from `start` on whose `entries`, 64 bits each, say that they are there."""
    first = None
    for number in range(len(entries) // _ENTRY + 1):
        present = entries[number * _ENTRY + _ENTRY - 1 : number * _ENTRY + _ENTRY] >= _PRESENT
        if present and first is None:
            first = number
        elif not present and first is not None:
            _ranges.append((start + first * _PAGE, (number - first) * _PAGE))
            first = None


def copy_ahead() -> None:
    """Makes all of it this process's own. What the kernel does not take (too old, out of memory) is copied when it is written to, as ever."""
    for start, length in _ranges:
        _madvise(start, length, _POPULATE_WRITE)
