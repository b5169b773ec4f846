"""Intel RDT on a tree with the form of resctrl's: no machine of CI has the real one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.linux import cgroups
from wherry.runtime import rdt


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name, text in {
        "schemata": "L3:0=7ff;1=7ff\nMB:0=100;1=100\n", "info/L3/cbm_mask": "7ff\n", "info/L3/min_cbm_bits": "1\n",
        "info/L3/num_closids": "16\n", "info/MB/bandwidth_gran": "10\n", "info/MB/delay_linear": "1\n",
        "info/MB/min_bandwidth": "10\n", "info/MB/num_closids": "8\n", "info/last_cmd_status": "ok\n",
        "info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def group(top: Path, **wanted: Any) -> rdt.Group:
    return rdt.Group(wanted, "box", str(top))  # type: ignore[arg-type]


def as_kernel(path: Path, schemata: str = "") -> None:
    """What the kernel puts into a new group."""
    path.mkdir(exist_ok=True)
    (path / "mon_groups").mkdir()
    for name in ("tasks", "schemata"):
        (path / name).write_text(schemata if name == "schemata" else "")


def test_a_group_of_the_containers_own_is_made_and_removed(top: Path) -> None:
    made = group(top)
    made.create()
    assert made.made
    assert (top / "box").is_dir()
    made.delete()
    made.delete()
    assert not (top / "box").exists()


def test_schemata_are_written_in_their_order(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdt.Group, "_mkdir", lambda _self, path: as_kernel(Path(path)) or True)
    group(top, schemata=["L2:0=f"], memBwSchema="MB:0=20", l3CacheSchema="L3:0=7f0;1=1f").create()
    assert (top / "box/schemata").read_text() == "L3:0=7f0;1=1f\nMB:0=20\nL2:0=f\n"


def test_a_named_group_stays_and_must_be_what_is_asked_for(top: Path) -> None:
    as_kernel(top / "gold", "L3:0=07f0;1=001f\nMB:0=20;1=70\n")
    named = group(top, closID="gold", l3CacheSchema="L3:1=1f;0=7F0")
    named.create()
    named.delete()
    assert (top / "gold").is_dir()
    with pytest.raises(FailedPrecondition, match="other schemata"):
        group(top, closID="gold", memBwSchema="MB:0=30").create()
    with pytest.raises(FailedPrecondition, match="made beforehand"):
        group(top, closID="silver").create()
    assert group(top, closID="/").path == str(top)


def test_processes_enter_both_groups(top: Path) -> None:
    as_kernel(top / "gold")
    monitored = group(top, closID="gold", enableMonitoring=True)
    monitored.create()
    (top / "gold/mon_groups/box/tasks").touch()
    cgroups.join(monitored.open_tasks())
    assert (top / "gold/tasks").read_text() == (top / "gold/mon_groups/box/tasks").read_text() == "0"
    os.unlink(top / "gold/mon_groups/box/tasks")
    monitored.delete()
    assert not (top / "gold/mon_groups/box").exists()


def test_figures_are_runcs(top: Path) -> None:
    as_kernel(top / "gold", "L3:0=7f0;1=1f\n   MB:0=20;1=70\n")
    for domain in ("mon_L3_00", "mon_L3_01"):
        (top / f"gold/mon_data/{domain}").mkdir(parents=True)
        for name in ("llc_occupancy", "mbm_total_bytes", "mbm_local_bytes"):
            (top / f"gold/mon_data/{domain}/{name}").write_text("7\n")
    assert group(top, closID="gold").stats() == {
        "schemata": ["L3:0=7f0;1=1f", "   MB:0=20;1=70"],
        "l3_cache_info": {"cbm_mask": "7ff", "min_cbm_bits": 1, "num_closids": 16},
        "l3_cache_schema_root": "L3:0=7ff;1=7ff", "l3_cache_schema": "L3:0=7f0;1=1f",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
        "mem_bw_schema_root": "MB:0=100;1=100", "mem_bw_schema": "MB:0=20;1=70",
        "mbm_stats": [{"mbm_total_bytes": 7, "mbm_local_bytes": 7}] * 2, "cmt_stats": [{"llc_occupancy": 7}] * 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"closID": ".."}, "closID"), ({"closID": "a/b"}, "closID"), ({"l3CacheSchema": "L3:0=1\nMB:0=1"}, "l3CacheSchema"),
        ({"memBwSchema": "L3:0=1"}, "memBwSchema"), ({"schemata": ["L3:0=1\n"]}, "schemata"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_named(top: Path, wanted: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=f"intelRdt.{named}"):
        group(top, **wanted)


def test_what_the_machine_lacks_is_named(top: Path) -> None:
    for path in (top / "info/MB").iterdir():
        path.unlink()
    (top / "info/MB").rmdir()
    with pytest.raises(FailedPrecondition, match="Intel RDT/MBA is not enabled"):
        group(top, memBwSchema="MB:0=10")
