"""v1's terms in v2's files, on a directory that stands for a group."""

from pathlib import Path

import pytest

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.linux.cgroups import v2_resources
from wherry.spec.oci import Resources


@pytest.fixture
def group(tmp_path: Path) -> Path:
    for name in (
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.max",
        "cpu.weight",
        "pids.max",
        "io.max",
        "io.weight",
    ):
        (tmp_path / name).write_text("max 100000\n" if name == "cpu.max" else "")
    (tmp_path / "cgroup.controllers").write_text("memory cpu pids io\n")
    return tmp_path


@pytest.mark.parametrize(("shares", "weight"), [(0, 0), (1, 1), (2, 1), (1024, 100), (262144, 10000), (1 << 30, 10000)])
def test_the_default_of_shares_is_the_default_of_weight(shares: int, weight: int) -> None:
    assert v2_resources.weight_of_shares(shares) == weight


@pytest.mark.parametrize(
    ("resources", "file", "text"),
    [
        ({"memory": {"limit": 1 << 26}}, "memory.max", str(1 << 26)),
        ({"memory": {"limit": -1}}, "memory.swap.max", "max"),
        ({"memory": {"limit": 1 << 26, "swap": 1 << 27}}, "memory.swap.max", str(1 << 26)),
        ({"memory": {"limit": 1 << 26, "swap": 1 << 26}}, "memory.swap.max", "0"),
        ({"memory": {"reservation": 4096}}, "memory.low", "4096"),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000"),
        ({"cpu": {"quota": -1}}, "cpu.max", "max"),
        ({"cpu": {"period": 200000}}, "cpu.max", "max 200000"),
        ({"pids": {"limit": -1}}, "pids.max", "max"),
        ({"blockIO": {"weight": 1000}}, "io.weight", "default 10000"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}}, "io.max", "8:0 rbps=7"),
        ({"unified": {"memory.low": "1"}}, "memory.low", "1"),
    ],
)
def test_value_in_its_file(group: Path, resources: Resources, file: str, text: str) -> None:
    v2_resources.apply(str(group), resources)
    assert (group / file).read_text().startswith(text)


@pytest.mark.parametrize(
    ("resources", "kind", "named"),
    [
        ({"memory": {"swappiness": 10}}, FailedPrecondition, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, FailedPrecondition, "memory.disableOOMKiller"),
        ({"memory": {"swap": 4096}}, InvalidArgument, "memory.swap"),
        ({"memory": {"limit": 4096, "swap": 1}}, InvalidArgument, "memory.swap"),
        ({"cpu": {"realtimeRuntime": 1}}, FailedPrecondition, "cpu.realtimeRuntime"),
        ({"cpu": {"cpus": "0"}}, FailedPrecondition, "cpuset cgroup controller"),
        ({"blockIO": {"leafWeight": 10}}, FailedPrecondition, "blockIO.leafWeight"),
        ({"network": {"classID": 1}}, FailedPrecondition, "network"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, FailedPrecondition, "hugepageLimits"),
        ({"unified": {"../x": "1"}}, InvalidArgument, "unified"),
        ({"unified": {"memory.nothing": "1"}}, FailedPrecondition, "unified.memory.nothing"),
    ],
)
def test_what_v2_lacks_is_named(group: Path, resources: Resources, kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=named):
        v2_resources.apply(str(group), resources)
