"""`python -m bench`: run the benchmarks, print the table, write docs/benchmarks.md, fail when a promise is broken."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests import images

from bench import bundle, engines, image_work, measure, registries, report, shim
from bench.promises import PROMISES, Promise

PAUSE_SECONDS = 0.05
MODES = (("back to back", 0.0), ("with pauses of 50 ms", PAUSE_SECONDS))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("-n", type=int, default=20, help="samples of each side (20)")
    parser.add_argument(
        "--only",
        action="append",
        choices=[promise.name for promise in PROMISES],
        help="this benchmark alone; may be repeated",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/benchmarks.md"), help="where a run of all benchmarks is written"
    )
    return parser.parse_args()


def _runtime_rows(promise: Promise, root: Path, count: int) -> Iterator[report.Row]:
    if promise.name == "shim":
        with shim.pair(root) as samples:
            for mode, pause in MODES:  # a sample takes a few ms, and a tenth more or less each time
                yield report.Row(promise, mode, *measure.alternate(*samples, 5 * count, pause))
        return
    path = bundle.make(root / f"bundle-{promise.name}")
    of = {"runc": measure.runc_run, "runc-steps": measure.runc_steps, "runc-waiting": measure.runc_waiting}[
        promise.name
    ]
    ours, theirs = of("wherry-runc", path), of("runc", path)
    for mode, pause in MODES if promise.unit == "ms" else (("one after the other", 0.0),):
        yield report.Row(promise, mode, *measure.alternate(ours, theirs, count, pause))


def _registry_rows(promise: Promise, root: Path, count: int) -> Iterator[report.Row]:
    direction = registries.push if "push" in promise.name else registries.pull
    with registries.both(root / promise.name) as hosts:
        samples = [direction(host, large=not promise.name.endswith("small")) for host in hosts]
        yield report.Row(promise, "back to back", *measure.alternate(samples[0], samples[1], min(count, 5), 0.0))
    shutil.rmtree(root / promise.name)


def _engine_rows(promise: Promise, ours: engines.Engine, theirs: engines.Engine, count: int) -> Iterator[report.Row]:
    match promise.name:
        case "memory":
            mode = f"from {measure.FEW_CONTAINERS} to {measure.FEW_CONTAINERS + measure.MORE_CONTAINERS} containers"
            yield report.Row(promise, mode, measure.shims_memory(ours), measure.shims_memory(theirs))
            return
        case "run-none" | "run-bridge":
            network = promise.name.removeprefix("run-")
            samples = [measure.docker_run(engine, network) for engine in (ours, theirs)]
        case "exec":
            samples = [measure.docker_exec(engine) for engine in (ours, theirs)]
        case "api-none" | "api-bridge":
            network = promise.name.removeprefix("api-")
            samples = [measure.api_cycle(engine, network) for engine in (ours, theirs)]
        case _:
            raise AssertionError(promise.name)
    for mode, pause in MODES:
        yield report.Row(promise, mode, *measure.alternate(samples[0], samples[1], count, pause))


def _image_rows(promises: Sequence[Promise], root: Path, count: int) -> Iterator[report.Row]:
    """All are measured in the same rounds."""
    with image_work.prepared(root / "images") as work:
        values = work.run(min(count, image_work.ROUNDS))
        values["image-memory"] = (measure.Result([work.memory()]), measure.Result([image_work.MEMORY_BOUND]))
    for promise in promises:
        yield report.Row(promise, "one round after the other", *values[promise.name])


def main() -> int:
    arguments = _arguments()
    if os.geteuid() != 0:
        raise SystemExit("bench: containers need root here")
    wanted = [promise for promise in PROMISES if not arguments.only or promise.name in arguments.only]
    root = Path(tempfile.mkdtemp(prefix="wherry-bench-", dir="/tmp"))
    rows: list[report.Row] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        of_images = [promise for promise in wanted if promise.name.startswith("image-")]
        others = [promise for promise in wanted if promise not in of_images]
        beside_dockerd = any(promise.peer == "dockerd" for promise in others)
        if of_images or beside_dockerd:
            stack.enter_context(engines.peer_network())
        if of_images:
            rows += _image_rows(of_images, root, arguments.n)
        if beside_dockerd:
            archive = images.write_docker_archive(str(root / "busybox.tar"), images.busybox_spec(), engines.IMAGE)
            theirs = stack.enter_context(engines.dockerd(root).running(archive))
            ours = stack.enter_context(engines.wherryd(root).running(archive))
        for promise in others:
            print(f"bench: {promise.what}", file=sys.stderr, flush=True)
            if promise.peer == "docker-registry":
                rows += _registry_rows(promise, root, arguments.n)
            elif promise.peer == "dockerd":
                rows += _engine_rows(promise, ours, theirs, arguments.n)
            else:
                rows += _runtime_rows(promise, root, arguments.n)
    report.print_table(rows)
    if not arguments.only:
        report.write(arguments.output, rows)
        print(f"bench: written to {arguments.output}", file=sys.stderr)
    broken = [row for row in rows if not row.is_kept]
    for row in broken:
        print(f"bench: promise broken: {row.promise.what} ({row.mode}): {row.ratio:.3f}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
