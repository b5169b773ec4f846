"""run_bats.py RUNTIME FOLDER EXPECTED [FILE…]: runc's own integration tests against an OCI runtime.

FOLDER is tests/integration of runc's source tree, with the helper programs compiled (its `make recvtty` and so on, in
tests/cmd/_bin); `bats` and `jq` are taken from PATH. Each file runs on a terminal of its own, below a process that reaps
what containers leave: the tests look whether processes are gone, and the first process of a virtual machine may take
its time. What is not ok, also when its file is run a second time, is compared with EXPECTED; what is named there and
passes is said, too, so that the list stays true.
"""

from __future__ import annotations

import ctypes
import os
import pty
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

TIMEOUT, LINGER = int(os.environ.get("BATS_SECONDS", "600")), 5
"""Seconds for a file, an emulated machine takes more; and for bats after its last result."""
_PR_SET_CHILD_SUBREAPER = 36
_RESULT = re.compile(r"^(not ok|ok) \d+ (.*?)(?: in \d+ms)?( # skip.*)?$", re.MULTILINE)


def expected(path: Path) -> dict[str, list[str]]:
    """{file: the beginnings of the tests that may be not ok, "" for any}. The file: "file: test  # reason"."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        entry = "" if line.startswith("#") else line.partition("  # ")[0].strip()
        if entry:
            name, _, text = entry.partition(":")
            found.setdefault(name, []).append(text.strip())
    return found


def run(file: Path, runtime: str) -> str:
    """What bats says of the file, in a temporary directory of its own that users of user namespaces get through."""
    with tempfile.TemporaryDirectory(prefix="bats", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o755)
        return _run(file, runtime, place)


def _unexpected(text: str, allowed: list[str]) -> list[str]:
    failed = [test for result, test, _ in _RESULT.findall(text) if result != "ok"]
    return [test for test in failed if not any(test.startswith(entry) for entry in allowed)]


def _run(file: Path, runtime: str, place: str) -> str:
    """All that bats says of the file, in TAP; what was said until the time was over. A test that fails may leave a process
    that bats waits for: it has a while to end when the last result is there.
    """
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    before = signal.set_wakeup_fd(writing)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(file.parent)
        os.execvpe("bats", ["bats", "--tap", file.name], {**os.environ, "RUNC": runtime, "TMPDIR": place})
    said, ended = bytearray(), False
    deadline, complete = time.monotonic() + TIMEOUT, False
    while not ended and (left := deadline - time.monotonic()) > 0:
        if not complete and (complete := _is_complete(bytes(said))):
            deadline = min(deadline, time.monotonic() + LINGER)
            continue
        ready, _, _ = select.select([terminal, reading], [], [], left)
        if reading in ready:
            os.read(reading, 4096)
            ended = _reap(pid)
        if terminal in ready and not _read(terminal, said):
            ended = True
    if not ended and not complete:
        said += f"\nnot ok 0 {file.stem}: no end after {TIMEOUT} s\n".encode()
    _end_children()
    while select.select([terminal], [], [], 0)[0] and _read(terminal, said):
        pass
    os.close(terminal)
    signal.set_wakeup_fd(before)
    os.close(reading)
    os.close(writing)
    return said.decode(errors="replace").replace("\r\n", "\n")


def _read(terminal: int, said: bytearray) -> bool:
    """False when nobody has the other side any more."""
    try:
        said += os.read(terminal, 1 << 16)
    except OSError:
        return False
    return True


def _is_complete(said: bytes) -> bool:
    plan = re.search(rb"^1\.\.(\d+)\r?$", said, re.MULTILINE)
    return plan is not None and len(re.findall(rb"^(?:not )?ok \d", said, re.MULTILINE)) == int(plan[1])


def _end_children() -> None:
    """bats, where it is still there, and whatever has come to us of what it has left."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in children:
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)


def _reap(pid: int) -> bool:
    """Whether `pid` was among what had ended."""
    found = False
    try:
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            found = found or ended == pid
    except ChildProcessError:
        return True
    return found


def main(runtime: str, folder: Path, list_of_exceptions: Path, *names: str) -> int:
    for program in ("bats", "jq"):
        if shutil.which(program) is None:
            print(f"run_bats: {program} is missing (Debian's package {program})")
            return 1
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    exceptions = expected(list_of_exceptions)
    passed = skipped = excepted = unexpected = 0
    for file in [folder / f"{name}.bats" for name in names] or sorted(folder.glob("*.bats")):
        allowed = exceptions.get(file.stem, [])
        text = run(file, runtime)
        again = (
            run(file, runtime) if _unexpected(text, allowed) else text
        )  # some start their servers without waiting for them
        stays = set(_unexpected(again, allowed))
        used: set[str] = set()
        for result, test, skip in _RESULT.findall(text):
            fitting = [entry for entry in allowed if test.startswith(entry)]
            if result == "ok" or (not fitting and test not in stays):
                passed, skipped = passed + (not skip), skipped + bool(skip)
            elif fitting:
                excepted += 1
                used.update(fitting)
            else:
                unexpected += 1
                print(f"{file.stem}: not ok: {test}")
                print(re.split(r"\n(?:not )?ok ", text[text.find(f"{test}\n") :])[0][:4000])
        if not _RESULT.search(text) and "" not in allowed:
            unexpected += 1
            print(f"{file.stem}: no result: {text[-2000:]}")
        for entry in set(allowed) - used - {""}:
            print(f"{file.stem}: {entry}: not seen to fail, though {list_of_exceptions.name} excepts it")
    print(
        f"runc's tests with {runtime}: {passed} pass, {skipped} skip, {excepted} fail as expected, {unexpected} unexpectedly"
    )
    return 1 if unexpected or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:]))
