"""A disk that is nearly full, and what is just being removed from it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wherry.core.trash import Trash
from wherry.engine import room
from wherry.engine.background import Background


def waits(folder: Path, begin: str) -> bool:
    """Whether what is new waits until a tree that is being removed is gone."""
    go_on, removed = threading.Event(), threading.Event()

    def remove(path: str) -> None:
        go_on.wait()
        Path(path).rmdir()
        removed.set()

    folder.mkdir()
    trash = Trash(str(folder / "trash"), remove)
    trash.open()
    (folder / "tree").mkdir()
    trash.put(str(folder / "tree"))
    background = Background()
    services: Any = SimpleNamespace(
        background=background, snapshots=SimpleNamespace(trash=trash), settings=SimpleNamespace(data_root=str(folder))
    )

    async def run() -> bool:
        if begin == "a container's":
            background.start(trash.empty(), name=f"{room.CLEARING} of a container")
        elif begin == "an image's":
            trash.empty_soon()
        made = asyncio.ensure_future(room.make_room(services))
        for _ in range(20):
            await asyncio.sleep(0)
        waited = not made.done()
        go_on.set()
        await made
        if waited:
            assert removed.is_set()
        await background.drain()
        return waited

    return asyncio.run(run())


@pytest.mark.parametrize("begin", ["a container's", "an image's"])
def test_where_little_is_free_what_is_new_waits_for_what_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    assert not waits(tmp_path / "roomy", begin)  # there is room
    monkeypatch.setattr(room, "LOW", 1 << 62)
    assert waits(tmp_path / "full", begin)


def test_where_nothing_goes_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOW", 1 << 62)
    assert not waits(tmp_path / "quiet", "")
