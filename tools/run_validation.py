"""run_validation.py RUNTIME FOLDER EXPECTED: the compiled programs of runtime-tools' validation against an OCI runtime.

FOLDER is the suite's own directory (its programs take their root file system and `runtimetest` from the current one)
with the compiled programs in `_bin`. Each program's exit status and its "not ok" lines are compared with EXPECTED: what
is not named there has to exit with 0 and without such a line; what is named and does not happen is said, too, so that
the list stays true.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TIMEOUT = 60
_NOT_OK = re.compile(r"^\s*not ok \d+ (?:- )?(.*)$", re.MULTILINE)


def expected(path: Path) -> dict[str, list[str]]:
    """{program: the beginnings of the lines that may be not ok, "" for any and for another exit status}. The file: "program: line  # reason"."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        entry = line.partition("#")[0].strip()
        if entry:
            name, _, text = entry.partition(":")
            found.setdefault(name.strip(), []).append(text.strip())
    return found


def run(program: Path, runtime: str, folder: Path) -> tuple[int, list[str]]:
    """(exit status, "not ok" lines without their numbers)."""
    try:
        done = subprocess.run(
            [program],
            cwd=folder,
            env={**os.environ, "RUNTIME": runtime},
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, [f"no end after {TIMEOUT} s"]
    return done.returncode, _NOT_OK.findall(done.stdout.decode(errors="replace"))


def main(runtime: str, folder: Path, list_of_exceptions: Path) -> int:
    exceptions = expected(list_of_exceptions)
    unexpected = passed = 0
    for program in sorted((folder / "_bin").iterdir()):
        status, failures = run(program, runtime, folder)
        allowed = exceptions.get(program.name, [])
        bad = [line for line in failures if not any(line.startswith(text) for text in allowed)]
        if bad or (status and "" not in allowed):
            unexpected += 1
            print(f"{program.name}: exit status {status}; not ok: {'; '.join(bad) or 'nothing'}")
        elif allowed and not failures and not status:
            print(f"{program.name}: passes, though {list_of_exceptions.name} excepts it")
        passed += not (status or failures)
    print(f"runtime-tools validation with {runtime}: {passed} programs pass in full, {unexpected} fail unexpectedly")
    return 1 if unexpected or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
