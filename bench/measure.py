"""The measurements. Each takes one sample of one side; `alternate` takes them in turns, A then B, so that drift hits both alike."""

from __future__ import annotations

import os
import secrets
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.engines import IMAGE, Engine, program

Sample = Callable[[], float]
FEW_CONTAINERS, MORE_CONTAINERS = 10, 20
REST_SECONDS = 3
"""Until what a start has used is given back."""


@dataclass(frozen=True)
class Result:
    """The samples of one side, in the unit of the benchmark."""

    samples: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


def alternate(ours: Sample, theirs: Sample, count: int, pause_seconds: float) -> tuple[Result, Result]:
    """`count` samples of each, in turns, after one of each that does not count; `pause_seconds` of rest before every sample."""
    mine, others = [], []
    for turn in range(count + 1):
        for sample, into in ((ours, mine), (theirs, others)):
            time.sleep(pause_seconds)
            value = sample()
            if turn:
                into.append(value)
    return Result(mine), Result(others)


def timed(words: Sequence[str], environment: dict[str, str] | None = None, cwd: str | None = None) -> float:
    """Milliseconds that a command takes; RuntimeError when it fails."""
    begin = time.perf_counter()
    done = subprocess.run(words, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    taken = (time.perf_counter() - begin) * 1000
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.decode(errors='replace')}")
    return taken


def docker_run(engine: Engine, network: str) -> Sample:
    flags = ["--network", network] if network != "bridge" else []
    return lambda: timed(["docker", "run", "--rm", *flags, IMAGE, "true"], engine.environment)


def docker_exec(engine: Engine) -> Sample:
    engine.docker("run", "-d", "--name=bench", "--network=none", IMAGE, "sleep", "100000")
    return lambda: timed(["docker", "exec", "bench", "true"], engine.environment)


def api_cycle(engine: Engine, network: str) -> Sample:
    """create + start + wait + delete over one connection that is kept alive."""
    connection = engine.connection()
    wanted = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"NetworkMode": network}}

    def once() -> float:
        begin = time.perf_counter()
        ref = connection.call("POST", "/containers/create", wanted)["Id"]
        connection.call("POST", f"/containers/{ref}/start")
        code = connection.call("POST", f"/containers/{ref}/wait")["StatusCode"]
        connection.call("DELETE", f"/containers/{ref}")
        taken = (time.perf_counter() - begin) * 1000
        if code:
            raise RuntimeError(f"{engine.name}: exit {code}")
        return taken

    return once


def shims_memory(engine: Engine) -> Result:
    """MB that one more idle container costs: what the PSS of all shims together grows by from FEW_CONTAINERS on, for each of MORE_CONTAINERS.

    A single shim's PSS would count a share of what all have in common, which one more does not cost again.
    """
    connection = engine.connection()
    refs: list[str] = []
    sums = []
    for count in (FEW_CONTAINERS, MORE_CONTAINERS):
        refs += [engine.docker("run", "-d", "--network=none", IMAGE, "sleep", "100000").strip() for _ in range(count)]
        time.sleep(REST_SECONDS)
        inits = [connection.call("GET", f"/containers/{ref}/json")["State"]["Pid"] for ref in refs]
        sums.append(sum(pss_megabytes(_parent(init)) for init in inits))
    for ref in refs:
        connection.call("DELETE", f"/containers/{ref}?force=1")
    return Result([(sums[1] - sums[0]) / MORE_CONTAINERS])


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def pss_megabytes(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


def _runtime(name: str) -> tuple[str, dict[str, str]]:
    """The runtime's program (wherry's is the installed one) and its environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return program(name) if name == "wherry-runc" else name, environment


def runc_run(name: str, bundle: str) -> Sample:
    """`NAME run` of a bundle whose program is `true`."""
    path, environment = _runtime(name)
    return lambda: timed([path, "run", f"bench-{secrets.token_hex(4)}"], environment, bundle)


def _create(path: str, environment: dict[str, str], bundle: str, ref: str) -> int:
    """Makes a container that waits for `start`; the pid of its init. Its output goes nowhere, as no pipe of ours would end before it does."""
    pid_file = f"{bundle}/pid"
    words = [path, "create", "--pid-file", pid_file, ref]
    null = subprocess.DEVNULL
    subprocess.run(words, env=environment, cwd=bundle, stdin=null, stdout=null, stderr=null, check=True)
    with open(pid_file) as file:
        return int(file.read())


def runc_steps(name: str, bundle: str) -> Sample:
    """`create`, `start` and `delete`, the three calls together; the end of the program between the last two is waited for and not counted."""
    path, environment = _runtime(name)

    def once() -> float:
        ref = f"bench-{secrets.token_hex(4)}"
        begin = time.perf_counter()
        pid = _create(path, environment, bundle, ref)
        taken = (time.perf_counter() - begin) * 1000
        pidfd = os.pidfd_open(pid)
        taken += timed([path, "start", ref], environment)
        select.select([pidfd], [], [])
        os.close(pidfd)
        return taken + timed([path, "delete", ref], environment)

    return once


def runc_waiting(name: str, bundle: str) -> Sample:
    """MB of the init that waits between `create` and `start`. What other processes have of its program's file in memory counts in part (PSS)."""
    path, environment = _runtime(name)

    def once() -> float:
        ref = f"bench-{secrets.token_hex(4)}"
        megabytes = pss_megabytes(_create(path, environment, bundle, ref))
        timed([path, "delete", "--force", ref], environment)
        return megabytes

    return once
