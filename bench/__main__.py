"""`python -m bench`: measures every promise (or those named by --only), prints the table, writes docs/benchmarks.md.

The exit code is 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from bench import report
from bench.engines import engines
from bench.promises import PROMISES, measure

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "benchmarks.md")


def main() -> int:
    names = [promise.name for promise in PROMISES]
    parser = argparse.ArgumentParser(prog="bench", description="wherry beside dockerd and runc, as root")
    parser.add_argument("--only", action="append", choices=names, help="measure only this (repeatable)")
    parser.add_argument("-n", type=int, default=30, help="pairs per row (30)")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md alone")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("containers of dockerd and wherry need root")
    wanted = [promise for promise in PROMISES if not options.only or promise.name in options.only]
    with contextlib.ExitStack() as stack:
        needs_engines = any(promise.peer == "dockerd" for promise in wanted)
        both = stack.enter_context(engines()) if needs_engines else None
        results = [measure(promise, both, options.n, progress) for promise in wanted]
    progress("")
    report.show(results, options.n)
    if not options.only and not options.no_write:
        report.write(PAGE, results, options.n)
    return 0 if all(result.is_kept for result in results) else 1


def progress(text: str) -> None:
    """One line that overwrites itself, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
