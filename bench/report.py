"""The results as a table on the terminal and as docs/benchmarks.md, with the facts of the machine that they come from."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess

from rich.console import Console
from rich.table import Table

from bench.promises import Result


def fraction(value: float) -> str:
    return f"1/{round(1 / value)}" if value < 1 else f"{value:.1f} ×"


def figures(result: Result) -> tuple[str, str]:
    scale = 1e3 if result.promise.unit == "ms" else 1 / 2**20
    peer, ours = result.medians
    return f"{peer * scale:.1f} {result.promise.unit}", f"{ours * scale:.1f} {result.promise.unit}"


def show(results: list[Result], count: int) -> None:
    table = Table("work", "peer", "wherry", "ratio", "at most", "", title=f"medians of {count} pairs")
    for result in results:
        peer, ours = figures(result)
        verdict = "[green]kept[/]" if result.is_kept else "[red]broken[/]"
        limit = fraction(result.promise.at_most)
        table.add_row(
            result.promise.work, f"{peer} ({result.promise.peer})", ours, f"{result.ratio:.3f}", limit, verdict
        )
    Console().print(table)


def write(path: str, results: list[Result], count: int) -> None:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Peer and wherry alternate in one run on one machine; the figures are medians of",
        f"{count} pairs, half of them back to back, half with pauses of 50 ms between starts. The promises are those of",
        "[SPECIFICATION.md](SPECIFICATION.md).",
        "",
        "| work | peer | wherry | ratio | promised | |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        peer, ours = figures(result)
        cells = [
            result.promise.work,
            f"{peer} ({result.promise.peer})",
            ours,
            f"{result.ratio:.3f}",
            f"≤ {fraction(result.promise.at_most)}",
            "kept" if result.is_kept else "**broken**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## The machine", "", *(f"- {fact}" for fact in facts()), ""]
    with open(path, "w") as file:
        file.write("\n".join(lines))


def facts() -> list[str]:
    return [
        f"date: {datetime.date.today().isoformat()}",
        f"processor: {_processor()}, {len(os.sched_getaffinity(0))} cores",
        f"memory: {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        f"kernel: {os.uname().release.partition('-')[0]}",
        f"Python: {platform.python_version()}",
        *(_version(*command) for command in (("dockerd", "--version"), ("docker", "--version"), ("runc", "--version"))),
    ]


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        return next(names, platform.machine())


def _version(program: str, option: str) -> str:
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    return f"{program}: {done.stdout.splitlines()[0] if done.stdout else 'not found'}"
