"""What is read of a json-file log that is being rotated."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from wherry.engine import logs
from wherry.spec.calls import LogOptions


def record(text: str) -> str:
    return json.dumps({"log": f"{text}\n", "stream": "stdout", "time": "2026-01-02T03:04:05Z"}) + "\n"


class Rotating:
    """A log of three files, each with one number in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log"
        for number, name in enumerate(("log.2", "log.1", "log")):
            (folder / name).write_text(record(str(number)))
        self.last = 2

    def rotate(self) -> None:
        for number in range(self.last, 0, -1):
            os.rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.rename(self.path, f"{self.path}.1")
        self.last += 1
        self.path.write_text(record(str(self.last)))


def read(path: Path) -> list[int]:
    async def run() -> bytes:
        options, ended = LogOptions(stdout=True, stderr=True), asyncio.Event()
        return b"".join([chunk async for chunk in logs.read(str(path), options, multiplexed=False, ended=ended)])

    return [int(word) for word in asyncio.run(run()).split()]


@pytest.mark.parametrize(
    ("call", "turn"),
    [("listdir", 1), ("listdir", 2), *((call, turn) for call in ("stat", "open") for turn in (1, 2, 3))],
)
def test_no_file_is_missed_that_is_rotated_while_they_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, turn: int
) -> None:
    log, calls, original = Rotating(tmp_path), [0], getattr(os, call)

    def rotated_meanwhile(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        calls[0] += 1
        if calls[0] == turn:
            with monkeypatch.context() as patch:
                patch.setattr(os, call, original)
                log.rotate()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, call, rotated_meanwhile)
        found = read(log.path)
    assert calls[0] >= turn
    assert found in ([0, 1, 2], [0, 1, 2, 3])  # the one that came last may be left to the next reader


def test_a_log_that_is_rotated_without_end_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, listdir = Rotating(tmp_path), os.listdir

    def rotated_meanwhile(folder: str) -> list[str]:
        log.rotate()
        return listdir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", rotated_meanwhile)
        found = read(log.path)
    assert found == sorted(found) and found


def test_a_log_whose_newest_file_is_not_there_yet_is_the_rotated_ones(tmp_path: Path) -> None:
    log = Rotating(tmp_path)
    log.path.unlink()
    assert read(log.path) == [0, 1]


def test_an_absent_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "log") == []
