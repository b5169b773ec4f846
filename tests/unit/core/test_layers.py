"""Layers that are being made: what was interrupted is in nobody's way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import pytest

from wherry.core.db import Database
from wherry.core.drivers.overlay import Overlay
from wherry.core.layers import LayerWork, Wanted
from wherry.core.snapshots import Snapshots, Staged
from wherry.core.unpack import Unpacked
from wherry.spec.calls import ProgressSink
from wherry.spec.ids import ChainId, Digest


async def made(staged: Staged, sink: ProgressSink) -> Unpacked:
    return Unpacked()


def wanted(*names: str) -> list[Wanted]:
    return [Wanted(ChainId(name), None, Digest(name), made, lambda message: None) for name in names]


def test_who_is_cancelled_twice_leaves_no_layer_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removing, go_on = threading.Event(), threading.Event()
    remove = Overlay.remove

    def wait_and_remove(self: Overlay, path: str) -> None:
        removing.set()
        assert go_on.wait(300)
        remove(self, path)

    async def main() -> None:
        monkeypatch.setattr(Overlay, "remove", wait_and_remove)
        snapshots = Snapshots(str(tmp_path), database)
        await snapshots.open()
        work, unpacked = LayerWork(snapshots), asyncio.Event()

        async def use() -> None:
            async with work.unpacked(wanted("one", "two")):
                unpacked.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await unpacked.wait()
        task.cancel()
        assert await asyncio.to_thread(removing.wait, 300)
        task.cancel()  # while the first layer is being thrown away
        await asyncio.sleep(0)
        go_on.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with work.unpacked(wanted("one", "two")) as staged:
            assert [os.path.isdir(layer.fs) for layer in staged] == [True, True]
        assert os.listdir(tmp_path / "layers") == os.listdir(tmp_path / "trash") == []

    database = Database(":memory:")
    try:
        asyncio.run(main())
    finally:
        database.close()


def test_a_layer_that_cannot_be_begun_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def full(path: str, mode: int = 0o777) -> None:
        if path.endswith("/fs"):
            raise OSError(28, "the disk is full")
        mkdir(path, mode)

    database = Database(":memory:")
    try:
        snapshots = Snapshots(str(tmp_path), database)
        asyncio.run(snapshots.open())
        monkeypatch.setattr(os, "mkdir", full)
        with pytest.raises(OSError, match="full"):
            snapshots.stage(ChainId("one"), None, Digest("one"))
        assert os.listdir(tmp_path / "layers") == []
    finally:
        database.close()
