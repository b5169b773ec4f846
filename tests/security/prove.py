"""Proves that the attacks have teeth: takes each defence of `defences.DEFENCES` out of a copy of this tree and sees its tests fail there.

    python -m tests.security.prove [WORD…]      as root; with words only the defences whose words, place or tests contain one of them

Prints a line per defence and ends with 1 when a test does not notice that its defence is gone. The tree itself is never changed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.security.defences import DEFENCES, Defence

HANG_SECONDS, SECONDS = 300, 1200.0
"""For a test, which may hang without its defence, and for all tests of one defence: a busy machine must not be taken for a test that notices."""
REPOSITORY = Path(__file__).resolve().parents[2]


def copy_tree(target: Path) -> None:
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "tests"):
        shutil.copytree(REPOSITORY / name, target / name, symlinks=True, ignore=skip)
    shutil.copy(REPOSITORY / "pyproject.toml", target)


def unnoticed(tree: Path, defence: Defence) -> tuple[str, ...]:
    """The defence's tests that still pass without it, and those that did not run at all."""
    whole: dict[Path, str] = {}
    for edit in (defence, *defence.also):
        place = tree / "src/wherry" / edit.file
        text = place.read_text()
        whole.setdefault(place, text)
        assert text.count(edit.code) == 1, f"{edit.file}: {edit.code!r} is there {text.count(edit.code)} times"
        place.write_text(text.replace(edit.code, edit.without))
    files = sorted({name.partition("::")[0] for name in defence.tests})
    names = [name.partition("::")[2] for name in defence.tests]
    try:
        output = run(
            [
                sys.executable,
                *("-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", f"--timeout={HANG_SECONDS}"),
                *("-k", " or ".join(sorted({name.partition("[")[0] for name in names}))),
                *(str(tree / "tests" / file) for file in files),
            ],
            tree,
        )
    finally:
        for place, text in whole.items():
            place.write_text(text)
    failed = re.findall(r"^FAILED \S+::(\w+(?:\[.*\])?)$", output, re.MULTILINE)
    noticing = {*failed, *(case.partition("[")[0] for case in failed)}
    return tuple(name for name in names if name not in noticing)


def run(command: list[str], tree: Path) -> str:
    """What the command writes. It and all that it has started are killed when it does not end: a broken defence may well hang."""
    with subprocess.Popen(
        command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    return output


def main(words: list[str]) -> int:
    toothless = 0
    with tempfile.TemporaryDirectory(prefix="wherry-prove-") as directory:
        tree = Path(directory)
        tree.chmod(0o755)
        copy_tree(tree)
        for defence in DEFENCES:
            if words and not any(word in f"{defence.what} {defence.file} {' '.join(defence.tests)}" for word in words):
                continue
            passed = unnoticed(tree, defence)
            toothless += len(passed)
            print("TOOTHLESS" if passed else "noticed  ", f"{defence.file}: {defence.what}", *passed, flush=True)
    return 1 if toothless else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
