"""`docker top` on the machine's own ps."""

from __future__ import annotations

import asyncio
import os

import pytest

from wherry.engine import top
from wherry.errors import FailedPrecondition


def test_rows_are_those_of_the_given_processes() -> None:
    answer = asyncio.run(top.top([os.getpid()], "-o pid,ppid"))
    assert answer == {"Titles": ["PID", "PPID"], "Processes": [[str(os.getpid()), str(os.getppid())]]}


def test_a_ps_that_writes_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "_PS", ("/bin/yes",))
    with pytest.raises(FailedPrecondition, match="ps wrote more than"):
        asyncio.run(top._run_ps(["x"]))
