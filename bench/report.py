"""What a run found: a table for the terminal and docs/benchmarks.md, with the facts of the machine that it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measure import Result
from bench.promises import Promise
from wherry import __version__


@dataclass(frozen=True)
class Row:
    promise: Promise
    mode: str
    """How the samples were taken: "back to back", "with pauses", …"""
    ours: Result
    theirs: Result

    @property
    def ratio(self) -> float:
        return self.ours.median / self.theirs.median

    @property
    def is_kept(self) -> bool:
        return self.ratio <= self.promise.at_most


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "not installed"


def machine_facts() -> list[tuple[str, str]]:
    """What a reader needs to judge the numbers; nothing that names the machine."""
    with open("/proc/cpuinfo") as listed:
        cpu = next(
            (line.partition(":")[2].strip() for line in listed if line.startswith(("model name", "CPU part"))),
            "unknown",
        )
    with open("/proc/meminfo") as listed:
        memory = int(listed.readline().split()[1]) // (1 << 20)
    with open("/proc/self/mountinfo") as table:
        cgroups = "v1" if any(" - cgroup " in line for line in table) else "v2"
    return [
        ("CPU", f"{cpu}, {os.cpu_count()} cores"),
        ("memory", f"{memory + 1} GiB"),
        ("kernel", f"Linux {platform.release().split('-')[0]}, cgroups {cgroups}"),
        ("wherry", f"{__version__}, Python {platform.python_version()} ({sys.implementation.name})"),
        ("docker CLI", _first_line("docker", "--version")),
        ("dockerd", _first_line("dockerd", "--version")),
        ("containerd", " ".join(_first_line("containerd", "--version").split()[2:3])),
        ("runc", _first_line("runc", "--version")),
    ]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _bound(promise: Promise) -> str:
    return f"1/{round(1 / promise.at_most)}" if promise.at_most <= 0.5 else f"{promise.at_most:g}"


def print_table(rows: Sequence[Row]) -> None:
    table = Table(title="wherry beside its peers (medians)")
    for heading in ("benchmark", "mode", "n", "wherry", "peer", "", "ratio", "promised", "kept"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.promise.name,
            row.mode,
            str(len(row.ours.samples)),
            f"{_number(row.ours.median)} {row.promise.unit}",
            f"{_number(row.theirs.median)} {row.promise.unit}",
            row.promise.peer,
            f"{row.ratio:.3f}",
            f"≤ {_bound(row.promise)}",
            "yes" if row.is_kept else "NO",
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def write(path: Path, rows: Sequence[Row]) -> None:
    """docs/benchmarks.md: made by the benchmark, not by hand."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Medians of alternating samples (wherry, peer, wherry, …) on an otherwise idle machine, the same docker CLI for",
        "both engines; the ratio is wherry's median divided by the peer's. What is promised is in [SPECIFICATION.md](SPECIFICATION.md).",
        "",
        "| work | samples | n | wherry | peer | ratio | promised |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        unit = row.promise.unit
        lines.append(
            f"| {row.promise.what} | {row.mode} | {len(row.ours.samples)} | {_number(row.ours.median)} {unit} "
            f"| {_number(row.theirs.median)} {unit} ({row.promise.peer}) | {row.ratio:.3f} | ≤ {_bound(row.promise)} |"
        )
    lines += ["", "## The machine", "", *(f"- {name}: {value}" for name, value in machine_facts()), ""]
    path.write_text("\n".join(lines))
