"""Removing trees: also beside what an earlier attempt has left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.linux.remove import remove_tree


def test_what_an_interrupted_removal_has_left_is_in_no_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "trash"
    rename, failing = os.rename, True

    def rename_until_the_disk_fails(source: str, target: str, **options: int) -> None:
        nonlocal failing
        rename(source, target, **options)
        if failing:
            failing = False
            raise OSError(5, "the disk")

    monkeypatch.setattr(os, "rename", rename_until_the_disk_fails)
    for name in ("first", "second"):
        (place / name / "fs/below").mkdir(parents=True)
        (place / name / "fs/below/file").touch()
    with pytest.raises(OSError, match="the disk"):
        remove_tree(f"{place}/first")
    monkeypatch.setattr("wherry.linux.remove._numbers", iter(range(100)))  # as after a crash, when a pid comes again
    for name in ("second", "first"):
        remove_tree(f"{place}/{name}")
    left = os.listdir(place)
    assert len(left) == 1 and left[0].startswith(".removing-")
    remove_tree(f"{place}/{left[0]}")
    assert os.listdir(place) == []
