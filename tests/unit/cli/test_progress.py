"""Progress: plain lines where nobody watches, bars on a terminal, errors in either."""

from __future__ import annotations

import os
import pty
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wherry.cli.progress import show
from wherry.errors import WherryError

PULL: list[dict[str, Any]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaaa"},
    {"status": "Downloading", "progressDetail": {"current": 10, "total": 2000}, "id": "aaaa"},
    {"status": "Download complete", "progressDetail": {}, "id": "aaaa"},
    {"status": "Extracting", "progressDetail": {"current": 2000, "total": 2000}, "id": "aaaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaaa"},
    {"status": "Digest: sha256:1"},
    {"stream": "Loaded image: x\n"},
]


def shown_on_a_pipe(messages: Iterator[dict[str, Any]], *, quiet: bool = False) -> str:
    reader, writer = os.pipe()
    try:
        show(messages, quiet=quiet, fd=writer)
    finally:
        os.close(writer)
        with os.fdopen(reader) as file:
            text = file.read()
    return text


def shown_on_a_terminal(show_it: Callable[[int], None]) -> str:
    master, slave = pty.openpty()
    try:
        show_it(slave)
        os.write(slave, b"<end>")
        text = b""
        while b"<end>" not in text:
            text += os.read(master, 65536)
        return text.decode()
    finally:
        os.close(slave)
        os.close(master)


def test_a_bar_tells_speed_and_time_left() -> None:
    def slowly() -> Iterator[dict[str, Any]]:
        for current in range(0, 4_000_000, 1_000_000):
            yield {
                "status": "Downloading",
                "progressDetail": {"current": current, "total": 400_000_000},
                "id": "aaaa",
            }
            time.sleep(0.15)  # bars are drawn ten times a second

    text = shown_on_a_terminal(lambda fd: show(slowly(), fd=fd))
    assert re.search(r"Downloading .*3MB/400MB *[\d.]+[kM]B/s \d+:\d\d", text), text


def test_without_a_terminal_every_state_is_a_line_and_bars_are_left_out() -> None:
    assert shown_on_a_pipe(iter(PULL)).splitlines() == [
        "latest: Pulling from library/x",
        "aaaa: Pulling fs layer",
        "aaaa: Download complete",
        "aaaa: Pull complete",
        "Digest: sha256:1",
        "Loaded image: x",
    ]


def test_quiet_shows_nothing_but_reads_all() -> None:
    messages = iter(PULL)
    assert shown_on_a_pipe(messages, quiet=True) == ""
    assert next(messages, None) is None


def test_a_terminal_shows_bars_and_then_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = shown_on_a_terminal(lambda fd: show(iter(PULL), fd=fd))
    assert "Pulling from library/x" in text
    assert "aaaa: Pull complete" in text
    assert "2kB/2kB" in text
    assert text.endswith("Digest: sha256:1\r\nLoaded image: x\r\n<end>")


def test_a_dumb_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert "\033" not in shown_on_a_terminal(lambda fd: show(iter(PULL), fd=fd))


def test_a_pull_that_fails_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")

    def failing() -> Iterator[dict[str, Any]]:
        yield from PULL[:3]
        raise WherryError("connection reset")

    def show_it(fd: int) -> None:
        with pytest.raises(WherryError):
            show(failing(), fd=fd)

    text = shown_on_a_terminal(show_it)
    assert text.rindex("\033[?25h") > text.rindex("\033[?25l"), "the cursor is visible again"
